"""The body for a source: three fields anew, everything else as the client wrote it."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_svc.domain.errors import InvalidRequest
from router_svc.sources.body import body_for_source

_keys = st.text(max_size=8).filter(lambda key: key not in {"model", "stream", "stream_options", "tallygate"})
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
_bodies = st.dictionaries(_keys, _values, max_size=6)


@given(fields=_bodies, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]), stream=st.booleans())
def test_every_other_parameter_reaches_the_source_as_it_was(
    fields: dict[str, object], ascii_only: bool, indent: int | None, stream: bool
) -> None:
    body = json.dumps({"model": "m", **fields, "stream": stream}, ensure_ascii=ascii_only, indent=indent)
    sent = body_for_source(body.encode(), model='up/"1"', stream=stream).decode()
    members = json.loads(sent)
    assert members.pop("model") == 'up/"1"'
    assert members.pop("stream", False) is stream
    assert members.pop("stream_options", None) == ({"include_usage": True} if stream else None)
    assert members == fields
    assert list(members) == list(fields), "in the client's order"
    for name, value in fields.items():
        written = json.dumps({name: value}, ensure_ascii=ascii_only, indent=indent)[1:-1].strip()
        if indent is None:
            assert written in sent, "byte for byte"


def test_numbers_are_not_rewritten() -> None:
    body = b'{"seed":123456789012345678901234567890,"temperature":1.0,"top_p":1e-7,"x":1E2,"model":"m"}'
    sent = body_for_source(body, model="u", stream=False)
    assert sent == (b'{"model":"u","seed":123456789012345678901234567890,"temperature":1.0,"top_p":1e-7,"x":1E2}')


def test_a_number_of_any_length_is_passed_on() -> None:
    digits = b"9" * 10_000
    assert digits in body_for_source(b'{"x":' + digits + b"}", model="u", stream=False)


def test_names_inside_values_are_not_fields() -> None:
    body = (
        b'{"messages":[{"model":"inner","content":"\\"model\\": \\"x\\""}],"mod\\u0065l":"m","metadata":{"stream":1}}'
    )
    sent = body_for_source(body, model="u", stream=False)
    assert sent == (
        b'{"model":"u","messages":[{"model":"inner","content":"\\"model\\": \\"x\\""}],"metadata":{"stream":1}}'
    )


def test_fields_for_the_gateway_are_not_sent_on() -> None:
    assert body_for_source(b'{"tallygate":{"a":1},"user":"u"}', model="m", stream=False) == b'{"model":"m","user":"u"}'


@pytest.mark.parametrize(
    ("given_options", "sent_options"),
    [
        ("null", {"include_usage": True}),
        ('{"include_usage":false}', {"include_usage": True}),
        ('{"include_obfuscation":false}', {"include_obfuscation": False, "include_usage": True}),
    ],
)
def test_usage_is_always_asked_for(given_options: str, sent_options: dict[str, bool]) -> None:
    sent = body_for_source(f'{{"stream_options":{given_options}}}'.encode(), model="m", stream=True)
    assert orjson.loads(sent)["stream_options"] == sent_options


def test_a_plain_request_has_no_stream_fields() -> None:
    sent = body_for_source(b'{"stream":false,"stream_options":null,"n":1}', model="m", stream=False)
    assert sent == b'{"model":"m","n":1}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"model":"m","mod\\u0065l":"dear"}',
        b"[]",
        b"{",
        b'{"a"}',
        b'{"a":1',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"stream_options":7}',
    ],
)
def test_what_can_not_be_spliced_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        body_for_source(body, model="m", stream=True)
