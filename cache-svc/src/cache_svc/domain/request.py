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
class Facts:
    """What the key has beside the body, written. ``before`` and ``after``: the place of the purge epochs."""

    before: bytes
    after: bytes
    epoch_names: tuple[str, str, str]
    shared: bool

    def under(self, epochs: Sequence[int]) -> bytes:
        """With these purge epochs."""
        return b"".join((self.before, _epochs_written(tuple(epochs)), self.after))


@dataclass(slots=True)
class CacheRequest:
    """A parsed request, never changed (and not frozen, which would be a tenth of a key). ``body`` is what of it is in
    the key.

    ``canonical`` is the key's JSON without the purge epochs: the bytes that a hit compares. ``address`` is its SHA-256:
    where the entry lies, whatever the epochs. ``epoch_names`` name the epochs of organisation, of project or what its
    projects share, and of model, in that order.
    """

    canonical: bytes
    address: bytes
    endpoint: str
    body: dict[str, Any]
    stream: bool
    include_usage: bool
    _body_hash: _Hash = field(repr=False, compare=False)
    _facts: Facts = field(repr=False, compare=False)

    @property
    def epoch_names(self) -> tuple[str, str, str]:
        """See the class."""
        return self._facts.epoch_names

    def key(self, epochs: Sequence[int]) -> bytes:
        """K, 32 bytes, under these purge epochs."""
        return _sha256_with(self._body_hash, self._facts.under(epochs))

    def key_of(self, other: bytes, epochs: Sequence[int]) -> bytes:
        """K of another canonical request, whose facts beside its body are this one's."""
        return _sha256_with(hashlib.sha256(other.removesuffix(self.facts_tail)), self._facts.under(epochs))

    @property
    def facts_tail(self) -> bytes:
        """How ``canonical`` ends: all but the body."""
        return self._facts.before + self._facts.after

    @property
    def shared(self) -> bool:
        """Whether other projects of the organisation are in its scope."""
        return self._facts.shared


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
    nested = [name for name, value in body.items() if type(value) in _NESTED]
    if _has_markers(body, nested):
        body = _without_markers(body)
    body_bytes = canonical.dump(body)
    project_id = "" if share_in_org else principal.project_id
    property_order = _property_order(body, nested)
    if "user" in whole:
        group = Group(principal.org_id, project_id, model)
        facts = _facts_of(group, share_in_org, endpoint, policy_epoch, property_order, whole)
    else:
        facts = _facts_again(principal.org_id, project_id, model, share_in_org, endpoint, policy_epoch, property_order)
    body_hash = hashlib.sha256(_BEFORE_BODY)
    body_hash.update(body_bytes)
    rest = facts.before + facts.after
    options = whole.get("stream_options")
    return CacheRequest(
        canonical=b"".join((_BEFORE_BODY, body_bytes, rest)),
        address=_sha256_with(body_hash, rest),
        endpoint=endpoint,
        body=body,
        stream=whole.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        _body_hash=body_hash,
        _facts=facts,
    )


def _facts_of(
    group: Group,
    share_in_org: bool,
    endpoint: str,
    policy_epoch: str,
    property_order: Sequence[Sequence[str]],
    whole: dict[str, Any],
) -> Facts:
    scope: dict[str, Any] = {"org": group.org_id}
    if not share_in_org:
        scope["project"] = group.project_id
    if "user" in whole:
        scope["user"] = whole["user"]
    before: dict[str, Any] = {"endpoint": endpoint, "model": group.model}
    if property_order:
        before["property_order"] = property_order
    after = {"scope": scope, "source_policy_epoch": policy_epoch, "v": KEY_VERSION}
    # One object in the end, of which "body" is the first member, and "purge_epochs" sorts between the two halves.
    return Facts(
        b"," + canonical.dump(before)[1:-1], b"," + canonical.dump(after)[1:], epoch_names_of(group), share_in_org
    )


@lru_cache(maxsize=4096)
def _facts_again(
    org_id: str,
    project_id: str,
    model: str,
    share_in_org: bool,
    endpoint: str,
    policy_epoch: str,
    property_order: Sequence[Sequence[str]],
) -> Facts:
    """Remembered: they are the same for all requests of a project for a model with the same tools."""
    group = Group(org_id, project_id, model)
    return _facts_of(group, share_in_org, endpoint, policy_epoch, property_order, {})


@lru_cache(maxsize=4096)
def _epochs_written(epochs: tuple[int, ...]) -> bytes:
    # As text: an epoch may be beyond 2^53-1.
    return b',"purge_epochs":' + canonical.dump([str(epoch) for epoch in epochs])


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


def _sha256_with(body_hash: _Hash, rest: bytes) -> bytes:
    # The body is hashed once for the address and for the key under any epochs: it is nearly all of what is hashed.
    whole = body_hash.copy()
    whole.update(rest)
    return whole.digest()


_MARKER = "cache_control"
_MARKED_LISTS = ("messages", "tools", "functions")


def _has_markers(body: dict[str, Any], nested: list[str]) -> bool:
    """Whether ``_without_markers`` would find one. To look for the name in the body's bytes costs twice as much."""
    if _MARKER in body:
        return True
    return any(name in _MARKED_LISTS and _any_marked(body[name]) for name in nested)


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


def _property_order(body: dict[str, Any], nested: list[str]) -> Sequence[Sequence[str]]:
    """The order in which each schema in ``body`` names its properties; schemas go by their sorted paths. ``nested``:
    the members that are objects or lists, markers among them.

    Sources answer with the properties in the order of the schema
    (https://platform.openai.com/docs/guides/structured-outputs, "Key ordering"), so whoever moves `reasoning` before
    `answer` asks for another answer. It is the one place where the order of an object's keys is content.
    """
    schemas = {name: body[name] for name in nested if name != "messages" and name in body}
    if not schemas:
        return ()
    # Clients send the same tools with each request, and to write them costs a tenth of walking them.
    written = orjson.dumps(schemas)
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
