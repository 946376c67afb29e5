"""What is recorded of a request, what never is, and that recording fails and delays nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cache_svc.domain.recording import (
    Asked,
    Draft,
    RecordedControls,
    Unfit,
    open_recording,
    record,
    recorded_body,
    seal_recording,
)
from cache_svc.domain.replay import Mode, Tier
from cache_svc.domain.request import NOT_IN_KEY, read_request
from cache_svc.service import (
    BadRequest,
    Drop,
    QueueLimits,
    RecordBounds,
    Recorder,
    Recordings,
    StoreUnavailable,
)
from cache_svc.store.memory_records import MemoryRecords
from meshkit.money import charge_nano_usd
from meshkit.testing import FakeClock

ORG = "org_a"
BOUNDS = RecordBounds(max_records=1_000, max_bytes=10_000_000, ttl_s=600)
LIMITS = QueueLimits(max_record_bytes=100_000, max_waiting_bytes=200_000)


def draft(sample: Any, body: dict[str, Any] | bytes | None = None, **fields: Any) -> Draft:
    """Of a fresh answer, unless ``fields`` say otherwise."""
    subject = sample.subject(sample.request if body is None else body)
    made: dict[str, Any] = {
        "org_id": ORG,
        "project_id": "prj_a",
        "endpoint": subject.endpoint,
        "model": subject.model,
        "policy_epoch": subject.policy_epoch,
        "body": subject.body,
        "asked": Asked(7, RecordedControls()),
        "usage": sample.usage,
        "price": sample.price,
        "answer": orjson.dumps(sample.answer),
        "receipt_id": "rcpt_1",
    }
    return Draft(**made | fields)


class Store(MemoryRecords):
    """A store that can be away, or slow."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(BOUNDS, max_bytes=BOUNDS.max_bytes, clock=clock)
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, org_id: str, blob: bytes, *, asked_at_ms: int) -> bool:
        await self.gate.wait()
        if self.error:
            raise self.error
        return await super().append(org_id, blob, asked_at_ms=asked_at_ms)


class Desk:
    """A recorder that runs, and the reading of what it wrote."""

    def __init__(self, store: Store, recorder: Recorder) -> None:
        self.store, self.recorder = store, recorder
        self.recordings = Recordings(store, recorder, BOUNDS, LIMITS)

    async def all(self, limit: int = 1_000) -> list[Any]:
        found, after = await self.recordings.page(ORG, after="", from_ms=0, limit=limit)
        while after:
            more, after = await self.recordings.page(ORG, after=after, from_ms=0, limit=limit)
            found += more
        return found

    async def drops(self) -> dict[str, int]:
        return {why.value: count for why, count in (await self.recordings.held(ORG))[1].items() if count}


@pytest.fixture
async def desk(clock: FakeClock) -> AsyncIterator[Desk]:
    store = Store(clock)
    async with Recorder(store, clock, LIMITS).running() as recorder:
        yield Desk(store, recorder)


def test_a_record_has_what_a_replay_needs(sample: Any) -> None:
    controls = RecordedControls(Mode.REFRESH, 60, True, Tier.SEMANTIC, 10_000, 3_600, True)
    made = record(
        draft(sample, asked=Asked(7, controls, "sampled"), tier=Tier.CANONICAL, age_ms=5, origin_receipt_id="rcpt_0")
    )
    assert (made.asked_at_ms, made.controls, made.why_not_stored, made.tier) == (7, controls, "sampled", Tier.CANONICAL)
    assert made.fresh_nano_usd == charge_nano_usd(sample.price, sample.usage) == 49_875
    assert made.replay_nano_usd == 12_469, "a quarter, rounded up once"
    assert open_recording(seal_recording(made), max_bytes=10_000) == made


