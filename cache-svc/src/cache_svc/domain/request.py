"""A request as the cache sees it, and the key under which its answer is found.

    K = SHA-256(canonical({v, scope, endpoint, model, source_policy_epoch, purge_epochs, body}))

is one JSON object, never joined strings. The body goes in whole but for a deny-list: what an allow-list forgets is a
wrong hit, what a deny-list forgets is only a miss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from cache_svc.domain import canonical
from meshkit.principal import Principal

if TYPE_CHECKING:
    from hashlib import _Hash

KEY_VERSION = 1
"""Raised when the recipe changes, so that keys of two recipes never meet."""

NOT_IN_KEY = frozenset(
    {
        "stream",  # how the answer is sent, not what it says
        "stream_options",
        "metadata",
        "trace_id",
        "request_id",
        "traceparent",
        "tracestate",
        "prompt_cache_key",
        "tallygate",  # the gateway's own controls
    }
)
"""Body fields that name or route a request and do not change its answer."""

_ELSEWHERE_IN_KEY = frozenset({"model", "user"})  # `model` after aliases; `user` in the scope


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """A parsed request. ``body`` is what of it is in the key.

    ``canonical`` is the key's JSON without the purge epochs: the bytes that a hit compares. ``address`` is its SHA-256:
    where the entry lies, whatever the epochs. ``epoch_names`` name the epochs of organisation, project and model, in
    that order.
    """

    canonical: bytes
    address: bytes
    epoch_names: tuple[str, str, str]
    endpoint: str
    body: dict[str, Any]
    stream: bool
    include_usage: bool
    _body_hash: _Hash = field(repr=False, compare=False)
    _facts: dict[str, Any] = field(repr=False, compare=False)

    def key(self, epochs: Sequence[int]) -> bytes:
        """K, 32 bytes, under these purge epochs."""
        return _sha256_with(self._body_hash, self._after_body_under(epochs))

    def key_of(self, other: bytes, epochs: Sequence[int]) -> bytes:
        """K of another canonical request, whose facts beside its body are this one's."""
        return _sha256_with(hashlib.sha256(other.removesuffix(self.facts_tail)), self._after_body_under(epochs))

    @property
    def facts_tail(self) -> bytes:
        """How ``canonical`` ends: all but the body."""
        return _after_body(self._facts)

    @property
    def shared(self) -> bool:
        """Whether other projects of the organisation are in its scope."""
        return "project" not in self._facts["scope"]

    def _after_body_under(self, epochs: Sequence[int]) -> bytes:
        # As text: an epoch may be beyond 2^53-1.
        return _after_body({**self._facts, "purge_epochs": [str(epoch) for epoch in epochs]})


def read_request(*, principal: Principal, endpoint: str, model: str, policy_epoch: str, raw: bytes) -> CacheRequest:
    """The request of ``raw``, a client's body.

    Raises:
        NotCanonical: the body has no canonical form.
    """
    whole = canonical.parse_object(raw)
    body = {name: value for name, value in whole.items() if name not in NOT_IN_KEY and name not in _ELSEWHERE_IN_KEY}
    body_bytes = canonical.dump(body)
    if b'"cache_control":' in body_bytes:
        body = _without_markers(body)
        body_bytes = canonical.dump(body)
    scope = {"org": principal.org_id, "project": principal.project_id}
    if "user" in whole:
        scope["user"] = whole["user"]
    facts: dict[str, Any] = {
        "endpoint": endpoint,
        "model": model,
        "scope": scope,
        "source_policy_epoch": policy_epoch,
        "v": KEY_VERSION,
    }
    property_order: list[list[str]] = []
    _collect_property_order({name: value for name, value in body.items() if name != "messages"}, property_order)
    if property_order:
        facts["property_order"] = property_order
    opening, rest = b'{"body":' + body_bytes, _after_body(facts)
    body_hash = hashlib.sha256(opening)
    options = whole.get("stream_options")
    return CacheRequest(
        canonical=opening + rest,
        address=_sha256_with(body_hash, rest),
        epoch_names=(
            epoch_name(principal.org_id),
            epoch_name(principal.org_id, project_id=principal.project_id),
            epoch_name(principal.org_id, model=model),
        ),
        endpoint=endpoint,
        body=body,
        stream=whole.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        _body_hash=body_hash,
        _facts=facts,
    )


def epoch_name(org_id: str, *, project_id: str = "", model: str = "") -> str:
    """What the purge epoch of an organisation, of a project in it or of a model in it is called."""
    if project_id:
        return orjson.dumps(["project", org_id, project_id]).decode()
    if model:
        return orjson.dumps(["model", org_id, model]).decode()
    return orjson.dumps(["org", org_id]).decode()


def _after_body(facts: dict[str, Any]) -> bytes:
    """The rest of the object whose first member is the body: "body" sorts before every fact."""
    return b"," + canonical.dump(facts)[1:]


def _sha256_with(body_hash: _Hash, rest: bytes) -> bytes:
    # The body is hashed once for the address and for the key under any epochs: it is nearly all of what is hashed.
    whole = body_hash.copy()
    whole.update(rest)
    return whole.digest()


def _without_markers(body: dict[str, Any]) -> dict[str, Any]:
    """``body`` without `cache_control` where it marks a message, a content part, a tool call or a tool.

    Not wherever the name occurs: a tool may have a parameter of that name, and that is content.
    """
    cleaned = dict(body)
    for name in ("messages", "tools", "functions"):
        if isinstance(cleaned.get(name), list):
            cleaned[name] = [_unmarked(item) for item in cleaned[name]]
    return cleaned


def _unmarked(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    cleaned = {name: value for name, value in item.items() if name != "cache_control"}
    for name in ("content", "tool_calls"):
        if isinstance(cleaned.get(name), list):
            cleaned[name] = [_unmarked(part) for part in cleaned[name]]
    if isinstance(cleaned.get("function"), dict):
        cleaned["function"] = {name: value for name, value in cleaned["function"].items() if name != "cache_control"}
    return cleaned


def _collect_property_order(value: dict[str, Any] | list[Any], orders: list[list[str]]) -> None:
    """Adds the order in which each schema in ``value`` names its properties; schemas go by their sorted paths.

    Sources answer with the properties in the order of the schema
    (https://platform.openai.com/docs/guides/structured-outputs, "Key ordering"), so whoever moves `reasoning` before
    `answer` asks for another answer. It is the one place where the order of an object's keys is content.
    """
    # Exact types, no generator, no sort of one: this runs over every tool of every request.
    if type(value) is list:
        for item in value:
            if type(item) is dict or type(item) is list:
                _collect_property_order(item, orders)
        return
    assert type(value) is dict
    if "properties" in value and type(value["properties"]) is dict and len(value["properties"]) > 1:
        orders.append(list(value["properties"]))
    inner = [name for name, child in value.items() if type(child) is dict or type(child) is list]
    for name in sorted(inner) if len(inner) > 1 else inner:
        _collect_property_order(value[name], orders)
