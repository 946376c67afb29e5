"""How many values a body may have."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from edge.wire.breadth import MAX_VALUES, refuse_too_many_values
from meshkit.errors import MeshError

HELLO = [{"role": "user", "content": "Hello"}]
NUMBERS = ",".join(["1"] * MAX_VALUES)


def nested(count: int, form: str) -> bytes:
    """A body with ``count`` values and more bytes than so many would need at least."""
    inside: Any = {"members": {str(n): 0 for n in range(count)}, "elements": [0] * count, "objects": [{}] * count}
    return orjson.dumps({"x": inside[form], "text": " " * 2 * MAX_VALUES})


@pytest.mark.parametrize("form", ["members", "elements", "objects"])
def test_more_values_than_can_be_read_at_once_are_refused(form: str) -> None:
    refuse_too_many_values(nested(MAX_VALUES // 2 - 10, form))
    with pytest.raises(MeshError, match="more than the 200000 values"):
        refuse_too_many_values(nested(MAX_VALUES + 1, form))


@pytest.mark.parametrize(
    "text",
    [
        NUMBERS,
        '[{"' + NUMBERS + '"}]\\',
        '\\" ,[{' * 60_000 + "\\\\",
        NUMBERS + "\\",
        "\\" * 1_001 + '"' + NUMBERS,
    ],
    ids=["numbers", "JSON", "quotation marks", "one backslash", "many"],
)
def test_commas_and_brackets_of_texts_are_no_values(text: str) -> None:
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": text}], "after": [1, 2, 3]})
    assert sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES or len(text) < 2 * MAX_VALUES
    refuse_too_many_values(body)
    with pytest.raises(MeshError):
        refuse_too_many_values(body[:-1] + b',"x":[' + NUMBERS.encode() + b",1]}")


async def test_the_client_is_told_and_nothing_else_is_asked(world: Any) -> None:
    body = {"model": "gpt-4o-mini", "messages": HELLO, "logit_bias": {str(n): 0 for n in range(MAX_VALUES)}}
    refused = await world.post(orjson.dumps(body))
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
    assert "200000 values" in refused.json()["error"]["message"]
    assert not world.cache.lookups
