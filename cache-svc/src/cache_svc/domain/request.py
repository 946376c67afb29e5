"""A request as the cache sees it, and the key under which its answer is found.

    K = SHA-256(canonical({v, scope, endpoint, model, source_policy_epoch, purge_epochs, body}))

is one JSON object, never joined strings. The body goes in whole but for a deny-list: what an allow-list forgets is a
wrong hit, what a deny-list forgets is only a miss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
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
_OUTSIDE_BODY = NOT_IN_KEY | _ELSEWHERE_IN_KEY
_BEFORE_BODY = b'{"body":'


@dataclass(frozen=True, slots=True)
class Group:
    """Of what entries and lookups are counted together. ``project_id`` "": shared by the organisation's projects."""

    org_id: str
    project_id: str
    model: str


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """A parsed request. ``body`` is what of it is in the key.

    ``canonical`` is the key's JSON without the purge epochs: the bytes that a hit compares. ``address`` is its SHA-256:
    where the entry lies, whatever the epochs. ``epoch_names`` name the epochs of organisation, of project or what its
    projects share, and of model, in that order.
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


def read_request(
    *, principal: Principal, endpoint: str, model: str, policy_epoch: str, raw: bytes, share_in_org: bool = False
) -> CacheRequest:
    """The request of ``raw``, a client's body. ``share_in_org``: whatever the project; a shared and an unshared request
    never meet.

    Raises:
        NotCanonical: the body has no canonical form.
    """
    return keyed(
        canonical.parse_object(raw),
        principal=principal,
        endpoint=endpoint,
        model=model,
        policy_epoch=policy_epoch,
        share_in_org=share_in_org,
    )


def keyed(
    whole: dict[str, Any],
    *,
    principal: Principal,
    endpoint: str,
    model: str,
    policy_epoch: str,
    share_in_org: bool = False,
) -> CacheRequest:
    """The request of ``whole``, a client's body as ``canonical`` parsed it: all of the work on a key but the parsing.

    Raises:
        NotCanonical: the body has no canonical form.
    """
    body = {name: value for name, value in whole.items() if name not in _OUTSIDE_BODY}
    if _has_markers(body):
        body = _without_markers(body)
    body_bytes = canonical.dump(body)
    scope = {"org": principal.org_id}
    if not share_in_org:
        scope["project"] = principal.project_id
    if "user" in whole:
        scope["user"] = whole["user"]
    facts: dict[str, Any] = {
        "endpoint": endpoint,
        "model": model,
        "scope": scope,
        "source_policy_epoch": policy_epoch,
        "v": KEY_VERSION,
    }
    property_order = _property_order(body)
    if property_order:
        facts["property_order"] = property_order
    rest = _after_body(facts)
    body_hash = hashlib.sha256(_BEFORE_BODY)
    body_hash.update(body_bytes)
    options = whole.get("stream_options")
    return CacheRequest(
        canonical=b"".join((_BEFORE_BODY, body_bytes, rest)),
        address=_sha256_with(body_hash, rest),
        epoch_names=epoch_names_of(Group(principal.org_id, "" if share_in_org else principal.project_id, model)),
        endpoint=endpoint,
        body=body,
        stream=whole.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        _body_hash=body_hash,
        _facts=facts,
    )


@lru_cache(maxsize=4096)
def epoch_name(org_id: str, *, project_id: str = "", model: str = "") -> str:
    """What the purge epoch of an organisation, of a project in it or of a model in it is called."""
    if project_id:
        return orjson.dumps(["project", org_id, project_id]).decode()
    if model:
        return orjson.dumps(["model", org_id, model]).decode()
    return orjson.dumps(["org", org_id]).decode()


def shared_epoch_name(org_id: str) -> str:
    """What the purge epoch of the answers that an organisation's projects share is called."""
    return orjson.dumps(["shared", org_id]).decode()


def epoch_names_of(group: Group) -> tuple[str, str, str]:
    """Those of the requests of ``group``."""
    org_id = group.org_id
    whose = epoch_name(org_id, project_id=group.project_id) if group.project_id else shared_epoch_name(org_id)
    return epoch_name(org_id), whose, epoch_name(org_id, model=group.model)


