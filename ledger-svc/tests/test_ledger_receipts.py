"""The receipt's document, and reading receipts by id and by page."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from ledger_svc.domain.charges import Attempt, ChargeFacts, Outcome, ServedMode
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.receipts import Receipt, decode, encode, price_sha256
from ledger_svc.domain.settling import Charge, Settle
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.receipts import ReceiptService
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
AMOUNTS = st.integers(0, 10**17)
UNITS = st.integers(0, 10**12)
RATES = st.builds(Rates, **dict.fromkeys(Rates.__dataclass_fields__, st.integers(0, 10**15)))
PRICES = st.builds(
    PriceSnapshot,
    TEXTS,
    st.sampled_from(BillingTier),
    st.tuples(st.builds(RateTier, st.just(0), RATES), st.builds(RateTier, st.integers(1, 10**9), RATES)),
    st.integers(0, 10**6),
    st.integers(0, 10_000),
    TEXTS,
    TEXTS,
    TEXTS,
    TEXTS,
)
USAGES = st.builds(
    Usage,
    **{name: UNITS for name in Usage.__dataclass_fields__ if name != "provenance"},
    provenance=st.sampled_from(Provenance),
)
TAG_KEYS = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5)
TAGS = st.dictionaries(TAG_KEYS, TEXTS, max_size=4).map(lambda tags: tuple(sorted(tags.items())))
FACTS = st.builds(
    ChargeFacts,
    *(USAGES, PRICES, st.sampled_from(ServedMode), st.sampled_from(Outcome)),
    *[TEXTS] * 8,
    TAGS,
    st.integers(0, 2**53 - 1),
)
ATTEMPTS = st.builds(
    Attempt, TEXTS, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1), st.integers(0, 999), st.booleans(), TEXTS
)
RECEIPTS = st.builds(
    Receipt,
    *[TEXTS] * 6,
    FACTS,
    *[AMOUNTS] * 4,
    st.lists(ATTEMPTS, max_size=3).map(tuple),
    st.integers(0, 2**53 - 1),
)


@given(RECEIPTS)
def test_a_document_is_canonical_and_gives_the_receipt_back(receipt: Receipt) -> None:
    document = encode(receipt)
    assert decode(document) == receipt
    assert decode(document).facts.price.catalog_revision == receipt.facts.price.catalog_revision
    assert rfc8785.dumps(json.loads(document)).decode() == document


def test_a_document_carries_amounts_as_decimal_strings(new_facts: NewFacts) -> None:
    facts = new_facts(prompt=3, answer=2, mode=ServedMode.EXACT)
    receipt = Receipt(
        "rcpt_1", "hold_1", "req", "org", "prj", "key", facts, 5_750, 5_750, 17_250, 0, (), 1_750_000_000_000
    )
    document = json.loads(encode(receipt))
    assert document["v"] == 3
    assert (document["held_usd"], document["charged_usd"]) == ("0.00000575", "0.00000575")
    assert (document["saved_usd"], document["absorbed_usd"]) == ("0.00001725", "0")
    assert document["served_mode"] == "exact"
    assert document["origin_receipt_id"] == "rcpt_origin"
    assert document["usage"]["output_tokens"] == 2
    assert document["price"]["rate_tiers"][0]["output_pico_usd"] == "10000000"
    assert not any(isinstance(value, float) for value in document.values())


def test_a_document_of_another_version_is_refused(new_facts: NewFacts) -> None:
    receipt = Receipt("r", "h", "q", "o", "p", "k", new_facts(), 0, 0, 0, 0, (), 0)
    with pytest.raises(ValueError, match="version"):
        decode(encode(receipt).replace('"v":3', '"v":4'))


def conforms(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> None:
    """What of JSON Schema the receipt's schema uses."""
    assert schema.keys() <= {
        *("$ref", "$schema", "$id", "$defs", "title", "description", "type", "enum", "const", "pattern", "minimum"),
        *("maximum", "maxItems", "items", "properties", "required", "additionalProperties"),
        *("maxProperties", "maxLength"),
    }
    assert schema.get("description") or "title" in schema
    if "$ref" in schema:
        conforms(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root)
    if "const" in schema or "enum" in schema:
        assert value in schema.get("enum", [schema.get("const")])
        return
    kinds = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}
    if "type" in schema:
        assert type(value) is kinds[schema["type"]]
    if "pattern" in schema:
        assert re.search(schema["pattern"], value), (schema["pattern"], value)
    if "minimum" in schema:
        assert schema["minimum"] <= value <= schema["maximum"]
    if "items" in schema:
        assert len(value) <= schema["maxItems"]
        for item in value:
            conforms(schema["items"], item, root)
    if "maxProperties" in schema:
        assert len(value) <= schema["maxProperties"]
        for part in value.values():
            conforms(schema["additionalProperties"], part, root)
    if "properties" in schema:
        assert schema["additionalProperties"] is False
        assert set(value) == set(schema["properties"]) == set(schema["required"])
        for name, part in value.items():
            conforms(schema["properties"][name], part, root)


