"""Which limits a request stands under, what it is told of them, and the refusal of one that is over.

Per API key: requests that call a model, the tokens of these, and requests to the routes that manage and read. Per
client address: API keys that turn out not to be valid.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from typing import Any

import structlog

from edge.errors import refusal
from edge.exchange import Exchange
from edge.limits.limiter import LimiterAway, RateLimiter
from edge.limits.window import Verdict
from edge.mesh import Probe
from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason

NOT_VALID = {ErrorReason.ERROR_REASON_INVALID_API_KEY, ErrorReason.ERROR_REASON_API_KEY_REVOKED}
"""What the ledger says of a key that may be a guess."""
_IPV6_SITE_BITS = 64
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FixedLimits:
    """By the minute, of the installation and not of a key; 0: none."""

    account_requests: int
    """Of one API key, to the routes that manage and read."""
    failed_authentications: int
    """Of one client address; of an IPv6 address the /64 that it is in."""


class Tokens:
    """What a request has taken of its key's tokens, until it is known what it used."""

    def __init__(self, rates: RateLimits | None = None, bucket: str = "", taken: Verdict | None = None) -> None:
        self._rates = rates
        self._bucket = bucket
        self._taken = taken

    def used(self, tokens: int) -> None:
        """So many tokens were settled; 0 for a replay or a refusal. Counts once; nobody waits for it."""
        taken, self._taken = self._taken, None
        if self._rates is not None and taken is not None and tokens != taken.weight:
            self._rates.correct(self._bucket, taken, tokens)


class RateLimits:
    """The limits of one edge. ``limiter``: of keys. ``addresses``: of client addresses, in this process alone: that
    spares the ledger, and whoever has many addresses must not fill what edges share. ``backend``: says whether what
    edges share is there; None: nothing is shared.
    """

    def __init__(
        self, limiter: RateLimiter, addresses: RateLimiter, fixed: FixedLimits, *, backend: Probe | None = None
    ) -> None:
        self.backend = backend
        self._limiter = limiter
        self._addresses = addresses
        self._fixed = fixed
        self._tasks: set[asyncio.Task[None]] = set()

    async def count_call(self, exchange: Exchange, key_id: str, per_minute: int) -> None:
        """Counts a request that calls a model.

        Raises:
            MeshError: RATE_LIMIT_EXCEEDED.
        """
        await self._count(exchange, f"calls:{key_id}", per_minute, "")

    async def count_account(self, exchange: Exchange, key_id: str) -> None:
        """Counts a request that manages or reads.

        Raises:
            MeshError: RATE_LIMIT_EXCEEDED.
        """
        per_minute = self._fixed.account_requests
        await self._count(exchange, f"account:{key_id}", per_minute, " that read or manage")

    async def take_tokens(
        self, exchange: Exchange, key_id: str, per_minute: int, estimate: int, *, calls_per_minute: int
    ) -> Tokens:
        """Takes what a request may use. ``calls_per_minute``: the other limit, which must have room too before a
        request that is refused may come again.

        Raises:
            MeshError: RATE_LIMIT_EXCEEDED.
        """
        if not per_minute:
            return Tokens()
        bucket = f"tokens:{key_id}"
        verdict = await self._limiter.take(bucket, per_minute, max(1, estimate))
        exchange.headers += _token_headers(verdict)
        if verdict.passed:
            return Tokens(self, bucket, verdict)
        allowed = f"The limit of this API key is {_counted(per_minute, 'token')} per minute"
        if verdict.retry_after_us is None:
            message = f"{allowed}, and this request may take {estimate}. Send a shorter one, or set a lower max_tokens."
            raise refusal(ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED, message, retry="false")
        left = f"{verdict.remaining} of it are left, and this request may take {estimate}"
        if calls_per_minute:
            calls = await self._limiter.ask(f"calls:{key_id}", calls_per_minute)
            verdict = replace(verdict, retry_after_us=max(verdict.retry_after_us, calls.retry_after_us or 0))
        raise _exceeded(f"{allowed}; {left}.", verdict)

    @asynccontextmanager
    async def attempting(self, address: str) -> AsyncIterator[None]:
        """Inside, a client at ``address`` is asked about at the ledger. Counts if its key turns out not to be valid.

        It counts from the beginning, so that no more than allowed are tried at the same time either.

        Raises:
            MeshError: RATE_LIMIT_EXCEEDED.
        """
        limit = self._fixed.failed_authentications
        if not limit:
            yield
            return
        bucket = site_of(address)
        taken = await self._addresses.take(bucket, limit)
        if not taken.passed:
            keys = _counted(limit, "API key")
            raise _exceeded(
                f"Your address has sent {keys} in a minute that were not valid, and may send no more.", taken
            )
        try:
            yield
        except MeshError as error:
            if error.reason not in NOT_VALID:
                await self._addresses.correct(bucket, taken, 0)
            raise
        await self._addresses.correct(bucket, taken, 0)

    def correct(self, bucket: str, taken: Verdict, used: int) -> None:
        """Begins to correct what was taken; goes on without whoever asked."""
        self._begin(self._correct(bucket, taken, used))

    async def aclose(self) -> None:
        """Waits for corrections under way."""
        await asyncio.gather(*self._tasks)

    async def _count(self, exchange: Exchange, bucket: str, per_minute: int, of_what: str) -> None:
        if not per_minute:
            return
        verdict = await self._limiter.take(bucket, per_minute)
        exchange.headers += _request_headers(verdict)
        if not verdict.passed:
            requests = f"{_counted(per_minute, 'request')} per minute{of_what}"
            raise _exceeded(f"The limit of this API key is {requests}, and it is used up.", verdict)

    async def _correct(self, bucket: str, taken: Verdict, used: int) -> None:
        try:
            await self._limiter.correct(bucket, taken, used)
        except LimiterAway as error:
            _log.warning("tokens_not_corrected", bucket=bucket, taken=taken.weight, used=used, why=str(error))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)


