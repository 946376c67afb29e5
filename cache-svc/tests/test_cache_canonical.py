"""Canonical JSON: what is refused, what is the same, and its oracle."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from cache_svc.domain import canonical
from cache_svc.domain.canonical import NotCanonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INTS = st.integers(-(2**53) + 1, 2**53 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def json_values(
    floats: st.SearchStrategy[float] = FLOATS, keys: st.SearchStrategy[str] = TEXT
) -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | INTS | floats | TEXT
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"a":1,"a":1}', "duplicate key 'a'"),
        (b'{"a":1,"\\u0061":2}', "duplicate key 'a'"),
        (b'{"x":[{"a":{"b":1,"b":2}}]}', "duplicate key 'b'"),
        (b'{"a":"\\u003a","a":"::"}', "duplicate key 'a'"),
        (b'{"a":1,\n "a":"\\u003A"}', "duplicate key 'a'"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":Infinity}', "Infinity"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":1e999}', "infinity"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":"\\udc00\\ud800"}', "surrogate"),
        (b'{"a":9007199254740992}', "2^53-1"),
        (b'{"a":-9007199254740992}', "2^53-1"),
        (b'{"a": 18446744073709551616}', "2^53-1"),
        (b'{"a":-99999999999999999999999}', "2^53-1"),
        (b'{"a":' + b"9" * 5000 + b"}", "not valid JSON"),  # overflows a double as well
        (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "deep"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "deep"),
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not valid JSON"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":1}x', "not valid JSON"),
        (b"[1]", "object"),
        (b"null", "object"),
    ],
)
def test_refuses_what_readers_disagree_on(raw: bytes, why: str) -> None:
    with pytest.raises(NotCanonical, match=why.replace("^", r"\^")):
        canonical.parse_object(raw)


def test_takes_what_is_near_the_limits() -> None:
    raw = (
        b'{"a": [9007199254740991, -9007199254740991, 1e+20, 12345678901234567890.0], "e+": "a:b:c \\u003a", "n": '
        + (b"[" * 200 + b"]" * 200 + b"}")
    )
    assert canonical.parse_object(raw) == json.loads(raw)


@given(json_values())
@example({"a:b": "::", "e+": [1e300, -0.0]})
def test_one_value_has_one_form_however_it_is_written(value: Any) -> None:
    compact = orjson.dumps(value)
    spaced = json.dumps(value, indent=3, ensure_ascii=True).encode()
    sorted_ = json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    forms = {canonical.dump(canonical.parse(raw)) for raw in (compact, spaced, sorted_)}
    assert len(forms) == 1
    form = forms.pop()
    assert canonical.dump(canonical.parse(form)) == form
    assert orjson.loads(form) == value


@given(json_values(), json_values())
def test_two_values_have_two_forms(one: Any, other: Any) -> None:
    # repr tells 1, 1.0 and True apart, which == does not.
    same = repr(_sorted(one)) == repr(_sorted(other))
    assert (canonical.dump(one) == canonical.dump(other)) == same


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


# RFC 8785 sorts keys by UTF-16 unit, which differs from code points only past the surrogates; and writes 1.0 as 1.
BMP_KEYS = st.text(st.characters(max_codepoint=0xD7FF), max_size=6)
FRACTIONS = st.floats(1e-4, 1e15).filter(lambda number: number != int(number))


@given(json_values(FRACTIONS, BMP_KEYS))
def test_agrees_with_rfc_8785_where_the_domains_agree(value: Any) -> None:
    assert canonical.dump(value) == rfc8785.dumps(value)


@given(
    TEXT.filter(lambda name: name != "other"),
    json_values(),
    json_values(),
    st.booleans(),
    st.sampled_from([":", " : "]),
)
def test_finds_any_duplicate_key_in_any_spelling(name: str, one: Any, other: Any, escaped: bool, colon: str) -> None:
    first = second = json.dumps(name, ensure_ascii=False)
    if escaped:
        units = name.encode("utf-16-be")
        second = '"' + "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)) + '"'
    twice = f'{{{first}{colon}{json.dumps(one)},"other":1,{second}{colon}{json.dumps(other)}}}'
    raw = f'[{json.dumps(one)},{{"in":{twice}}}]'.encode()
    with pytest.raises(NotCanonical, match="duplicate"):
        canonical.parse(raw)


@given(
    st.integers(2**53) | st.integers(max_value=-(2**53)) | st.integers(2**63 - 9, 2**65),
    st.sampled_from(["", " "]),
    st.booleans(),
)
def test_finds_any_large_integer(number: int, space: str, nested: bool) -> None:
    raw = f'{{"a":{space}[{number}]}}' if nested else f'{{"e+":{space}{number}}}'
    with pytest.raises(NotCanonical):
        canonical.parse_object(raw.encode())