def group_of(epoch_names: Sequence[str]) -> Group:
    """Whose entries have the ``epoch_names`` of a request."""
    (_, org_id), whose, (_, _, model) = map(orjson.loads, epoch_names)
    return Group(org_id, whose[2] if whose[0] == "project" else "", model)


def _after_body(facts: dict[str, Any]) -> bytes:
    """The rest of the object whose first member is the body: "body" sorts before every fact."""
    return b"," + canonical.dump(facts)[1:]


def _sha256_with(body_hash: _Hash, rest: bytes) -> bytes:
    # The body is hashed once for the address and for the key under any epochs: it is nearly all of what is hashed.
    whole = body_hash.copy()
    whole.update(rest)
    return whole.digest()


_MARKER = "cache_control"
_MARKED_LISTS = ("messages", "tools", "functions")


def _has_markers(body: dict[str, Any]) -> bool:
    """Whether ``_without_markers`` would find one. To look for the name in the body's bytes costs twice as much."""
    return _MARKER in body or any(map(_any_marked, map(body.get, _MARKED_LISTS)))


def _any_marked(items: Any) -> bool:
    if type(items) is not list:
        return False
    for item in items:  # every message of every request: exact types, and no call where there is nothing to look into
        if type(item) is not dict:
            continue
        if _MARKER in item or (type(item.get("content")) is list and _any_marked(item["content"])):
            return True
        if "tool_calls" in item and _any_marked(item["tool_calls"]):
            return True
        if "function" in item and type(item["function"]) is dict and _MARKER in item["function"]:
            return True
    return False


def _without_markers(body: dict[str, Any]) -> dict[str, Any]:
    """``body`` without `cache_control` where it marks the request, a message, a content part, a tool call or a tool.

    Not wherever the name occurs: a tool may have a parameter of that name, and that is content.
    """
    cleaned = _unmarked_object(body)
    for name in _MARKED_LISTS:
        if type(cleaned.get(name)) is list:
            cleaned[name] = [_unmarked(item) for item in cleaned[name]]
    return cleaned


def _unmarked(item: Any) -> Any:
    if type(item) is not dict:
        return item
    cleaned = _unmarked_object(item)
    for name in ("content", "tool_calls"):
        if type(cleaned.get(name)) is list:
            cleaned[name] = [_unmarked(part) for part in cleaned[name]]
    if type(cleaned.get("function")) is dict:
        cleaned["function"] = _unmarked_object(cleaned["function"])
    return cleaned


def _unmarked_object(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != _MARKER or not _marks(value)}


def _marks(value: Any) -> bool:
    """A marker as Anthropic and OpenRouter have it, or null. Anything else of that name is left, and so in the key."""
    return value is None or (type(value) is dict and value.keys() <= _MARKER_FIELDS)


_MARKER_FIELDS = frozenset({"type", "ttl"})


def _property_order(body: dict[str, Any]) -> Sequence[Sequence[str]]:
    """The order in which each schema in ``body`` names its properties; schemas go by their sorted paths.

    Sources answer with the properties in the order of the schema
    (https://platform.openai.com/docs/guides/structured-outputs, "Key ordering"), so whoever moves `reasoning` before
    `answer` asks for another answer. It is the one place where the order of an object's keys is content.
    """
    nested = {name: value for name, value in body.items() if type(value) in _NESTED and name != "messages"}
    if not nested:
        return ()
    # Clients send the same tools with each request, and to write them costs a tenth of walking them.
    written = orjson.dumps(nested)
    return _property_order_in(written) if len(written) <= _REMEMBERED_BYTES else _collected_from(written)


_NESTED = (dict, list)
_REMEMBERED_BYTES = 16 * 1024
"""The longest tools and schemas whose property order is remembered: of 256 of them, so 4 MiB at most."""


def _collected_from(written: bytes) -> Sequence[Sequence[str]]:
    if b'"properties":' not in written:
        return ()
    orders: list[list[str]] = []
    _collect_property_order(orjson.loads(written), orders)
    return tuple(map(tuple, orders))


_property_order_in = lru_cache(maxsize=256)(_collected_from)


def _collect_property_order(value: dict[str, Any] | list[Any], orders: list[list[str]]) -> None:
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
