"""Who is calling. The ledger knows; its answer is kept for as long as it allows, and dropped when a key is revoked.

The secret itself is kept nowhere: entries are found by its SHA-256. A refusal is not kept at all. What is kept is a
shortcut and no licence: the ledger checks the key again whenever it holds or charges.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import structlog
from starlette.requests import Request

from edge.errors import refusal
from edge.exchange import Exchange
from edge.mesh import Ledger
from meshkit.clock import Clock
from meshkit.errors import MeshError
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


@dataclass(frozen=True, slots=True)
class _Kept:
    caller: Caller
    until_s: float


class Authenticator:
    """Turns the ``Authorization`` header into a principal."""

    def __init__(self, ledger: Ledger, clock: Clock, *, max_entries: int) -> None:
        self._ledger = ledger
        self._clock = clock
        self._max_entries = max_entries
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._revocations = 0

    async def authenticate(self, request: Request) -> Caller:
        """Who sent the request, whatever its key is for; noted in its exchange.

        Raises:
            MeshError: INVALID_API_KEY, API_KEY_REVOKED, or the ledger is away.
        """
        caller = await self._holder(_bearer(request.headers.get("authorization")))
        exchange = Exchange.of(request.scope)
        principal = caller.principal
        exchange.org_id, exchange.project_id, exchange.key_id = principal.org_id, principal.project_id, principal.key_id
        return caller

    async def for_inference(self, request: Request) -> Caller:
        """Who sent a request that calls a model.

        Raises:
            MeshError: as ``authenticate``; PERMISSION_DENIED for a key that is not for that.
        """
        Exchange.of(request.scope).is_inference = True
        caller = await self.authenticate(request)
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

    async def _holder(self, secret: str) -> Caller:
        digest = hashlib.sha256(secret.encode()).digest()
        kept = self._kept.get(digest)
        if kept is not None and self._clock.monotonic_s() < kept.until_s:
            self._kept.move_to_end(digest)
            return kept.caller
        return await self._ask(secret, digest)

    async def _ask(self, secret: str, digest: bytes) -> Caller:
        asked_at_s, revocations = self._clock.monotonic_s(), self._revocations
        answer = await self._ledger.authenticate(secret)
        caller = Caller(answer.principal, answer.policy)
        # An answer that crossed a revocation may be older than it: good for this request, which the ledger checks
        # again, but not to be kept.
        if revocations == self._revocations and answer.valid_for_ms > 0:
            self._kept[digest] = _Kept(caller, asked_at_s + answer.valid_for_ms / 1_000)
            self._kept.move_to_end(digest)
            while len(self._kept) > self._max_entries:
                self._kept.popitem(last=False)
        return caller

    def forget(self, key_id: str) -> None:
        """Drops what is kept of a key that was revoked; of every key for the empty id, with which a watch begins."""
        self._revocations += 1
        if not key_id:
            self._kept.clear()
            return
        for digest in [digest for digest, kept in self._kept.items() if kept.caller.principal.key_id == key_id]:
            del self._kept[digest]
        _log.info("key_revoked", key_id=key_id)


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
