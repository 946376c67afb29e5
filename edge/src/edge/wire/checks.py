"""The body of a chat completion: its types checked, everything else left to the source.

Checked is what this service, the cache or the router reads, so that neither of them meets a list where it takes a name.
Ranges are the source's business, but for the integers that a hold is computed from.
https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import orjson

from edge.errors import invalid
from edge.wire.breadth import refuse_too_many_values
from edge.wire.tags import check_metadata

MAX_CHOICES = 128
MAX_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ChatCall:
    """What the edge itself needs to know of a request."""

    model: str
    """The name that the client used, an alias perhaps."""
    stream: bool
    include_usage: bool
    """The client asked for the usage chunk at the end of its stream."""
    max_answer_tokens: int = 0
    """The most tokens that the client allows, over all choices; 0: it does not say."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The client's names for the request."""


def parse_chat(body: bytes) -> ChatCall:
    """Parses and checks.

    Raises:
        MeshError: INVALID_REQUEST, naming the field at fault; REQUEST_TOO_LARGE for more values than can be read.
    """
    refuse_too_many_values(body)
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body.strip():
            raise invalid("The request body is empty; send a JSON object.") from error
        raise invalid(f"The request body is not valid JSON: {error}.") from error
    if not isinstance(parsed, dict):
        raise invalid(f"The request body must be a JSON object, not {_kind(parsed)}.")
    model = parsed.get("model")
    if model is None or model == "":
        raise invalid("You must name a model: `model` is missing.", "model")
    for name, value in parsed.items():
        check = _FIELDS.get(name)
        if check is not None and value is not None:
            check(name, value)
    if parsed.get("messages") is None:
        raise invalid("`messages` is missing; send a list of at least one message.", "messages")
    stream_options = parsed.get("stream_options") or {}
    include_usage = stream_options.get("include_usage")
    if include_usage is not None:
        _boolean("stream_options.include_usage", include_usage)
    stream = bool(parsed.get("stream"))
    # The newer name counts where both are given, as at OpenAI.
    bound = parsed.get("max_completion_tokens") or parsed.get("max_tokens") or 0
    return ChatCall(
        model=model,
        stream=stream,
        include_usage=stream and bool(include_usage),
        max_answer_tokens=bound * (parsed.get("n") or 1),
        metadata=parsed.get("metadata") or {},
    )


def _kind(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    if value is None:
        return "null"
    return _KINDS.get(type(value), "an object")


_KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def _wrong(name: str, wanted: str, value: object) -> Exception:
    return invalid(f"`{name}` must be {wanted}, not {_kind(value)}.", name)


Check = Callable[[str, object], object]
"""Raises for a value that is not what the field of that name takes. What it returns is for other checks."""


def _string(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise _wrong(name, "a string", value)


def _boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _wrong(name, "a boolean", value)


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "a number", value)


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, "an integer", value)
    return value


def _object(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(name, "an object", value)
    return value


def _array(name: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise _wrong(name, "an array", value)
    return value


def _within(low: int, high: int) -> Check:
    def check(name: str, value: object) -> None:
        number = _integer(name, value)
        if not low <= number <= high:
            raise invalid(f"`{name}` must be between {low} and {high}, not {_shown(number)}.", name)

    return check


def _shown(value: int) -> str:
    return str(value) if abs(value) < 10**20 else "a number of that size"


def _objects(name: str, value: object) -> None:
    for index, item in enumerate(_array(name, value)):
        _object(f"{name}[{index}]", item)


def _strings(name: str, value: object) -> None:
    for index, item in enumerate(_array(name, value)):
        _string(f"{name}[{index}]", item)


def _having(checks: Mapping[str, Check]) -> Check:
    """An object whose members of these names, where it has them, pass these checks. A `type` may not be null: it says
    what the others mean.
    """

    def check(name: str, value: object) -> None:
        for member, found in _object(name, value).items():
            member_check = checks.get(member)
            if member_check is not None and (found is not None or member == "type"):
                member_check(f"{name}.{member}", found)

    return check


def _each(item_check: Check) -> Check:
    def check(name: str, value: object) -> None:
        for index, item in enumerate(_array(name, value)):
            item_check(f"{name}[{index}]", item)

    return check


def _string_or_object(name: str, value: object) -> None:
    if not isinstance(value, str | dict):
        raise _wrong(name, "a string or an object", value)


def _string_or_strings(name: str, value: object) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise _wrong(name, "a string or an array of strings", value)
    _strings(name, value)


_part = _having(
    {
        "type": _string,
        "text": _string,
        "image_url": _string_or_object,
        "video_url": _string_or_object,
        "audio_url": _string_or_object,
        "input_audio": _object,
        "file": _object,
    }
)
_tool = _having({"type": _string, "function": _object, "custom": _object})


def _content(name: str, value: object) -> None:
    if isinstance(value, list):
        _each(_part)(name, value)
    elif not isinstance(value, str):
        raise _wrong(name, "a string, an array of content parts or null", value)


_message = _having({"role": _string, "content": _content, "tool_calls": _each(_tool), "audio": _object})


def _messages(name: str, value: object) -> None:
    messages = _array(name, value)
    if not messages:
        raise invalid(f"`{name}` is empty; send at least one message.", name)
    for index, message in enumerate(messages):
        if _is_plain(message):
            continue
        _message(f"{name}[{index}]", message)
        if not (isinstance(message, dict) and message.get("role")):
            raise invalid(f"`{name}[{index}].role` is missing.", f"{name}[{index}].role")


def _is_plain(message: object) -> bool:
    """Nearly all messages: a role and a text, with nothing that a check is for, and no names made for errors."""
    if type(message) is not dict or len(message) != 2:
        return False
    role = message.get("role")
    return type(role) is str and role != "" and type(message.get("content")) is str


_FIELDS: Mapping[str, Check] = {
    "model": _string,
    "messages": _messages,
    "stream": _boolean,
    "stream_options": _object,
    "n": _within(1, MAX_CHOICES),
    "max_tokens": _within(1, MAX_TOKENS),
    "max_completion_tokens": _within(1, MAX_TOKENS),
    "temperature": _number,
    "top_p": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "top_logprobs": _integer,
    "seed": _integer,
    "logprobs": _boolean,
    "parallel_tool_calls": _boolean,
    "store": _boolean,
    "stop": _string_or_strings,
    "user": _string,
    "reasoning_effort": _string,
    "service_tier": _string,
    "tools": _each(_tool),
    "functions": _objects,
    "tool_choice": _string_or_object,
    "function_call": _string_or_object,
    "response_format": _having({"type": _string}),
    "logit_bias": _object,
    "metadata": check_metadata,
    "modalities": _strings,
    "prediction": _object,
    "audio": _object,
    "web_search_options": _object,
}
