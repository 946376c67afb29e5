"""Whether two answers say the same: the label from which the semantic tier learns.

Strict on purpose. Two answers agree when what a client would read or run is the same text, the same JSON value or the
same tool calls. Prose that differs in a word disagrees, so that a kept answer in free prose seldom earns trust; a
class, a number, an extracted record or a tool call does.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from cache_svc.domain import canonical

_UNSAID_IN_CHOICE = frozenset({"logprobs"})
_UNSAID_IN_MESSAGE = frozenset({"reasoning", "reasoning_content", "reasoning_details"})
"""How a source came to its answer. A field that is not here is compared, whatever it is."""
_UNSAID_IN_CALL = frozenset({"id", "index"})


def said(answer: bytes) -> bytes:
    """SHA-256 of what ``answer``, the body of a chat completion, says. Equal for answers that agree.

    Raises:
        NotCanonical, KeyError, TypeError, AttributeError: it is not one that the cache keeps.
    """
    choices = [_choice(choice) for choice in orjson.loads(answer)["choices"]]
    return hashlib.sha256(canonical.dump(choices)).digest()


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in choice.items() if name not in _UNSAID_IN_CHOICE}
    return {**rest, "message": _message(choice["message"])}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    # A source that names an empty field in one answer leaves it out of the next.
    told = {
        name: value for name, value in message.items() if name not in _UNSAID_IN_MESSAGE and value not in (None, [])
    }
    for name in ("content", "refusal"):
        if isinstance(told.get(name), str):
            told[name] = _text(told[name])
    if "tool_calls" in told:
        told["tool_calls"] = [_call(call) for call in told["tool_calls"]]
    if isinstance(told.get("function_call"), dict):
        told["function_call"] = _function(told["function_call"])
    return told


def _call(call: dict[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in call.items() if name not in _UNSAID_IN_CALL}
    if isinstance(told.get("function"), dict):
        told["function"] = _function(told["function"])
    return told


def _function(function: dict[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    return {**function, "arguments": _text(arguments)} if isinstance(arguments, str) else function


def _text(text: str) -> list[Any]:
    """A JSON object or array by its value; other text by its characters, but for blanks around it and line ends.

    Blanks inside stay: they are the structure of a program.
    """
    stripped = text.strip().replace("\r\n", "\n")
    if stripped[:1] in ("{", "["):
        try:
            return ["json", canonical.parse(stripped.encode())]
        except (canonical.NotCanonical, UnicodeEncodeError):
            pass
    return ["text", stripped]