def test_a_stream_is_recorded_as_the_body_that_it_folds_to(sample: Any) -> None:
    top = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [
        {**top, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Se"}, "finish_reason": None}]},
        {**top, "choices": [{"index": 0, "delta": {"content": "ven."}, "finish_reason": "stop"}]},
    ]
    made = record(draft(sample, answer=b"", chunks=[orjson.dumps(chunk) for chunk in chunks]))
    assert orjson.loads(made.answer)["choices"][0]["message"]["content"] == "Seven."


def test_the_body_is_recorded_without_what_names_people_and_requests(sample: Any) -> None:
    named = {"user": "alice@example.com", "safety_identifier": "al-1", "metadata": {"a": "b"}, "stream": True}
    first = orjson.loads(recorded_body(orjson.dumps(sample.request | named), ORG))
    assert set(first) == {"messages", "temperature", "user", "safety_identifier"}
    assert first["messages"] == sample.request["messages"]
    assert b"alice" not in orjson.dumps(first)
    assert b"al-1" not in orjson.dumps(first)
    again = orjson.loads(recorded_body(orjson.dumps(sample.request | named), ORG))
    other = orjson.loads(recorded_body(orjson.dumps(sample.request | {"user": "bob"}), ORG))
    elsewhere = orjson.loads(recorded_body(orjson.dumps(sample.request | named), "org_b"))
    assert first["user"] == again["user"]
    assert len({first["user"], other["user"], elsewhere["user"]}) == 3


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@effort(max_examples=60)
@given(
    one=st.dictionaries(st.sampled_from(["tools", "user", "seed", "stream", "x", "properties"]), _values, max_size=4),
    two=st.dictionaries(st.sampled_from(["tools", "user", "seed", "stream", "x", "properties"]), _values, max_size=4),
)
def test_two_requests_have_one_key_exactly_if_their_records_have(
    sample: Any, one: dict[str, Any], two: dict[str, Any]
) -> None:
    """So that a replay of the records finds what the cache would have found."""

    def address(raw: bytes) -> bytes:
        return read_request(principal=sample.principal, endpoint="e", model="m", policy_epoch="", raw=raw).address

    asked = [orjson.dumps(body) for body in (one, two, one | {"trace_id": "t"})]
    keys = [address(raw) for raw in asked]
    recorded = [address(recorded_body(raw, ORG)) for raw in asked]
    assert [keys[0] == key for key in keys] == [recorded[0] == key for key in recorded]
    for raw in asked:
        assert NOT_IN_KEY.isdisjoint(orjson.loads(recorded_body(raw, ORG)))


def test_a_record_is_one_line_whatever_the_source_sent(sample: Any) -> None:
    pretty = orjson.dumps(sample.answer, option=orjson.OPT_INDENT_2)
    made = record(draft(sample, orjson.dumps(sample.request, option=orjson.OPT_INDENT_2), answer=pretty))
    assert b"\n" not in made.body + made.answer
    assert orjson.loads(made.answer) == sample.answer


@pytest.mark.parametrize("spoilt", ["head", "cut", "grown", "bomb"])
def test_bytes_that_are_no_record_are_none(sample: Any, spoilt: str) -> None:
    blob = seal_recording(record(draft(sample)))
    wrong = {"head": b"TGC1" + blob[4:], "cut": blob[:-9], "grown": blob[:4] + b"\0" + blob[4:], "bomb": blob}[spoilt]
    with pytest.raises(Unfit):
        open_recording(wrong, max_bytes=100 if spoilt == "bomb" else 100_000)


async def test_what_was_noted_is_read_in_its_order(desk: Desk, sample: Any) -> None:
    for number in range(40):
        desk.recorder.note(draft(sample, {"messages": [], "seed": number}))
    assert [orjson.loads(one.body)["seed"] for one in await desk.all(limit=7)] == list(range(40))
    held, _ = await desk.recordings.held(ORG)
    assert held.records == 40
    assert await desk.recordings.page("org_b", after="", from_ms=0, limit=10) == ([], "")


async def test_a_page_of_long_records_is_closed_early(desk: Desk, sample: Any) -> None:
    for _ in range(30):
        desk.recorder.note(draft(sample, {"messages": [], "x": "y" * 90_000}))
        await desk.recorder.flush()
    found, after = await desk.recordings.page(ORG, after="", from_ms=0, limit=1_000)
    assert len(found) == 12
    assert after
    assert len(await desk.all()) == 30


async def test_noting_waits_for_nothing_and_drops_what_does_not_fit(desk: Desk, sample: Any) -> None:
    desk.store.gate.clear()
    big = draft(sample, {"messages": [], "x": "y" * 60_000})
    with capture_logs() as logs:
        for _ in range(5):
            desk.recorder.note(big)  # no await: a request does not wait for it
    assert desk.recorder.drops(ORG)[Drop.BUSY] == 2
    assert [(log["event"], log["records"], log["last_why"]) for log in logs] == [("records_dropped", 1, "busy")]
    desk.store.gate.set()
    assert len(await desk.all()) == 3
    desk.recorder.note(big)
    assert len(await desk.all()) == 4, "there is room again"


async def test_what_can_not_be_recorded_is_counted_and_the_next_is_recorded(
    desk: Desk, sample: Any, clock: FakeClock
) -> None:
    secret = "a prompt that no log may have"
    asked = {"messages": [{"role": "user", "content": secret}]}
    with capture_logs() as logs:
        desk.recorder.note(draft(sample, asked | {"x": "y" * 100_000}))
        desk.recorder.note(draft(sample, orjson.dumps(asked)[:-1]))
        desk.recorder.note(draft(sample, asked, answer=b"no JSON"))
        desk.recorder.note(draft(sample, asked, usage=None))  # a bug, of whatever kind
        await desk.recorder.flush()
        desk.store.error = StoreUnavailable(secret)
        desk.recorder.note(draft(sample, asked))
        await desk.recorder.flush()
        desk.store.error = None
        desk.recorder.note(draft(sample, asked))
        clock.advance(60_000)
        desk.recorder.note(draft(sample, asked, answer=b""))
        assert len(await desk.all()) == 1
    assert await desk.drops() == {"unfit": 5, "away": 1}
    assert [log["records"] for log in logs if log["event"] == "records_dropped"] == [1, 5], "not a line for each"
    assert [log["kind"] for log in logs if log["event"] == "record_failed"] == ["AttributeError"]
    assert secret not in str(logs)


async def test_a_long_record_is_made_beside_the_loop_and_is_the_same(clock: FakeClock, sample: Any) -> None:
    limits = QueueLimits(max_record_bytes=2_000_000, max_waiting_bytes=4_000_000)
    store = Store(clock)
    async with Recorder(store, clock, limits).running() as recorder:
        recorder.note(draft(sample, {"messages": [], "x": "y" * 500_000}))
        (found,), _ = await Recordings(store, recorder, BOUNDS, limits).page(ORG, after="", from_ms=0, limit=9)
    assert len(found.body) > 500_000


async def test_what_waits_is_written_when_the_service_ends(clock: FakeClock, sample: Any) -> None:
    store = Store(clock)
    async with Recorder(store, clock, LIMITS).running() as recorder:
        recorder.note(draft(sample))
    assert (await store.held(ORG)).records == 1


async def test_forgetting(desk: Desk, sample: Any, clock: FakeClock) -> None:
    desk.recorder.note(draft(sample, asked=Asked(clock.now_ms(), RecordedControls())))
    await desk.recorder.flush()
    under_way = draft(sample, asked=Asked(clock.now_ms(), RecordedControls()))
    clock.advance(1)
    assert await desk.recordings.forget(ORG) == 1
    desk.recorder.note(under_way)
    assert await desk.all() == []
    desk.recorder.note(draft(sample, asked=Asked(clock.now_ms() + 1, RecordedControls())))
    assert len(await desk.all()) == 1


async def test_a_spoilt_record_is_passed_over(desk: Desk, sample: Any) -> None:
    desk.recorder.note(draft(sample))
    await desk.recorder.flush()
    await desk.store.append(ORG, b"spoilt", asked_at_ms=9)
    desk.recorder.note(draft(sample))
    with capture_logs() as logs:
        assert len(await desk.all()) == 2
    assert [log["event"] for log in logs] == ["record_unreadable"]


async def test_what_is_asked_wrongly_is_refused(desk: Desk) -> None:
    for arguments in ({"org_id": ""}, {"limit": 0}, {"limit": 1_001}, {"after": "nowhere"}):
        asked: dict[str, Any] = {"org_id": ORG, "after": "", "from_ms": 0, "limit": 10} | arguments
        with pytest.raises(BadRequest):
            await desk.recordings.page(asked.pop("org_id"), **asked)
    for call in (desk.recordings.held, desk.recordings.forget):
        with pytest.raises(BadRequest):
            await call("")