def site_of(address: str) -> str:
    """What one client has for itself: an IPv4 address, or the /64 of an IPv6 address. Anything else is itself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{IPv6Address(int(parsed) >> _IPV6_SITE_BITS << _IPV6_SITE_BITS)}/{_IPV6_SITE_BITS}"


def seconds(duration_us: int) -> int:
    """Whole seconds, rounded up: whoever waits so long has waited long enough."""
    return -(-duration_us // 1_000_000)


def go_duration(duration_us: int) -> str:
    """As OpenAI's headers have it: "12ms", "8.64s", "1m0.5s". Rounded up to milliseconds."""
    ms = -(-duration_us // 1_000)
    if ms < 1_000:
        return f"{ms}ms" if ms else "0s"
    minutes, rest_ms = divmod(ms, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest_ms / 1_000:.3f}".rstrip("0").rstrip(".") + "s"


def _exceeded(message: str, verdict: Verdict) -> MeshError:
    assert verdict.retry_after_us is not None
    after_s = seconds(verdict.retry_after_us)
    message = f"{message} Try again in {_counted(after_s, 'second')}."
    return refusal(ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED, message, retry_after_s=str(after_s))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _request_headers(verdict: Verdict) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit", b"%d" % verdict.limit),
        (b"x-ratelimit-remaining", b"%d" % verdict.remaining),
        (b"x-ratelimit-reset", b"%d" % seconds(verdict.reset_us)),
    ]


def _token_headers(verdict: Verdict) -> list[tuple[bytes, bytes]]:
    """https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers"""
    return [
        (b"x-ratelimit-limit-tokens", b"%d" % verdict.limit),
        (b"x-ratelimit-remaining-tokens", b"%d" % verdict.remaining),
        (b"x-ratelimit-reset-tokens", go_duration(verdict.reset_us).encode()),
    ]
