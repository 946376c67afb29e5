"""Limits that all edges keep together, in Redis or any server that speaks its protocol.

Each call is one script, so it is one step for the server and one round trip for the edge; calls that come while one is
under way travel together in the next. Time is the server's, so that the clocks of edges do not matter.

A server that evicts, fails over or restarts may forget what was taken; see ``edge.limits.guarded`` for what holds then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError, RedisError, ResponseError

from edge.limits.limiter import LimiterAway
from edge.limits.script import SCRIPT, SCRIPT_SHA1
from edge.limits.window import Mark, Verdict, grain_us

_KEY = "tallygate:limits:1:"
_MAX_BATCH = 500
_log = structlog.get_logger(__name__)


def connect(url: str) -> AbstractConnection:
    """A connection to ``redis://``, ``rediss://`` or ``unix://``, to be opened by whoever uses it.

    One, and no client with a pool, which takes twice the CPU time; calls share its round trips anyway.
    """
    pool = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0))
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    return connection


@dataclass(slots=True)
class _Call:
    arguments: tuple[str | int, ...]
    answer: asyncio.Future[list[int]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class RedisLimiter:
    """A ``RateLimiter`` in Redis. Owns ``connection``.

    ``timeout_s``: whoever has no answer by then is told ``LimiterAway``. ``now_us``: microseconds; None: the server's.
    """

    def __init__(
        self, connection: AbstractConnection, *, timeout_s: float, now_us: Callable[[], int] | None = None
    ) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._now_us = now_us
        self._waiting: list[_Call] = []
        self._sender: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Ends what is under way, and closes the connection."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        await self._connection.disconnect()

    async def take(self, bucket: str, limit: int, weight: int = 1) -> Verdict:
        """See ``RateLimiter``."""
        return await self._judged("take", bucket, limit, weight)

    async def ask(self, bucket: str, limit: int, weight: int = 1) -> Verdict:
        """See ``RateLimiter``."""
        return await self._judged("ask", bucket, limit, weight)

    async def correct(self, bucket: str, taken: Verdict, used: int) -> None:
        """See ``RateLimiter``."""
        if used > taken.weight:
            await self._run("add", bucket, taken.limit, used - taken.weight)
        elif used < taken.weight:
            await self._run("give", bucket, taken.limit, taken.weight - used, taken.marks[0])

    async def _judged(self, mode: str, bucket: str, limit: int, weight: int) -> Verdict:
        passed, remaining, reset_us, retry_us, *mark = await self._run(mode, bucket, limit, weight)
        return Verdict(
            bool(passed),
            limit,
            remaining,
            reset_us,
            None if retry_us < 0 else retry_us,
            weight,
            (Mark(*mark),) if passed and mode == "take" else (),
        )

    async def _run(self, mode: str, bucket: str, limit: int, weight: int, mark: Sequence[int] = ()) -> list[int]:
        now = "" if self._now_us is None else self._now_us()
        call = _Call(("EVALSHA", SCRIPT_SHA1, 1, _KEY + bucket, mode, limit, weight, grain_us(limit), now, *mark))
        self._waiting.append(call)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await call.answer

    async def _send_all(self) -> None:
        """Sends what waits, one batch after the other, until nothing does."""
        batch: list[_Call] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
                async with asyncio.timeout(self._timeout_s):
                    await self._send(batch)
        except (RedisError, OSError, TimeoutError) as error:
            self._fail(batch, LimiterAway(f"{type(error).__name__}: {error}"))
        except asyncio.CancelledError:
            self._fail(batch, LimiterAway("the limiter was closed"))
            raise
        except Exception as error:  # noqa: BLE001 - a bug; whoever waits must not wait for ever, and meets an outage
            _log.exception("unexpected_error")
            self._fail(batch, LimiterAway(f"{type(error).__name__}: {error}"))
        finally:
            self._sender = None

    def _fail(self, batch: list[_Call], error: Exception) -> None:
        """Those that wait too: they would only meet the same, later."""
        for call in (*batch, *self._waiting):
            call.fail(error)
        self._waiting = []

    async def _send(self, calls: list[_Call]) -> None:
        answers = await self._answers([call.arguments for call in calls])
        unknown = [call for call, answer in zip(calls, answers, strict=True) if _missing(call, answer)]
        if unknown:  # the server is new, or was told to forget its scripts
            _, *answers = await self._answers([("SCRIPT LOAD", SCRIPT), *(call.arguments for call in unknown)])
            for call, answer in zip(unknown, answers, strict=True):
                if _missing(call, answer):
                    call.fail(LimiterAway("the server forgot the script at once"))

    async def _answers(self, commands: list[tuple[str | int, ...]]) -> list[Any]:
        """What the server says to each, its refusals among them. Sent again, once, where the connection turns out to
        have been lost: what the server had run before that counts twice then, which is too much and never too little.
        """
        was_open = self._connection.is_connected
        try:
            return await self._round_trip(commands)
        except ConnectionLost:
            if not was_open:
                raise
            return await self._round_trip(commands)

    async def _round_trip(self, commands: list[tuple[str | int, ...]]) -> list[Any]:
        connection, answers = self._connection, []
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            for _ in commands:
                try:
                    answers.append(await connection.read_response())
                except ResponseError as refusal:
                    answers.append(refusal)
        except BaseException:
            # What was asked may still be answered, and must not be taken for the answer to something else.
            await connection.disconnect(nowait=True)
            raise
        return answers


def _missing(call: _Call, answer: Any) -> bool:
    """Gives ``call`` its answer; True: it has none, because the server does not know the script."""
    if isinstance(answer, NoScriptError):
        return True
    if isinstance(answer, Exception):
        call.fail(LimiterAway(f"{type(answer).__name__}: {answer}"))
    elif not call.answer.done():
        call.answer.set_result(answer)
    return False
