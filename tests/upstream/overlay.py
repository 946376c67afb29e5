"""The catalog overlay (catalog-svc/README.md) under which a gateway knows the scripted upstream.

Prices are round, per million tokens: input $1, cached input $0.10, output $2. A gateway adds its passthrough markup.
"""

from __future__ import annotations

import json

from tests.upstream.behaviour import BEHAVIOURS

SOURCES = ("scripted", "scripted2")
API_KEY_ENVS = {"scripted": "SCRIPTED_API_KEY", "scripted2": "SCRIPTED2_API_KEY"}
API_KEYS = {"SCRIPTED_API_KEY": "sk-scripted-one", "SCRIPTED2_API_KEY": "sk-scripted-two"}
"""The environment that a gateway must have to call both; the upstream does not check it, tests may."""

DOWN_SOURCE = "scripted-down"
"""A source whose connections are refused."""

PRICE = {"input": 1, "output": 2, "cached_input": 0.1}
PER_CALL_PRICE = {"input": 0, "output": 0, "per_call": 0.01}
"""Where the worst case of a request equals what it costs: one cent, whatever is said."""

CONTEXT_TOKENS = 200_000
MAX_OUTPUT_TOKENS = 1_000
CAPABILITIES = ["tools", "vision", "json_object", "json_schema"]

ON_BOTH = frozenset(
    {"test/500", "test/429", "test/500-once", "test/500-twice", "test/429-once", "test/cut-at-once-once", "test/400"}
)
"""Models with an offer at each source; the others are at the first only."""


def overlay_yaml(url: str, down_url: str) -> str:
    """The overlay for an upstream at ``url``; at ``down_url`` connections are refused. JSON, which is YAML."""
    models = {name: _model(name) for name in BEHAVIOURS}
    offers: dict[str, dict[str, object]] = {}
    for name in BEHAVIOURS:
        at = (DOWN_SOURCE,) if name == "test/refused" else SOURCES if name in ON_BOTH else SOURCES[:1]
        offers |= {f"{source}/{name}": _offer(name) for source in at}
    sources: dict[str, dict[str, object]] = {
        source: {
            "name": f"Scripted upstream ({source})",
            "base_url": f"{url}/{source}/v1",
            "api_key_env": API_KEY_ENVS[source],
            "cancel_stops_billing": source == SOURCES[0],
        }
        for source in SOURCES
    }
    sources[DOWN_SOURCE] = {"name": "Scripted upstream that is not there", "base_url": f"{down_url}/v1"}
    aliases = {"test-alias": "test/ok"}
    return json.dumps({"sources": sources, "models": models, "offers": offers, "aliases": aliases}, indent=1)


def _model(name: str) -> dict[str, object]:
    return {
        "name": f"Scripted {name.removeprefix('test/')}",
        "owned_by": "tallygate-tests",
        "context_tokens": CONTEXT_TOKENS,
        "max_output_tokens": MAX_OUTPUT_TOKENS,
        "capabilities": _capabilities(name),
        "released": "2026-01-01",
    }


def _capabilities(name: str) -> list[str]:
    if name == "test/text-only":
        return []
    return [*CAPABILITIES, "reasoning"] if name == "test/reasoning-usage" else CAPABILITIES


def _offer(name: str) -> dict[str, object]:
    if name == "test/unpriced":
        return {"upstream_model": name}
    return {"upstream_model": name, "price": PER_CALL_PRICE if name == "test/per-call" else PRICE}
