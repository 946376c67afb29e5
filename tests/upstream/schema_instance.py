"""The smallest instance of a JSON schema: what a model held to that schema might say."""

from __future__ import annotations

from typing import Any


def instance_of(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """An instance, the same each time. Knows what SDKs generate: objects, arrays, scalars, enums, anyOf, $ref."""
    root = schema if root is None else root
    if "$ref" in schema:
        return instance_of(_resolve(schema["$ref"], root), root)
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if schema.get("enum"):
        return schema["enum"][0]
    for union in ("anyOf", "oneOf", "allOf"):
        if schema.get(union):
            return instance_of(schema[union][0], root)
    return _of_type(schema, root)


def _of_type(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: instance_of(part, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance_of(schema.get("items", {}), root) for _ in range(max(1, schema.get("minItems", 1)))]
    integer = min(max(7, schema.get("minimum", 7)), schema.get("maximum", 7))
    scalars: dict[str, Any] = {"integer": integer, "number": 7.5, "boolean": True, "null": None}
    return scalars.get(kind, "scripted")


def _resolve(pointer: str, root: dict[str, Any]) -> dict[str, Any]:
    found: Any = root
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, dict)
    return found
