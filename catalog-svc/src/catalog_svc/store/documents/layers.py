"""Documents on top of each other: the seed below, each overlay changes what it names, field by field.

Removing a source takes its offers along, removing a model its offers and aliases. An entry remembers the document
that touched it last, so that what turns out wrong later is named with its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from catalog_svc.domain import CatalogInvalid
from catalog_svc.store.documents import entries
from catalog_svc.store.documents.yaml_exact import Document, Path

SECTIONS = ("sources", "models", "offers", "aliases")


@dataclass
class Layered:
    """An entry after all documents so far: its fields, and where it was last touched."""

    fields: dict[str, Any]
    document: Document
    path: Path

    def place(self, *more: str | int) -> str:
        """Where it was last touched."""
        return self.document.place((*self.path, *more))


@dataclass
class Layers:
    """All documents so far, merged."""

    billing: dict[str, Any] = field(default_factory=dict)
    price_lists: dict[str, entries.PriceListEntry] = field(default_factory=dict)
    sections: dict[str, dict[str, Layered]] = field(default_factory=lambda: {name: {} for name in SECTIONS})

    def copy(self) -> Layers:
        """A copy that can be added to without changing this."""
        sections = {
            name: {key: Layered(dict(entry.fields), entry.document, entry.path) for key, entry in section.items()}
            for name, section in self.sections.items()
        }
        return Layers(dict(self.billing), dict(self.price_lists), sections)

    def add(self, document: Document) -> None:
        """Puts ``document`` on top.

        Raises:
            CatalogInvalid: it does not have the form of a catalog document, or removes what is not there.
        """
        entry = validated(document)
        self.billing |= entry.billing.given()
        self.price_lists |= entry.price_lists
        problems = [problem for name in SECTIONS for problem in self._merge(name, getattr(entry, name), document)]
        if problems:
            raise CatalogInvalid(problems)

    def _merge(self, section: str, changes: Mapping[str, entries.RemovableEntry], document: Document) -> Iterator[str]:
        present = self.sections[section]
        for key, change in changes.items():
            path: Path = (section, key)
            if change.remove:
                if present.pop(key, None) is None:
                    yield f"{document.place(path)}: there is nothing of this name to remove"
                self._remove_dependents(section, key)
                continue
            given = change.given()
            if given.get("price") is not None:
                given["free"] = False
            elif given.get("free"):
                given["price"] = None
            below = present[key].fields if key in present else {}
            present[key] = Layered({**below, **given}, document, path)

    def _remove_dependents(self, section: str, key: str) -> None:
        offers, aliases = self.sections["offers"], self.sections["aliases"]
        part = {"sources": 0, "models": 1}.get(section)
        if part is None:
            return
        for offer_id in [offer_id for offer_id in offers if offer_id.partition("/")[::2][part] == key]:
            del offers[offer_id]
        if section == "models":
            for name in [name for name, alias in aliases.items() if alias.fields.get("model") == key]:
                del aliases[name]


def validated(document: Document) -> entries.DocumentEntry:
    """The document as entries.

    Raises:
        CatalogInvalid: with a line for each field that is not right.
    """
    try:
        return entries.DocumentEntry.model_validate(document.data)
    except ValidationError as error:
        raise CatalogInvalid(_problems(document, error)) from error


def _problems(document: Document, error: ValidationError) -> Iterable[str]:
    # The input is left out on purpose: someone may have put a key where the name of its variable belongs.
    for detail in error.errors(include_url=False, include_input=False):
        path = tuple(part for part in detail["loc"] if part != "[key]")
        if detail["type"] == "extra_forbidden":
            known = ", ".join(sorted(_fields_at(path[:-1])))
            yield f"{document.place(path)}: there is no such field here; known are: {known}"
        else:
            yield f"{document.place(path)}: {_in_words(detail['type'], detail['msg'])}"


def _in_words(kind: str, message: str) -> str:
    say: Callable[[str], str] | None = _WORDS.get(kind)
    return say(message) if say else message.removeprefix("Value error, ")


_WORDS: dict[str, Callable[[str], str]] = {
    "missing": lambda _: "is required here",
    "string_type": lambda _: "must be a string; put it in quotes",
    "int_type": lambda _: "must be a whole number",
    "bool_type": lambda _: "must be true or false",
    "bool_parsing": lambda _: "must be true or false",
    "dict_type": lambda _: "must be a mapping",
    "model_type": lambda _: "must be a mapping of fields",
    "model_attributes_type": lambda _: "must be a mapping of fields",
    "tuple_type": lambda _: "must be a list",
    "date_type": lambda _: "must be a date (YYYY-MM-DD)",
}


def _fields_at(path: Path) -> Iterable[str]:
    """The fields that may stand under ``path``."""
    here: Any = entries.DocumentEntry
    for part in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[str(part)].annotation
        else:
            here = next(iter(get_args(here)[-1:]), None) if not _is_tuple(here) else get_args(here)[0]
        here = _without_none(here)
    return here.model_fields if isinstance(here, type) and issubclass(here, BaseModel) else ()


def _is_tuple(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is tuple


def _without_none(annotation: Any) -> Any:
    options = [option for option in get_args(annotation) if option is not type(None)]
    return options[0] if type(None) in get_args(annotation) and options else annotation
