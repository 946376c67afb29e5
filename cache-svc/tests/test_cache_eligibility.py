"""What is never stored, case by case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_svc.domain.eligibility import why_never_stored


def why(endpoint: str = "chat/completions", *, allow_sampled: bool = False, **fields: Any) -> str:
    body = {"messages": [{"role": "user", "content": "a"}], "temperature": 0, **fields}
    return why_never_stored(endpoint, body, allow_sampled=allow_sampled)


def parts(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "b"}, {"role": "user", "content": list(content)}]}


DATA_URL = "data:image/png;base64,iVBORw0KGgo="
FUNCTION = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.0},
        {"temperature": -0.0},
        {"n": 3},
        {"store": False, "background": None},
        {"tools": [FUNCTION, {"type": "custom", "custom": {"name": "c"}}], "parallel_tool_calls": True},
        {"tools": None},
        {"extra_body": {"google": {"thinking_config": {"thinking_budget": 0}}}, "google": None},
        {"messages": [{"role": "user", "content": "a", "name": "bo", "audio": None}]},
        parts({"type": "text", "text": "a", "url": None}),
        {"functions": [{"name": "f"}]},
        {"logprobs": True, "response_format": {"type": "json_object"}},
        parts({"type": "text", "text": "see https://example.com/a.png"}),
        parts({"type": "image_url", "image_url": {"url": DATA_URL, "detail": "low"}}),
        parts({"type": "image_url", "image_url": DATA_URL}),
        parts({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
        parts({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}}),
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "x"}]},
    ],
)
def test_a_request_that_says_all_its_answer_depends_on_is_eligible(fields: dict[str, Any]) -> None:
    assert why(**fields) == ""


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (parts({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}), "image_url"),
        (parts({"type": "image_url", "image_url": "http://example.com/a.png"}), "image_url"),
        (parts({"type": "image_url", "image_url": {"url": "gs://bucket/a.png"}}), "image_url"),
        (parts({"type": "image_url", "image_url": {}}), "image_url"),
        (parts({"type": "image_url"}), "image_url"),
        (parts({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}), "video_url"),
        (parts({"type": "file", "file": {"file_id": "file-1"}}), "file"),
        (parts({"type": "file", "file": {"file_data": "https://example.com/a.pdf"}}), "file"),
        (parts({"type": "file", "file": {"file_data": "JVBERi0=", "file_url": "https://example.com"}}), "file"),
        (parts({"type": "input_audio", "input_audio": {"url": "https://example.com/a.wav"}}), "input_audio"),
        (parts({"type": "input_audio", "input_audio": {"data": "https://example.com/a.wav"}}), "input_audio"),
        (parts({"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://e.com"}}), "image"),
        (parts({"type": "document_from_tomorrow", "data": "x"}), "document_from_tomorrow"),
        (parts("not an object"), "None"),
        (parts({"type": "image_url", "image_url": {"url": DATA_URL, "file_id": "file-1"}}), "image_url"),
        (parts({"type": "image_url", "image_url": {"url": DATA_URL}, "file_id": "file-1"}), "image_url"),
        (parts({"type": "file", "file": {"file_data": "JVBERi0=", "source": "https://e.com"}}), "file"),
        (parts({"type": "text", "text": "a", "image_url": {"url": "https://example.com/a.png"}}), "text"),
        (parts({"type": "text", "text": "a", "url": "https://example.com/a"}), "text"),
        ({"messages": [{"role": "user", "content": {"type": "image_url", "image_url": "https://e.com"}}]}, "content"),
        ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "audio"),
        ({"messages": [{"content": "a", "audio": {"id": "audio_1"}}]}, "audio"),
        ({"messages": [{"role": "user", "content": "a", "images": ["https://e.com/a.png"]}]}, "images"),
        ({"messages": [{"role": "user", "content": "a", "file_ids": ["file-1"]}]}, "file_ids"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [FUNCTION, {"type": "mcp", "server_url": "https://e.com"}]}, "mcp"),
        ({"tools": [{"type": "code_interpreter"}]}, "code_interpreter"),
        ({"tools": [{"function": {"name": "f"}}]}, "None"),
        ({"tools": {"type": "function"}}, "tools"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"enable_search": True}, "enable_search"),
        ({"search_parameters": {"mode": "auto"}}, "search_parameters"),
        ({"web_search": {"enable": True}}, "web_search"),
        ({"connectors": [{"id": "web-search"}]}, "connectors"),
        ({"vector_store_ids": ["vs_1"]}, "vector_store_ids"),
        ({"extra_body": {"google": {"cached_content": "cachedContents/1"}}}, "cached_content"),
        ({"google": {"cached_content": "cachedContents/1"}}, "cached_content"),
        ({"cached_content": "cachedContents/1"}, "cached_content"),
        ({"agent_id": "ag_1"}, "agent_id"),
        ({"caching": {"type": "enabled"}}, "caching"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"store": "yes"}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"temperature": None}, "temperature"),
        ({"temperature": 0.01}, "temperature"),
        ({"temperature": 1}, "temperature"),
        ({"temperature": False}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": None, "seed": 7}, "temperature"),
        ({"temperature": 1, "seed": 7, "top_p": 0}, "temperature"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "message"),
    ],
)
def test_never_stored(fields: dict[str, Any], named: str) -> None:
    assert named in why(**fields)
    sampled_only = named == "temperature"
    assert (why(allow_sampled=True, **fields) == "") == sampled_only, "opting in to samples opts in to nothing else"


def test_an_unset_temperature_is_a_sample() -> None:
    assert "temperature" in why_never_stored("chat/completions", {"messages": []}, allow_sampled=False)


def test_only_endpoints_whose_answers_can_be_folded_are_kept() -> None:
    assert why("embeddings") != ""
    assert why("responses") != ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["file", "image_url", ""]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "image_url", "file", "url", "file_data"]), inner, max_size=2)
    ),
    max_leaves=4,
)
PLACES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "tool": lambda value: {"tools": [value]},
    "type of a tool": lambda value: {"tools": [{"type": value}]},
    "part": parts,
    "type of a part": lambda value: parts({"type": value}),
    "image_url": lambda value: parts({"type": "image_url", "image_url": value}),
    "file": lambda value: parts({"type": "file", "file": value}),
    "message": lambda value: {"messages": [value]},
    "tools": lambda value: {"tools": value},
    "messages": lambda value: {"messages": value},
    "store": lambda value: {"store": value},
    "temperature": lambda value: {"temperature": value},
}


@pytest.mark.parametrize("place", PLACES)
@given(value=JSON)
def test_every_body_has_an_answer(place: str, value: Any) -> None:
    assert isinstance(why(**PLACES[place](value)), str)


@pytest.mark.parametrize("kind", [[], {}, ["text"], 1, None])
def test_a_type_that_is_no_name_is_never_stored(kind: Any) -> None:
    assert "type None" in why(**parts({"type": kind}))
    assert "type None" in why(tools=[{"type": kind}])
