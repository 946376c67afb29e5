"""The stored form: whatever happens to its bytes, it is the entry or it is poisoned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache_svc.domain.entry import Entry, Poisoned, open_sealed, seal
from meshkit.money import BillingTier, PriceSnapshot

REQUEST = b'{"body":{},"v":1}'


@pytest.fixture(scope="module")
def entry(sample: Any) -> Entry:
    return Entry(
        answer=b'{"choices":[]}',
        epochs=(1, 2, 2**60),
        stored_at_ms=1_750_000_000_123,
        usage=sample.usage,
        price=sample.price,
        receipt_id="rcpt_1",
        source_id="openai",
        upstream_model="gpt-4o-mini-2024-07-18",
    )


def test_what_is_sealed_is_opened(entry: Entry) -> None:
    opened = open_sealed(seal(entry, REQUEST), REQUEST)
    assert opened == entry
    assert opened.price.catalog_revision == entry.price.catalog_revision
    free = replace(entry, price=PriceSnapshot("local/m", BillingTier.FREE, ()))
    assert open_sealed(seal(free, REQUEST), REQUEST) == free


@given(st.data())
def test_any_changed_byte_is_noticed(entry: Entry, data: st.DataObject) -> None:
    blob = bytearray(seal(entry, REQUEST))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Poisoned):
        open_sealed(bytes(blob), REQUEST)


@given(st.data())
def test_any_cut_or_addition_is_noticed(entry: Entry, data: st.DataObject) -> None:
    blob = seal(entry, REQUEST)
    cut = blob[: data.draw(st.integers(0, len(blob) - 1))]
    added = blob + data.draw(st.binary(min_size=1, max_size=4))
    for damaged in (cut, added):
        with pytest.raises(Poisoned):
            open_sealed(damaged, REQUEST)


@given(st.binary(max_size=200))
@example(b"TGC1" + b"\x00" * 44)
@example(b"TGC1" + b"\xff" * 60)
def test_arbitrary_bytes_are_no_entry(blob: bytes) -> None:
    with pytest.raises(Poisoned):
        open_sealed(blob, REQUEST)


@given(st.binary(max_size=20))
def test_an_entry_answers_its_own_request_only(entry: Entry, other: bytes) -> None:
    if other == REQUEST:
        return
    with pytest.raises(Poisoned, match="another request"):
        open_sealed(seal(entry, REQUEST), other)