DIGESTS = st.sampled_from(["", "0" * 32 + ":" + "f" * 64])


@given(RECEIPTS, DIGESTS, DIGESTS)
def test_a_document_is_what_its_schema_says(receipt: Receipt, request: str, answer: str) -> None:
    schema = json.loads((Path(__file__).parents[1] / "receipt-3.schema.json").read_text(encoding="utf-8"))
    facts = replace(receipt.facts, request_digest=request, answer_digest=answer)
    document = json.loads(encode(replace(receipt, facts=facts)))
    conforms(schema, document, schema)
    hashed = hashlib.sha256(rfc8785.dumps(document["price"])).hexdigest()
    assert document["price_sha256"] == hashed


def test_a_document_of_version_1_stays_as_it_was(new_facts: NewFacts) -> None:
    """Receipts from before the log are signed as they are."""
    document = encode(Receipt("r", "h", "q", "o", "p", "k", new_facts(), 0, 0, 0, 0, (), 0, version=1))
    assert not {"price_sha256", "request_digest", "answer_digest"} & json.loads(document).keys()
    assert encode(decode(document)) == document


def test_a_document_of_version_2_stays_as_it_was(new_facts: NewFacts) -> None:
    """Receipts from before tags are signed as they are."""
    document = encode(Receipt("r", "h", "q", "o", "p", "k", new_facts(), 0, 0, 0, 0, (), 0, version=2))
    assert "price_sha256" in json.loads(document)
    assert not {"tags", "started_at_ms"} & json.loads(document).keys()
    assert encode(decode(document)) == document


def test_prices_that_differ_only_in_their_revision_have_their_own_hashes(new_facts: NewFacts) -> None:
    price = new_facts().price
    assert price == replace(price, catalog_revision="8")
    assert price_sha256(price) != price_sha256(replace(price, catalog_revision="8"))


