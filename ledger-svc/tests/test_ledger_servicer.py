"""The service as its callers see it: wired as in production, over a real channel."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr, ValidationError

from ledger_svc.domain import errors
from ledger_svc.servicer.refusals import ERRORS
from ledger_svc.settings import LedgerSettings
from ledger_svc.store.opening import open_database
from ledger_svc.wiring import build
from meshkit.channels import Dialer
from meshkit.errors import MeshError, mesh_errors
from meshkit.telemetry import Telemetry
from meshkit.testing import TRANSPORTS, FakeClock, linked
from tallygate.common.v1 import money_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.common.v1.principal_pb2 import Principal
from tallygate.ledger.v1 import ledger_pb2 as pb
from tallygate.ledger.v1.ledger_pb2_grpc import LedgerServiceStub

PEPPERS = {1: SecretStr("pepper-for-tests")}
SEED = "b25l" * 10 + "b24"
SIGNING_KEYS = {"2026-11": SecretStr(SEED)}
CREDIT = pb.CREDIT_KIND_PAID
REASON = ErrorReason


class Client:
    """The stub with a deadline on each call."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = LedgerServiceStub(channel)

    def __getattr__(self, rpc: str) -> Callable[[Any], Any]:
        call = getattr(self._stub, rpc)
        return lambda request: call(request, timeout=10)


@pytest.fixture(params=TRANSPORTS)
async def client(
    request: pytest.FixtureRequest, fresh: Callable[[str], AbstractContextManager[str]], clock: FakeClock
) -> AsyncIterator[Client]:
    telemetry = Telemetry.off("ledger")
    with fresh("sqlite") as url:
        settings = LedgerSettings(database_url=url, peppers=PEPPERS, signing_keys=SIGNING_KEYS, revocation_queue=2)
        async with (
            Dialer(telemetry) as dial,
            build(settings, dial, telemetry, clock=clock) as register,
            linked(register, request.param) as channel,
        ):
            yield Client(channel)


async def new_payer(client: Client, credit: int = 10**9, **key: Any) -> tuple[Principal, str]:
    org = await client.CreateOrganization(pb.CreateOrganizationRequest(name="Acme"))
    project = await client.CreateProject(pb.CreateProjectRequest(org_id=org.org_id, name="web"))
    made = await client.CreateKey(
        pb.CreateKeyRequest(org_id=org.org_id, project_id=project.project_id, name="key", **key)
    )
    await client.AddCredit(
        pb.AddCreditRequest(org_id=org.org_id, amount_nano_usd=credit, idempotency_key="first", kind=CREDIT)
    )
    return (await client.Authenticate(pb.AuthenticateRequest(secret=made.secret))).principal, made.secret


def new_facts(**changes: Any) -> pb.ChargeFacts:
    values: dict[str, Any] = {
        "usage": money_pb2.Usage(input_tokens=10, output_tokens=5, provenance=money_pb2.USAGE_PROVENANCE_PROVIDER),
        "price": money_pb2.PriceSnapshot(
            offer_id="openai/gpt-x",
            tier=money_pb2.BILLING_TIER_PASSTHROUGH,
            rate_tiers=[
                money_pb2.RateTier(rates=money_pb2.Rates(input_pico_usd=1_000_000, output_pico_usd=10_000_000))
            ],
            markup_bps=500,
            replay_bps=2_500,
            price_source="genai-prices",
            price_version="0.2.3",
            price_date="2026-11-01",
            catalog_revision="7",
        ),
        "served_mode": pb.SERVED_MODE_FRESH,
        "outcome": pb.OUTCOME_COMPLETE,
        "requested_model": "fast",
        "model": "gpt-x",
        "source_id": "openai",
        "upstream_model": "gpt-x-2026",
        "trace_id": "ab" * 16,
    }
    return pb.ChargeFacts(**values | changes)


@contextmanager
def refused(reason: ErrorReason.ValueType, status: grpc.StatusCode, **metadata: str) -> Iterator[None]:
    with pytest.raises(MeshError) as refusal, mesh_errors():
        yield
    assert (refusal.value.reason, refusal.value.status) == (reason, status), refusal.value
    assert metadata.items() <= refusal.value.metadata.items()
    assert refusal.value.message


