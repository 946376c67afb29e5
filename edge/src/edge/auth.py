"""Who is calling. The ledger knows; its answer is kept for as long as it allows, and dropped when a key is revoked,
rotated or changed.

The secret itself is kept nowhere: entries are found by its SHA-256. A refusal is not kept at all. What is kept is a
shortcut and no licence: the ledger checks the key again whenever it holds or charges.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from starlette.requests import Request

from edge.errors import refusal
from edge.exchange import Exchange
from edge.limits import NOT_VALID, RateLimits
from edge.mesh import Ledger
from edge.origin import Address, Network, client_address, networks_of, text_of
from edge.wire.cache_control import NO_CONTROLS, Controls
from edge.wire.header_lines import HeaderLines
from edge.wire.standing import standing_controls
from meshkit.clock import Clock
from meshkit.codec import region_from_proto
from meshkit.errors import MeshError
from meshkit.regions import RegionPolicy
from tallygate.common.v1 import principal_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2

_MAX_SECRET_CHARS = 256
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, and what its key may do."""

    principal: principal_pb2.Principal
    policy: ledger_pb2.KeyPolicy
    networks: tuple[Network, ...] = ()
    """Where its key may be used from; empty: anywhere."""
    cache: Controls = NO_CONTROLS
    """How its requests use the cache where they don't say."""
    region: RegionPolicy = RegionPolicy.ANY
    """Where its requests may be answered."""


@dataclass(frozen=True, slots=True)
class _Kept:
    caller: Caller
    until_s: float