@pytest.mark.parametrize("digest", ["x", "0" * 64, "0" * 31 + ":" + "0" * 64, "A" * 32 + ":" + "0" * 64, "\n"])
async def test_a_digest_in_another_form_is_refused(
    digest: str, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(10**6)
    right = new_facts(answer=1, mode=ServedMode.EXACT)
    changed = {
        "request_digest": replace(right, request_digest=digest),
        "answer_digest": replace(right, answer_digest=digest),
    }
    for name, facts in changed.items():
        with pytest.raises(InvalidRequest) as refusal:
            await charging.charge(payer, "req", facts=facts)
        assert refusal.value.metadata["param"] == f"facts.{name}"


async def test_a_settlement_sent_again_with_another_salt_is_the_same(
    charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer, facts = await new_payer(10**6), new_facts(answer=1, mode=ServedMode.EXACT)
    first, again = (replace(facts, request_digest=salt * 32 + ":" + "0" * 64) for salt in "ab")
    receipt = await charging.charge(payer, "req", facts=first)
    assert await charging.charge(payer, "req", facts=again) == receipt
    assert receipt.facts.request_digest == first.request_digest


async def test_pages_of_receipts_are_newest_first_without_gap_or_repeat(
    charging: ChargingService, receipts: ReceiptService, clock: FakeClock, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer, other = await new_payer(10**6), await new_payer(10**6)
    written = []
    for n in range(7):
        facts = new_facts(answer=1, mode=ServedMode.EXACT)
        written.append(await charging.charge(payer, f"req-{n}", facts=facts))
        await charging.charge(other, f"req-{n}", facts=facts)
        clock.advance(n % 2)
    found, token, pages = [], "", 0
    while True:
        page, token = await receipts.page(payer.org_id, page_size=3, page_token=token)
        found += page
        pages += 1
        if not token:
            break
    assert found == written[::-1]
    assert pages == 3
    assert (await receipts.page(payer.org_id, page_size=0, page_token=""))[1] == ""
    assert await receipts.page("org_none", page_size=7, page_token="") == ([], "")
    assert await receipts.page(payer.org_id, page_size=7, page_token="") == (written[::-1], "")


@pytest.mark.parametrize("token", ["x", "!!", "bm8=", "WzFd", "WyJhIiwiYiJd", "W3RydWUsImIiXQ==", "e30=", "NQ==", "é"])
async def test_a_made_up_page_token_is_refused(token: str, receipts: ReceiptService) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await receipts.page("org", page_size=1, page_token=token)
    assert refusal.value.metadata["param"] == "page_token"


async def test_a_receipt_of_another_organisation_is_not_found(
    charging: ChargingService, receipts: ReceiptService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer, other = await new_payer(10**6), await new_payer()
    receipt = await charging.charge(payer, "req", facts=new_facts(answer=1, mode=ServedMode.EXACT))
    assert (await receipts.get("", receipt.receipt_id)).receipt == receipt
    for org_id, receipt_id in ((other.org_id, receipt.receipt_id), (payer.org_id, "rcpt_none")):
        with pytest.raises(NotFound):
            await receipts.get(org_id, receipt_id)
    for page_size in (-1, 1_001):
        with pytest.raises(InvalidRequest):
            await receipts.page(payer.org_id, page_size=page_size, page_token="")


PRICED_TWICE = PriceSnapshot(
    "openai/gpt-x",
    BillingTier.PASSTHROUGH,
    (RateTier(0, Rates(input_pico_usd=1, output_pico_usd=2)), RateTier(5, Rates(cached_input_pico_usd=3))),
    500,
    2_500,
    *("s", "v", "d", "7"),
)
USED = Usage(1, 2, 3, 4, 5, 6, 7, 8, Provenance.PROVIDER)
SETTLED = ChargeFacts(
    *(USED, PRICED_TWICE, ServedMode.FRESH, Outcome.COMPLETE),
    *("asked", "model", "source", "upstream"),
    trace_id="trace",
    request_digest="0" * 32 + ":" + "1" * 64,
    answer_digest="0" * 32 + ":" + "2" * 64,
    tags=(("a", "b"), ("c", "d")),
    started_at_ms=9,
)
TRIED = (Attempt("o/1", 1, 2, 500, won=False, failure="error"), Attempt("o/2", 3, 4, 200, won=True))


@pytest.mark.parametrize(
    ("version", "digest"),
    [
        (1, "f33ded07cd9a731593c3a74830630d0d61d1b254227d74d227c8e1bf45a7b159"),
        (2, "67b771295f86d12196cd73c8882f8f2f275a8a3df20e94e85ea5fdb10ab18287"),
        (3, "a293be4b16cd9f5bc9e35153014bd5f28415677e489ae3251f7c9bcecd720ed0"),
    ],
)
def test_a_receipt_is_written_as_it_always_was(version: int, digest: str) -> None:
    """What was signed once must come out the same, to the byte, in every build that comes after."""
    receipt = Receipt("r", "h", "q", "o", "p", "k", SETTLED, 5, 4, 3, 2, TRIED, 1, version=version)
    assert hashlib.sha256(encode(receipt).encode()).hexdigest() == digest


def test_a_command_sent_again_after_an_upgrade_is_the_same() -> None:
    """Fingerprints are stored: another one for the same command would be a conflict."""
    settle = Settle("org", "req", SETTLED, TRIED, "rcpt", "xfer", 1)
    charge = Charge(Principal("org", "proj", "key", ()), "req", SETTLED, "hold", "rcpt", "xfer", 1)
    assert settle.fingerprint == "1dd3f2036a673a5c89a5944f7741c3a7d56ec704e74803c15231419582aa51bc"
    assert charge.fingerprint == "1aa53b38c2995d3ce026c85c48a596878f1f05dadbfa48f9c4de4bc2ffb16401"
