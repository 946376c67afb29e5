"""Which requests are never answered from the cache, and why: their answers depend on more than the request."""

from __future__ import annotations

from typing import Any

import orjson

ENDPOINTS = frozenset({"chat/completions"})
"""Resources whose answers the cache can fold and replay."""

CLIENT_TOOLS = frozenset({"function", "custom"})
"""Tools that the client runs. All others run at the source, over a world that changes."""

_HOSTED_FIELDS = (
    "web_search_options",  # OpenAI
    "search_parameters",  # xAI
    "enable_search",  # Alibaba
    "search_options",
    "plugins",  # OpenRouter
    "data_sources",  # Azure OpenAI
    "tool_resources",
    "mcp_servers",
    "container",
    "web_search",  # Baidu
    "enable_enhancement",  # Tencent
    "connectors",  # Cohere
    "vector_store_ids",
    "file_ids",
)
_STATE_FIELDS = ("store", "background", "deferred", "caching")  # the last one of Volcengine
_REFERENCE_FIELDS = (
    "previous_response_id",
    "conversation",
    "prompt",
    "cached_content",  # Gemini
    "context_id",  # Volcengine
    "agent_id",  # Mistral
    "assistant_id",
    "thread_id",
)
_TEXT_PARTS = frozenset({"text", "refusal", "thinking", "reasoning"})
_URL_PARTS = frozenset({"image_url", "video_url", "audio_url"})
_POINTERS = _URL_PARTS | {"url", "file", "file_id", "file_url", "file_ids", "files", "input_audio", "source"}
"""Members of a content part that hold or point at content, besides the one that its type names."""
_MESSAGE_POINTERS = _POINTERS | {"audio", "images", "videos", "attachments", "documents"}


def why_never_stored(endpoint: str, body: dict[str, Any], *, allow_sampled: bool) -> str:
    """In words, what keeps the answer to this request out of the cache; empty where nothing does.

    ``allow_sampled``: a replay of one sample is accepted for a request that asks for a fresh sample each time. `seed`
    does not stand in for it: sources promise it only as best effort.
    """
    if endpoint not in ENDPOINTS:
        return f"answers of {endpoint!r} are not kept"
    return _state(body) or _hosted_tools(body) or _remote_content(body) or ("" if allow_sampled else _sampled(body))


def _state(body: dict[str, Any]) -> str:
    for name in _STATE_FIELDS:
        if body.get(name) not in (None, False):
            return f"`{name}` leaves something at the source"
    for name in _REFERENCE_FIELDS:
        if body.get(name) is not None:
            return f"`{name}` refers to something kept at the source"
    for extra in (body.get("extra_body"), body.get("google")):  # Gemini's OpenAI-compatible form of `cached_content`
        if isinstance(extra, dict) and b'"cached_content"' in orjson.dumps(extra):
            return "`cached_content` refers to something kept at the source"
    return ""


def _hosted_tools(body: dict[str, Any]) -> str:
    for name in _HOSTED_FIELDS:
        if body.get(name) not in (None, False, []):
            return f"`{name}` lets the source look things up"
    tools = body.get("tools")
    if tools is None:
        return ""
    if not isinstance(tools, list):
        return "`tools` is not a list"
    for tool in tools:
        kind = _kind(tool)
        if kind not in CLIENT_TOOLS:
            return f"a tool of type {kind!r} runs at the source"
    return ""


def _remote_content(body: dict[str, Any]) -> str:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return "`messages` is not a list"
    for message in messages:  # exact types: this runs over every message of every request
        if type(message) is not dict:
            return "a message is not an object"
        content = message.get("content")
        if type(content) is str and len(message) == _ROLE_AND_CONTENT and "role" in message:
            continue
        reason = _remote_parts(content)
        if reason:
            return reason
        for name in _MESSAGE_POINTERS & message.keys():
            if message[name] is not None:
                return f"a message has `{name}`, which is not known to be inline"
    return ""


_ROLE_AND_CONTENT = 2


def _remote_parts(content: Any) -> str:
    if content is None or isinstance(content, str):
        return ""
    if not isinstance(content, list):
        return "the content of a message is neither text nor a list of parts"
    for part in content:
        reason = _remote_part(part)
        if reason:
            return reason
    return ""


def _kind(item: Any) -> str | None:
    """The `type` of a tool or a content part. None where it has none that is a name: a list is in no set."""
    kind = item.get("type") if isinstance(item, dict) else None
    return kind if isinstance(kind, str) else None


def _remote_part(part: Any) -> str:
    kind = _kind(part)
    if kind in _TEXT_PARTS:
        inline = True
    elif kind in _URL_PARTS:
        media = part.get(kind)
        url = media.get("url") if isinstance(media, dict) else media
        inline = isinstance(url, str) and url.startswith("data:") and not _points_elsewhere(media, but="url")
    elif kind == "input_audio":
        inline = _is_inline(part.get("input_audio"), "data")
    elif kind == "file":
        inline = _is_inline(part.get("file"), "file_data")
    else:
        return f"a content part of type {kind!r} is not known to be inline"
    if inline and not _points_elsewhere(part, but=kind):
        return ""
    return f"a content part of type {kind!r} refers to something that is not in the request"


def _points_elsewhere(item: Any, *, but: str | None = None) -> bool:
    return isinstance(item, dict) and any(item[name] is not None for name in _POINTERS & item.keys() if name != but)


def _is_inline(media: Any, data_field: str) -> bool:
    """``media`` holds its bytes in ``data_field``, and neither it nor another field points elsewhere."""
    if not isinstance(media, dict) or not isinstance(media.get(data_field), str):
        return False
    if _points_elsewhere(media):
        return False
    data: str = media[data_field]
    return data.startswith("data:") or "://" not in data


def _sampled(body: dict[str, Any]) -> str:
    temperature = body.get("temperature")
    if temperature is None:
        return "sampled: `temperature` is not set"
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or temperature != 0:
        return "sampled: `temperature` is not 0"
    return ""
