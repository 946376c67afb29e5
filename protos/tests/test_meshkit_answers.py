"""The statement of an answer: one byte string, whether it came as a body or as a stream; and its salted digest."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from meshkit import digests
from meshkit.answers import statement
from meshkit.answers.fold import fold
from meshkit.answers.joining import NotFoldable
from meshkit.answers.reading import read_stream
from meshkit.answers.statement import NoStatement, of_body, of_stream

ENVELOPE = {"id": "chatcmpl-1", "created": 1, "model": "m-1", "system_fingerprint": "fp"}


def chunk(delta: dict[str, Any], finish: str | None = None, **top: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return orjson.dumps({**ENVELOPE, "object": "chat.completion.chunk", "choices": [choice], **top})


STREAM = [
    chunk({"role": "assistant", "content": "", "refusal": None}),
    chunk({"content": "A tally"}, obfuscation="x9"),
    chunk({"content": " stick."}),
    chunk({}, "stop"),
]
BODY = {
    **ENVELOPE,
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "A tally stick.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
USAGE = orjson.dumps(
    {**ENVELOPE, "object": "chat.completion.chunk", "choices": [], "usage": BODY["usage"], "timings": {}}
)


def test_a_stream_and_its_body_have_one_statement_with_and_without_the_usage_chunk() -> None:
    said = of_body(orjson.dumps(BODY))
    assert said == of_stream(STREAM) == of_stream([*STREAM, USAGE])
    assert orjson.loads(said) == {"model": "m-1", "choices": BODY["choices"]}


@pytest.mark.parametrize(
    "same",
    [
        {"id": "gen_2"},
        {"created": 2},
        {"usage": None},
        {"system_fingerprint": "other"},
        {"tallygate": {"receipt_id": "rcpt_1"}},
        {"timings": {"cache_n": 1}},
    ],
)
def test_what_differs_between_replays_is_not_in_it(same: dict[str, Any]) -> None:
    assert of_body(orjson.dumps(BODY | same, option=orjson.OPT_INDENT_2)) == of_body(orjson.dumps(BODY))


@pytest.mark.parametrize(
    "path",
    [
        ("model",),
        ("choices", 0, "finish_reason"),
        ("choices", 0, "message", "content"),
        ("choices", 0, "message", "role"),
    ],
)
def test_what_was_said_is_in_it(path: tuple[Any, ...]) -> None:
    changed: Any = copy.deepcopy(BODY)
    at = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] += "x"
    assert of_body(orjson.dumps(changed)) != of_body(orjson.dumps(BODY))
    assert of_body(orjson.dumps(BODY | {"citations": ["https://example.com"]})) != of_body(orjson.dumps(BODY))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices":null}', b'{"choices":[9007199254740992]}', b"\xff"])
def test_no_answer_has_no_statement(body: bytes) -> None:
    with pytest.raises(NoStatement):
        of_body(body)


@pytest.mark.parametrize(
    "stream",
    [[b"["], [chunk({"role": "assistant"}), chunk({"role": "user"})], [chunk({"new": "a"}), chunk({"new": "b"})]],
)
def test_a_stream_with_two_readings_has_none(stream: list[bytes]) -> None:
    with pytest.raises(NoStatement):
        of_stream(stream)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(value=JSON)
def test_the_canonical_form_is_that_of_rfc_8785(value: Any) -> None:
    assert statement.canonical(value) == rfc8785.dumps(value)


DELTA = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from([None, "assistant"]),
        "content": st.none() | TEXT,
        "reasoning_content": st.none() | TEXT,
        "tool_calls": st.just([{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "x"}}]),
        "new": TEXT,
    },
)
CHOICE = st.fixed_dictionaries(
    {"index": st.integers(0, 1), "delta": DELTA},
    optional={
        "finish_reason": st.sampled_from([None, "stop"]),
        "logprobs": st.none() | st.just({"content": [{"token": "a", "logprob": -0.5}]}),
        "other": st.just([1]),
    },
)
CHUNKS = st.lists(
    st.fixed_dictionaries(
        {"choices": st.lists(CHOICE, max_size=2)},
        optional={"model": st.sampled_from(["", "m"]), "citations": st.just(["https://example.com"])},
    ),
    max_size=8,
)


def _folded(chunks: Any) -> Any:
    """What the chunks fold to, or why they don't."""
    try:
        return fold(chunks)
    except (NotFoldable, orjson.JSONDecodeError) as error:
        return type(error)


