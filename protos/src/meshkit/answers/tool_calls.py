"""The tool calls of one choice, as their deltas come in."""

from __future__ import annotations

from typing import Any

from meshkit.answers.joining import NotFoldable, once, repeated
from meshkit.answers.shape import Json

_GROWING_PART = {"function": "arguments", "custom": "input"}
"""The member of a call that says what is called, by kind, and its member that grows."""


class ToolCalls:
    """Calls in the order in which they began."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def take(self, items: Any) -> None:
        """Adds the deltas of ``tool_calls``."""
        if not isinstance(items, list):
            raise NotFoldable("`tool_calls` is not a list")
        for item in items:
            if not isinstance(item, dict):
                raise NotFoldable("a tool call is not an object")
            self._call_of(item).take(item)

    def whole(self) -> list[Json]:
        """The calls of the body."""
        return [call.whole() for call in self._calls]

    def _call_of(self, item: Json) -> _Call:
        index = item.get("index")
        if index is None:
            return self._call_without_index(item)
        for call in self._calls:
            if call.index == index:
                return call
        return self._begin(index)

    def _call_without_index(self, item: Json) -> _Call:
        """Mistral: an id begins a call, and what has none goes on with the last one."""
        if item.get("id"):
            known = [call for call in self._calls if call.fields.get("id") == item["id"]]
            return known[0] if known else self._begin(len(self._calls))
        if not self._calls:
            return self._begin(0)
        if any(isinstance(item.get(kind), dict) and item[kind].get("name") for kind in _GROWING_PART):
            raise NotFoldable("a tool call has a name and neither an index nor an id: begun or continued?")
        return self._calls[-1]

    def _begin(self, index: Any) -> _Call:
        if index != len(self._calls):
            raise NotFoldable(f"tool call {index!r} comes where {len(self._calls)} is next")
        call = _Call(index)
        self._calls.append(call)
        return call


class _Call:
    """One tool call as far as it has come."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.fields: Json = {}
        self._pieces: dict[str, list[str]] = {}

    def take(self, item: Json) -> None:
        """Adds what ``item`` says."""
        if set(item) == {"index"}:
            self.fields["index"] = self.index  # see unfold: the call has an index outside streams too
        for name, value in item.items():
            if name == "index":
                continue
            if value is None:
                self.fields.setdefault(name, None)
            elif name in _GROWING_PART and isinstance(value, dict):
                self._take_part(name, value)
            elif name in {"id", "type"}:
                self.fields[name] = repeated(name, self.fields.get(name), value)
            else:
                self.fields[name] = once(name, self.fields.get(name), value)

    def _take_part(self, kind: str, piece: Json) -> None:
        if self.fields.get(kind) is None:
            self.fields[kind] = {}
        part = self.fields[kind]
        if not isinstance(part, dict):
            raise NotFoldable(f"`{kind}` is an object and something else")
        for name, value in piece.items():
            if value is None:
                part.setdefault(name, None)
            elif name != _GROWING_PART[kind]:
                part[name] = repeated(name, part.get(name), value)
            elif isinstance(value, str) and isinstance(part.get(name), str | None):
                part[name] = ""  # filled when all have come
                self._pieces.setdefault(kind, []).append(value)
            else:
                part[name] = once(name, part.get(name), value)

    def whole(self) -> Json:
        """The call of the body."""
        for kind, pieces in self._pieces.items():
            self.fields[kind][_GROWING_PART[kind]] = "".join(pieces)
        return self.fields