async def test_from_credit_to_receipts(client: Client, clock: FakeClock) -> None:
    payer, _ = await new_payer(client)
    hold = await client.Reserve(
        pb.ReserveRequest(principal=payer, request_id="r1", amount_nano_usd=10**6, ttl_ms=5_000, model="gpt-x")
    )
    assert (hold.amount_nano_usd, hold.expires_at_ms) == (10**6, clock.now_ms() + 5_000)
    balance = (await client.GetBalance(pb.GetBalanceRequest(org_id=payer.org_id))).balance
    assert (balance.held_nano_usd, balance.available_nano_usd, balance.open_holds) == (10**6, 10**9 - 10**6, 1)
    attempts = [
        pb.Attempt(offer_id="a/b", started_at_ms=1, duration_ms=2, http_status=503, failure="status"),
        pb.Attempt(offer_id="openai/gpt-x", started_at_ms=4, duration_ms=9, http_status=200, won=True),
    ]
    settle = pb.SettleRequest(org_id=payer.org_id, request_id="r1", facts=new_facts(), attempts=attempts)
    fresh = (await client.Settle(settle)).receipt
    assert (await client.Settle(settle)).receipt == fresh
    assert (fresh.charged_nano_usd, fresh.held_nano_usd, fresh.saved_nano_usd) == (63_000, 10**6, 0)
    assert (fresh.facts, list(fresh.attempts)) == (new_facts(), attempts)
    assert (fresh.request_id, fresh.org_id, fresh.project_id, fresh.key_id, fresh.created_at_ms) == (
        "r1",
        payer.org_id,
        payer.project_id,
        payer.key_id,
        clock.now_ms(),
    )
    clock.advance(1)
    replayed = new_facts(served_mode=pb.SERVED_MODE_EXACT, origin_receipt_id=fresh.receipt_id)
    replay = (await client.Charge(pb.ChargeRequest(principal=payer, request_id="r2", facts=replayed))).receipt
    assert (replay.charged_nano_usd, replay.saved_nano_usd) == (15_750, 47_250)
    found = await client.GetReceipt(pb.GetReceiptRequest(org_id=payer.org_id, receipt_id=replay.receipt_id))
    assert found.receipt == replay
    first = await client.ListReceipts(pb.ListReceiptsRequest(org_id=payer.org_id, page_size=1))
    assert list(first.receipts) == [replay]
    second = await client.ListReceipts(
        pb.ListReceiptsRequest(org_id=payer.org_id, page_size=1, page_token=first.next_page_token)
    )
    assert (list(second.receipts), second.next_page_token) == ([fresh], "")


async def test_a_hold_given_back(client: Client) -> None:
    payer, _ = await new_payer(client, 500)
    await client.Reserve(
        pb.ReserveRequest(principal=payer, request_id="r1", amount_nano_usd=400, ttl_ms=5_000, model="gpt-x")
    )
    release = pb.ReleaseRequest(org_id=payer.org_id, request_id="r1", reason="no source")
    assert (await client.Release(release)).released_nano_usd == 400
    with refused(REASON.ERROR_REASON_HOLD_CLOSED, grpc.StatusCode.FAILED_PRECONDITION):
        await client.Settle(pb.SettleRequest(org_id=payer.org_id, request_id="r1", facts=new_facts()))


