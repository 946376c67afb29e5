"""The answer to a chat completion request, as one JSON body and as stream events. The same request, the same answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.upstream.behaviour import Behaviour
from tests.upstream.schema_instance import instance_of

CREATED_S = 1_790_000_000
ARGUMENT_PIECE = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said. ``pieces`` joined are ``text``; usage is None where the script hides it."""

    id: str
    model: str
    text: str | None
    reasoning: str
    tool_calls: tuple[dict[str, Any], ...]
    finish_reason: str
    usage: dict[str, Any] | None
    usage_with_last_choice: bool

    def body(self) -> dict[str, Any]:
        """The JSON body of a request without ``stream``."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        usage = {} if self.usage is None else {"usage": self.usage}
        return {**self._head("chat.completion"), "choices": [choice], **usage}

    def events(self) -> list[dict[str, Any]]:
        """The stream's chunks with choices, from the role to the finish_reason."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None if self.tool_calls else ""}]
        deltas += [{"reasoning_content": piece} for piece in words(self.reasoning)]
        deltas += [{"content": piece} for piece in words(self.text or "")]
        for index, call in enumerate(self.tool_calls):
            deltas += _tool_deltas(index, call)
        chunks = [self._chunk(delta) for delta in deltas]
        last = self._chunk({}, self.finish_reason)
        if self.usage is not None and self.usage_with_last_choice:
            last["usage"] = self.usage
        return [*chunks, last]

    def usage_event(self) -> dict[str, Any] | None:
        """The chunk that follows when the request asked for usage."""
        if self.usage is None or self.usage_with_last_choice:
            return None
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": CREATED_S,
            "model": self.model,
            "system_fingerprint": "fp_scripted",
        }


def words(text: str) -> list[str]:
    """Pieces of one word each that join to ``text``; how the stream is cut, and how tokens are counted."""
    parts = text.split(" ")
    return [part if index == 0 else f" {part}" for index, part in enumerate(parts)] if text else []


def prompt_tokens(body: dict[str, Any]) -> int:
    """One for each word of the messages, and one for each message."""
    return sum(1 + len(_text_of(message).split()) for message in body.get("messages", []))


def answer_to(body: dict[str, Any], behaviour: Behaviour, answer_id: str) -> Answer:
    """Decide what is said to ``body``."""
    calls = _tool_calls(body) if behaviour.text is None else ()
    text = None if calls else _text(body, behaviour)
    said = f"{behaviour.reasoning} {text or ''}".split()
    completion_tokens = len(said) + sum(len(call["function"]["arguments"]) for call in calls)
    counted = {
        "prompt_tokens": prompt_tokens(body),
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens(body) + completion_tokens,
    }
    return Answer(
        id=answer_id,
        model=str(body.get("model")),
        text=text,
        reasoning=behaviour.reasoning,
        tool_calls=calls,
        finish_reason=behaviour.finish_reason or ("tool_calls" if calls else "stop"),
        usage=None if behaviour.without_usage else behaviour.usage or counted,
        usage_with_last_choice=behaviour.usage_with_last_choice,
    )


def _text(body: dict[str, Any], behaviour: Behaviour) -> str:
    if behaviour.text is not None:
        return behaviour.text
    last = body["messages"][-1] if body.get("messages") else {}
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return json.dumps(instance_of(form["json_schema"]["schema"]))
    if form.get("type") == "json_object":
        return json.dumps({"echo": _text_of(last)})
    return f"You said: {_text_of(last)}"


def _tool_calls(body: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """A call of each tool, of the first only without ``parallel_tool_calls``; none after a tool's result."""
    tools, choice = body.get("tools") or [], body.get("tool_choice", "auto")
    if choice == "none" or (body.get("messages") and body["messages"][-1].get("role") == "tool"):
        return ()
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["function"]["name"] == choice["function"]["name"]]
    if body.get("parallel_tool_calls") is False:
        tools = tools[:1]
    return tuple(_tool_call(index, tool["function"]) for index, tool in enumerate(tools))


def _tool_call(index: int, function: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(instance_of(function.get("parameters", {"type": "object"})))
    return {
        "id": f"call_scripted_{index}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _tool_deltas(index: int, call: dict[str, Any]) -> list[dict[str, Any]]:
    """First id and name with empty arguments, then the arguments in pieces that know only their index."""
    function = call["function"]
    opening = {
        "index": index,
        "id": call["id"],
        "type": "function",
        "function": {"name": function["name"], "arguments": ""},
    }
    text = function["arguments"]
    pieces = [text[start : start + ARGUMENT_PIECE] for start in range(0, len(text), ARGUMENT_PIECE)]
    rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
    return [{"tool_calls": [delta]} for delta in [opening, *rest]]


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""