def _as_sent(chunks: list[Any], *, ascii_only: bool, spaced: bool) -> list[bytes]:
    separators = (", ", ": ") if spaced else (",", ":")
    return [json.dumps(one, ensure_ascii=ascii_only, separators=separators).encode() for one in chunks]


@given(chunks=CHUNKS, repeats=st.integers(1, 3), ascii_only=st.booleans(), spaced=st.booleans())
def test_a_stream_that_is_read_by_its_form_folds_to_what_all_of_its_chunks_fold_to(
    chunks: list[Any], repeats: int, ascii_only: bool, spaced: bool
) -> None:
    sent = _as_sent([one for one in chunks for _ in range(repeats)], ascii_only=ascii_only, spaced=spaced)
    assert _folded(read_stream(sent, orjson.loads)) == _folded(map(orjson.loads, sent))


@given(
    texts=st.lists(TEXT, min_size=1, max_size=6),
    name=st.sampled_from(["content", "reasoning_content"]),
    padded=st.booleans(),
    ascii_only=st.booleans(),
    damage=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 250), st.binary(max_size=3)), max_size=2),
)
@example(["a", 'say "x"', "\\", "b"], "content", True, True, [])
@example(["a", '"},"logprobs":null,"finish_reason":null}],"obfuscation":"b'], "content", True, False, [])
@example(["a", "b", "c"], "content", False, False, [(1, 153, b"\\")])
@example(["a", "b", "c"], "content", False, False, [(1, 153, b'","content":"')])
def test_payloads_of_one_form_are_read_as_each_of_them_is(
    texts: list[str], name: str, padded: bool, ascii_only: bool, damage: list[tuple[int, int, bytes]]
) -> None:
    fields = [{"obfuscation": text[::-1]} if padded else {} for text in texts]
    pieces = [orjson.loads(chunk({name: text}, **field)) for text, field in zip(texts, fields, strict=True)]
    sent = _as_sent(pieces, ascii_only=ascii_only, spaced=False)
    for which, at, what in damage:  # whatever came in between, nothing is read into it or out of it
        payload = sent[which % len(sent)]
        sent[which % len(sent)] = payload[: at % len(payload)] + what + payload[at % len(payload) + len(what) :]
    assert _folded(read_stream(sent, orjson.loads)) == _folded(map(orjson.loads, sent))


@pytest.mark.parametrize("more", [{}, {"obfuscation": "x9"}, {"usage": None}])
def test_of_a_stream_only_what_differs_is_read(more: dict[str, Any]) -> None:
    read: list[bytes] = []
    pieces = [chunk({"content": f'{n} "é" \n'}, **more) for n in range(100)]

    def parse(payload: bytes) -> Any:
        read.append(payload)
        return orjson.loads(payload)

    (whole,) = read_stream(pieces, parse)
    assert whole["choices"][0]["delta"]["content"] == "".join(f'{n} "é" \n' for n in range(100))
    assert read == pieces[:1]


def test_a_salted_digest_is_of_one_text() -> None:
    salt = bytes(range(16))
    digest = digests.salted(b"text", salt)
    assert digest == f"{salt.hex()}:{hashlib.sha256(salt + b'text').hexdigest()}"
    assert digests.is_of(digest, b"text")
    assert not digests.is_of(digest, b"texT")
    assert digests.salted(b"text", bytes(16)).partition(":")[2] != digest.partition(":")[2]
    with pytest.raises(ValueError, match="salted digest"):
        digests.is_of(digest.upper(), b"text")
