"""What a request can ask for that a source bills apart from text tokens, or at another model's price.

No offer states such a price, so a request for it is refused: it is never served below what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_PRICED_SERVICE_TIERS = frozenset({None, "auto", "default", "standard", "standard_only"})
_CLIENT_TOOLS = frozenset({"function", "custom"})
_UNPRICED_FIELDS = (
    "web_search_options",  # OpenAI
    "search_parameters",  # xAI
    "enable_search",  # Alibaba
    "search_options",
    "plugins",  # OpenRouter: web search, file parsing
    "models",  # OpenRouter: another model may answer, at its own price and past the key's allow-list
    "route",
    "preset",
    "transforms",
    "data_sources",  # Azure OpenAI
    "tool_resources",
    "mcp_servers",
    "container",
)
_HARMLESS_PROVIDER_FIELDS = frozenset({"allow_fallbacks", "data_collection", "require_parameters", "zdr"})
_UNPRICED_PARTS = frozenset({"input_audio", "audio_url", "video_url"})


def unpriced_in(fields: Mapping[str, Any], parts: list[dict[str, Any]]) -> Iterator[str]:
    """In words, each thing that the request asks for and no offer has a price for. ``parts``: of all messages."""
    tier = fields.get("service_tier")
    if not (tier is None or isinstance(tier, str)) or tier not in _PRICED_SERVICE_TIERS:
        yield f"service_tier {tier!r}"
    for name in _UNPRICED_FIELDS:
        if fields.get(name) not in (None, False, [], {}) or (name == "web_search_options" and name in fields):
            yield name
    provider = fields.get("provider")
    if provider is not None and not (isinstance(provider, dict) and provider.keys() <= _HARMLESS_PROVIDER_FIELDS):
        yield "provider"
    modalities = fields.get("modalities")
    if modalities is not None and modalities != ["text"]:
        yield "modalities other than text"
    if any(part.get("type") == kind for part in parts for kind in _UNPRICED_PARTS):
        yield "audio and video"
    tools = fields.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type", "function") if isinstance(tool, dict) else "function"
        if not isinstance(kind, str) or kind not in _CLIENT_TOOLS:
            yield f"the hosted tool {kind!r}"