async def test_refusals_carry_their_reason_and_facts(client: Client) -> None:
    payer, secret = await new_payer(client, 500, allowed_models=["gpt-*"])

    def reserve(amount: int = 1, model: str = "gpt-x", request_id: str = "r") -> Any:
        return client.Reserve(
            pb.ReserveRequest(principal=payer, request_id=request_id, amount_nano_usd=amount, ttl_ms=5_000, model=model)
        )

    with refused(
        REASON.ERROR_REASON_INSUFFICIENT_BALANCE,
        grpc.StatusCode.FAILED_PRECONDITION,
        available_usd="0.0000005",
        held_usd="0",
        needed_usd="0.000000501",
    ):
        await reserve(501)
    with refused(REASON.ERROR_REASON_MODEL_NOT_ALLOWED, grpc.StatusCode.PERMISSION_DENIED, model="o3"):
        await reserve(model="o3")
    await reserve()
    with refused(REASON.ERROR_REASON_IDEMPOTENCY_CONFLICT, grpc.StatusCode.ALREADY_EXISTS):
        await reserve(2)
    with refused(REASON.ERROR_REASON_NOT_FOUND, grpc.StatusCode.NOT_FOUND):
        await client.Settle(pb.SettleRequest(org_id=payer.org_id, request_id="none", facts=new_facts()))
    with refused(REASON.ERROR_REASON_INVALID_API_KEY, grpc.StatusCode.UNAUTHENTICATED):
        await client.Authenticate(pb.AuthenticateRequest(secret="tg-wrong"))
    keys = (await client.ListKeys(pb.ListKeysRequest(org_id=payer.org_id))).keys
    assert [(key.key_id, key.prefix, list(key.allowed_models)) for key in keys] == [
        (payer.key_id, secret[:9], ["gpt-*"])
    ]
    revoked = await client.RevokeKey(pb.RevokeKeyRequest(key_id=payer.key_id, org_id=payer.org_id))
    assert revoked.key.revoked_at_ms > 0
    for call in (client.Authenticate(pb.AuthenticateRequest(secret=secret)), reserve(request_id="r2")):
        with refused(REASON.ERROR_REASON_API_KEY_REVOKED, grpc.StatusCode.UNAUTHENTICATED):
            await call


@pytest.mark.parametrize(
    ("facts", "param"),
    [
        (pb.ChargeFacts(), "facts.usage"),
        (new_facts(price=money_pb2.PriceSnapshot()), "facts.price"),
        (new_facts(price=money_pb2.PriceSnapshot(tier=money_pb2.BILLING_TIER_FLAT)), "facts.price"),
        (new_facts(usage=money_pb2.Usage(input_tokens=-1, provenance=1)), "facts.usage"),  # type: ignore[arg-type]
        (new_facts(served_mode=pb.SERVED_MODE_UNSPECIFIED), "facts.served_mode"),
        (new_facts(outcome=pb.OUTCOME_UNSPECIFIED), "facts.outcome"),
        (new_facts(model=""), "facts.model"),
        (new_facts(source_id="a\nb"), "facts.source_id"),
    ],
)
async def test_malformed_facts_are_refused_by_name(facts: pb.ChargeFacts, param: str, client: Client) -> None:
    with refused(REASON.ERROR_REASON_INVALID_REQUEST, grpc.StatusCode.INVALID_ARGUMENT, param=param):
        await client.Settle(pb.SettleRequest(org_id="org", request_id="r", facts=facts))


async def test_malformed_credit_is_refused_by_name(client: Client) -> None:
    for request, param in (
        (pb.AddCreditRequest(org_id="o", amount_nano_usd=1, idempotency_key="k"), "kind"),
        (pb.AddCreditRequest(org_id="o", amount_nano_usd=0, idempotency_key="k", kind=CREDIT), "amount_nano_usd"),
        (pb.AddCreditRequest(org_id="o", amount_nano_usd=1, kind=CREDIT), "idempotency_key"),
    ):
        with refused(REASON.ERROR_REASON_INVALID_REQUEST, grpc.StatusCode.INVALID_ARGUMENT, param=param):
            await client.AddCredit(request)


async def test_watchers_are_told_of_revocations(client: Client) -> None:
    payer, _ = await new_payer(client)
    watches = [client.WatchRevocations(pb.WatchRevocationsRequest()) for _ in range(2)]
    for watch in watches:
        assert (await watch.read()).key_id == ""
    await client.RevokeKey(pb.RevokeKeyRequest(key_id=payer.key_id))
    for watch in watches:
        assert (await watch.read()).key_id == payer.key_id
        watch.cancel()


def test_every_refusal_of_the_domain_has_its_own_reason() -> None:
    refusals = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.LedgerError) and value is not errors.LedgerError
    }
    assert set(ERRORS) == refusals
    kinds = {refusal for refusal in refusals if errors.LedgerError in refusal.__bases__}
    assert len({ERRORS[kind][1] for kind in kinds}) == len(kinds)
    for refusal in refusals - kinds:
        assert ERRORS[refusal] == ERRORS[refusal.__mro__[1]]


