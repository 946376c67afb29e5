"""Models and aliases in the form of OpenAI's model objects, with what the catalog knows beside it."""

from __future__ import annotations

from typing import Any

from tallygate.catalog.v1 import catalog_pb2

_CAPABILITIES = tuple(field.name for field in catalog_pb2.Capabilities.DESCRIPTOR.fields)


def model_json(model: catalog_pb2.Model, *, alias: str | None = None) -> dict[str, Any]:
    """A model object; under the name of an alias, with ``alias_of``."""
    known = {
        "id": alias or model.id,
        "object": "model",
        "created": model.released_at_s,
        "owned_by": model.owned_by,
        "name": model.display_name or model.id,
        "context_length": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "capabilities": [name for name in _CAPABILITIES if getattr(model.capabilities, name)],
    }
    return known | {"alias_of": model.id} if alias else known
