"""YAML without surprises: numbers stay exact, a key stands once, and every value knows its line.

Of YAML 1.1's readings only the plain ones are kept. Integers are decimal, reals are ``Decimal``; ``true`` and
``false`` are the only booleans (so ``region: no`` is a string); dates are ISO. The rest is refused with its place.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import yaml

from catalog_svc.domain import CatalogInvalid

Path = tuple[str | int, ...]
"""Where in a document: ("offers", "acme/m", "price", "input")."""

_MAX_DEPTH = 12
_INTEGER = re.compile(r"[-+]?(0|[1-9][\d_]*)")
_REAL = re.compile(r"[-+]?\d[\d_]*\.?\d*(e[-+]?\d{1,2})?", re.IGNORECASE)
_TAG = "tag:yaml.org,2002:"
# libyaml where the wheel has it: the packaged seed is a few thousand nodes, which take pure Python most of a second.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Document:
    """One YAML document: plain data, and the line on which each value stands."""

    name: str
    data: Any
    lines: dict[Path, int]

    def place(self, path: Path) -> str:
        """``FILE:LINE: section.key`` of the nearest value above that has a line."""
        known = next(path[:n] for n in range(len(path), -1, -1) if path[:n] in self.lines or n == 0)
        dotted = ".".join(f"[{part}]" if isinstance(part, int) else part for part in path).replace(".[", "[")
        return (
            f"{self.name}:{self.lines.get(known, 1)}: {dotted}" if dotted else f"{self.name}:{self.lines.get(known, 1)}"
        )


def parse(text: str, name: str) -> Document:
    """The document in ``text``; an empty one is an empty mapping.

    Raises:
        CatalogInvalid: not YAML, a key twice, or a value that is not read here; the place is in the text.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise CatalogInvalid([f"{name}:{line}: not valid YAML: {problem}"]) from error
    reader = _Reader(name)
    data = {} if root is None else reader.value(root, ())
    if reader.problems:
        raise CatalogInvalid(reader.problems)
    return Document(name, data, reader.lines)


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Path, int] = {}
        self.problems: list[str] = []

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.lines[path] = node.start_mark.line + 1
        if len(path) > _MAX_DEPTH:
            return self._refuse(node, path, f"nested deeper than {_MAX_DEPTH}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first_line: dict[Hashable, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key_node.tag != _TAG + "str":
                self._refuse(key_node, path, f"the key {key} is not a string; put it in quotes")
                continue
            if key in result:
                self._refuse(key_node, (*path, key), f"stands twice; the first is on line {first_line[key]}")
                continue
            first_line[key] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, (*path, key))
            self.lines[(*path, key)] = first_line[key]
        return result

    def _scalar(self, node: yaml.Node, path: Path) -> Any:  # noqa: PLR0911 - one return for each kind reads best
        text, kind = str(node.value), node.tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true" if text.lower() in ("true", "false") else text
        if kind == "int" and _INTEGER.fullmatch(text):
            return int(text)
        if kind == "float" and _REAL.fullmatch(text):
            return Decimal(text.replace("_", ""))
        if kind == "timestamp":
            try:
                return date.fromisoformat(text)
            except ValueError:
                return self._refuse(node, path, f"{text} is not a date (YYYY-MM-DD)")
        if kind != "str":
            return self._refuse(node, path, f"{text!r} is not read here; write a plain decimal, or put it in quotes")
        return text

    def _refuse(self, node: yaml.Node, path: Path, problem: str) -> None:
        place = Document(self.name, None, {path: node.start_mark.line + 1}).place(path)
        self.problems.append(f"{place}: {problem}")