@pytest.mark.parametrize("peppers", [{}, {1: "short"}, {0: "sixteen characters"}])
def test_a_ledger_without_a_strong_pepper_does_not_start(peppers: dict[int, str]) -> None:
    with pytest.raises(ValidationError, match="pepper"):
        LedgerSettings.model_validate({"peppers": peppers})


def test_settings_do_not_show_a_secret() -> None:
    shown = repr(LedgerSettings(peppers=PEPPERS, signing_keys=SIGNING_KEYS))
    assert "pepper-for-tests" not in shown
    assert SEED not in shown


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"signing_keys": {}}, "at least one signing key"),
        ({"signing_keys": {"2026-11": "c2hvcnQ"}}, "32 bytes"),
        ({"signing_kid": "2026-12"}, "no signing key 2026-12"),
        ({"retired_keys": {"2026-10": "c2hvcnQ"}}, "32 bytes"),
        ({"retired_keys": {"2026-11": "b25l" * 10 + "b24"}}, "either signing or retired"),
        ({"log_origin": "two words"}, "origin"),
    ],
)
def test_a_ledger_that_could_not_sign_does_not_start(change: dict[str, Any], why: str) -> None:
    right = {"peppers": {1: "pepper-for-tests"}, "signing_keys": {"2026-11": SEED}}
    assert LedgerSettings.model_validate(right).keyring().signing_kid == "2026-11"
    with pytest.raises(ValidationError, match=why) as refusal:
        LedgerSettings.model_validate(right | change)
    assert "input_value" not in str(refusal.value), "it would show the secrets beside"


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_a_database_that_the_ledger_does_not_run_on_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="database_url"):
        open_database(url, connections=1, wait_s=1)


@pytest.mark.parametrize("url", ["postgresql://u:p@127.0.0.1:1/none", "sqlite:////nowhere/at/all.db"])
async def test_a_database_that_is_not_there_is_unavailable(url: str) -> None:
    settings = LedgerSettings(database_url=url, peppers=PEPPERS, signing_keys=SIGNING_KEYS, database_wait_s=2)
    telemetry = Telemetry.off("ledger")
    async with Dialer(telemetry) as dial:
        with pytest.raises(errors.LedgerUnavailable):
            async with build(settings, dial, telemetry):
                raise AssertionError("built")


@pytest.mark.timeout(120)
async def test_the_process_serves_keeps_its_books_and_ends_on_sigterm(tmp_path: Path) -> None:
    socket = f"unix://{tmp_path}/s" if len(str(tmp_path)) < 90 else f"unix:///tmp/ledger-{os.getpid()}"
    env = os.environ | {
        "TALLYGATE_LEDGER_LISTEN": socket,
        "TALLYGATE_LEDGER_DATABASE_URL": f"sqlite:///{tmp_path}/books.db",
        "TALLYGATE_LEDGER_PEPPERS": '{"1": "pepper-for-tests"}',
        "TALLYGATE_LEDGER_SIGNING_KEYS": json.dumps({"2026-11": SEED}),
    }
    telemetry, org_id = Telemetry.off("test"), ""
    for life in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ledger_svc", env=env, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        logged = b""
        while b'"serving"' not in logged:
            line = await process.stderr.readline()
            assert line, f"it ended before it served: {logged.decode()}"
            logged += line
        async with Dialer(telemetry) as dial:
            stub = LedgerServiceStub(dial(socket))
            if life == 0:
                org_id = (await stub.CreateOrganization(pb.CreateOrganizationRequest(name="Acme"), timeout=30)).org_id
            balance = await stub.GetBalance(pb.GetBalanceRequest(org_id=org_id), timeout=30)
            assert balance.balance.org_id == org_id
            watch: Any = stub.WatchRevocations(pb.WatchRevocationsRequest(), timeout=60)
            assert (await watch.read()).key_id == ""
            process.send_signal(signal.SIGTERM)
            logged += await asyncio.wait_for(process.stderr.read(), 50)
        assert await process.wait() == 0, logged.decode()
        assert b"Traceback" not in logged