class Authenticator:
    """Turns the ``Authorization`` header into a principal, for a client that is where its key may be used, and
    counts the request for the limits of its key.

    ``trusted_proxies``: see ``edge.origin``.
    """

    def __init__(
        self, ledger: Ledger, limits: RateLimits, clock: Clock, *, max_entries: int, trusted_proxies: int = 0
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._trusted_proxies = trusted_proxies
        self._clock = clock
        self._max_entries = max_entries
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._revocations = 0

    async def authenticate(self, request: Request) -> Caller:
        """Who sent a request that reads, whatever its key is for.

        Raises:
            MeshError: INVALID_API_KEY, API_KEY_REVOKED, RATE_LIMIT_EXCEEDED, or the ledger is away; PERMISSION_DENIED
                where the key may not be used from the client's address.
        """
        caller = await self._known(request)
        await self._limits.count_account(Exchange.of(request.scope), caller.principal.key_id)
        return caller

    async def for_inference(self, request: Request) -> Caller:
        """Who sent a request that calls a model.

        Raises:
            MeshError: as ``authenticate``; PERMISSION_DENIED for a key that is not for that.
        """
        Exchange.of(request.scope).is_inference = True
        caller = await self._known(request)
        key_id, per_minute = caller.principal.key_id, caller.policy.requests_per_minute
        await self._limits.count_call(Exchange.of(request.scope), key_id, per_minute)
        if caller.policy.scope == ledger_pb2.KEY_SCOPE_ACCOUNT:
            raise _denied("This is an account key: it manages the account and calls no model. Use an inference key.")
        if caller.policy.read_only:
            raise _denied("This API key only reads. Use one that may spend.")
        return caller

    async def for_account(self, request: Request) -> Caller:
        """Who sent a request that reads or changes the account; a GET or HEAD only reads.

        Raises:
            MeshError: as ``authenticate``; PERMISSION_DENIED for a key that is not for that.
        """
        caller = await self.authenticate(request)
        if caller.policy.scope != ledger_pb2.KEY_SCOPE_ACCOUNT:
            raise _denied("This is an inference key: it calls models. Use an account key to manage the account.")
        if caller.policy.read_only and request.method not in {"GET", "HEAD"}:
            raise _denied("This account key only reads. Use one that may change the account.")
        return caller

    async def _known(self, request: Request) -> Caller:
        """Noted in the exchange of the request."""
        exchange = Exchange.of(request.scope)
        address = client_address(request.scope, self._trusted_proxies)
        exchange.address = text_of(address)
        caller = await self._holder(_bearer(HeaderLines.of(request.scope).first(b"authorization")), exchange.address)
        principal = caller.principal
        exchange.org_id, exchange.project_id, exchange.key_id = principal.org_id, principal.project_id, principal.key_id
        if caller.networks:
            _check_address(caller.networks, address)
        return caller

    async def _holder(self, secret: str, address: str) -> Caller:
        digest = hashlib.sha256(secret.encode()).digest()
        kept = self._kept.get(digest)
        if kept is not None and self._clock.monotonic_s() < kept.until_s:
            self._kept.move_to_end(digest)
            return kept.caller
        if kept is None:
            async with self._limits.attempting(address):
                return await self._ask(secret, digest)
        # It was valid a moment ago and is no guess: whoever guesses from the same address must not shut it out.
        try:
            return await self._ask(secret, digest)
        except MeshError as error:
            if error.reason in NOT_VALID:
                self._kept.pop(digest, None)
            raise

    async def _ask(self, secret: str, digest: bytes) -> Caller:
        asked_at_s, revocations = self._clock.monotonic_s(), self._revocations
        answer = await self._ledger.authenticate(secret)
        caller = Caller(
            answer.principal,
            answer.policy,
            networks_of(answer.policy.allowed_cidrs),
            standing_controls(answer),
            region_from_proto(answer.policy.region),
        )
        # An answer that crossed a revocation may be older than it: good for this request, which the ledger checks
        # again, but not to be kept.
        if revocations == self._revocations and answer.valid_for_ms > 0:
            self._kept[digest] = _Kept(caller, asked_at_s + answer.valid_for_ms / 1_000)
            self._kept.move_to_end(digest)
            while len(self._kept) > self._max_entries:
                self._kept.popitem(last=False)
        return caller

    def note_change(self, change: ledger_pb2.WatchRevocationsResponse) -> None:
        """Drops what is kept of what has changed; of every key for the empty message, with which a watch begins."""
        if change.key_id:
            self.forget(change.key_id)
        elif change.org_id:
            self.forget_organization(change.org_id)
        else:
            self._revocations += 1
            self._kept.clear()

    def forget(self, key_id: str) -> None:
        """Drops what is kept of a key that was revoked, rotated or changed."""
        self._drop(lambda principal: principal.key_id == key_id)
        _log.info("key_changed", key_id=key_id)

    def forget_organization(self, org_id: str) -> None:
        """Drops what is kept of all keys of an organisation, which inherit something that has changed."""
        self._drop(lambda principal: principal.org_id == org_id)
        _log.info("keys_changed", org_id=org_id)

    def _drop(self, concerns: Callable[[principal_pb2.Principal], bool]) -> None:
        self._revocations += 1
        for digest in [digest for digest, kept in self._kept.items() if concerns(kept.caller.principal)]:
            del self._kept[digest]


def _check_address(networks: tuple[Network, ...], address: Address | None) -> None:
    if address is None:
        raise _denied(
            "This API key may only be used from certain addresses, and the address of this request is not known: "
            "the proxies before this gateway did not say it in X-Forwarded-For."
        )
    if not any(address in network for network in networks):
        raise _denied(f"This API key may not be used from the address {address}.")


def _denied(message: str) -> MeshError:
    return refusal(ErrorReason.ERROR_REASON_PERMISSION_DENIED, message)


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise refusal(ErrorReason.ERROR_REASON_INVALID_API_KEY, "The request has no API key.")
    scheme, _, secret = authorization.strip().partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise refusal(
            ErrorReason.ERROR_REASON_INVALID_API_KEY, "The Authorization header is not of the form `Bearer KEY`."
        )
    if len(secret) > _MAX_SECRET_CHARS or not secret.isascii():
        raise refusal(ErrorReason.ERROR_REASON_INVALID_API_KEY)
    return secret
