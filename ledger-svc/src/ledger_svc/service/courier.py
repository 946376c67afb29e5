"""Takes what is in the outbox to its endpoints. Runs on the replica that is the writer.

Each attempt is leased before it is made and recorded after it. A replica that takes over ends the leases of the one
before, which can't record anything any more: it repeats at most what was under way. An endpoint is sent a few messages
at once, and so is an organisation, so that one that is slow holds nobody else up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from ledger_svc.domain.deliveries import Answer, Attempt
from ledger_svc.domain.errors import Standby
from ledger_svc.domain.lockbox import CannotOpenError, Lockbox
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.domain.webhooks import Endpoint, signature_headers
from ledger_svc.service.ports import Sleep
from ledger_svc.service.telling import Telling
from ledger_svc.service.webhook_ports import Carrier, Message, Outbox, Outcome
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import Actor, ActorKind

_DAY_MS = 24 * 3_600 * 1_000
_PRUNE_EVERY_MS = 60_000
_PRUNED_AT_ONCE = 1_000
_COURIER = Actor(ActorKind.SYSTEM, "webhooks")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CourierLimits:
    """Attempts at once in all, to an organisation and to an endpoint; ``lease_ms``: longer than an attempt ever takes;
    after ``failing_days`` of nothing but failures an endpoint is switched off; what has ended is kept for
    ``retention_days``.
    """

    in_all: int = 64
    to_org: int = 16
    to_endpoint: int = 4
    lease_ms: int = 30_000
    failing_days: int = 5
    retention_days: int = 30


class Courier:
    """``random()`` in 0..1, for the jitter of retries. ``is_leading``: whether this replica is the writer."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        carrier: Carrier,
        lockbox: Lockbox,
        clock: Clock,
        make_id: MakeId,
        random: Callable[[], float],
        is_leading: Callable[[], bool],
        limits: CourierLimits,
    ) -> None:
        self._outbox = outbox
        self._carrier = carrier
        self._lockbox = lockbox
        self._clock = clock
        self._telling = Telling(clock, make_id)
        self._random = random
        self._is_leading = is_leading
        self._limits = limits
        self._under_way: dict[asyncio.Task[Outcome], Message] = {}
        self._unrecorded: list[Outcome] = []
        self._wake = asyncio.Event()
        self._pruned_at_ms = 0
        self._has_taken_over = False

    def nudge(self) -> None:
        """Something was queued."""
        self._wake.set()

    async def turn(self) -> int:
        """Records what has ended and begins what is due, as far as there is room; gives the number of attempts begun.

        Raises:
            Standby: another replica is the writer.
            LedgerUnavailable: what was not recorded waits for the next turn.
        """
        if not self._has_taken_over:
            await self._outbox.release()
            self._has_taken_over = True
        await self._record()
        now_ms = self._clock.now_ms()
        chosen = await self._chosen(now_ms)
        if not chosen:
            return 0
        lease_ms = self._limits.lease_ms
        messages = await self._outbox.claim(chosen, now_ms=now_ms, leased_until_ms=now_ms + lease_ms)
        for message in messages:
            task = asyncio.create_task(self._attempt(message))
            self._under_way[task] = message
            task.add_done_callback(lambda _: self._wake.set())
        return len(messages)

    async def settle(self) -> None:
        """Waits for all that is under way, and records it."""
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._record()

    async def prune(self) -> int:
        """Forgets what ended long ago; gives the number of deliveries."""
        before_ms = self._clock.now_ms() - self._limits.retention_days * _DAY_MS
        return await self._outbox.prune(before_ms, limit=_PRUNED_AT_ONCE)

    async def run(self, poll_s: float, sleep: Sleep = asyncio.sleep) -> None:
        """Goes on until cancelled, looking at the outbox every ``poll_s`` and whenever it is nudged. A failure is
        logged; the next turn tries again.
        """
        try:
            while True:
                await self._wait(poll_s, sleep)
                if self._is_leading():
                    await self._round()
                else:
                    self._has_taken_over = False
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _round(self) -> None:
        try:
            while await self.turn():
                pass  # those that had no room before those of a slow endpoint
            if self._clock.now_ms() - self._pruned_at_ms >= _PRUNE_EVERY_MS:
                self._pruned_at_ms = self._clock.now_ms()
                await self.prune()
        except Standby:
            self._has_taken_over = False  # the writer goes on with it
        except Exception:  # noqa: BLE001 - whatever it was, events wait for the next round
            _log.exception("webhooks_not_sent")

    async def _wait(self, poll_s: float, sleep: Sleep) -> None:
        """Until the poll, or a nudge."""
        waits = [asyncio.ensure_future(sleep(poll_s)), asyncio.create_task(self._wake.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
                with suppress(asyncio.CancelledError):
                    await wait
        self._wake.clear()  # whatever it was set for is seen in the round that follows

    async def _record(self) -> None:
        for task in [task for task in self._under_way if task.done()]:
            del self._under_way[task]
            self._unrecorded.append(task.result())
        if not self._unrecorded:
            return
        outcomes = list(self._unrecorded)
        await self._outbox.record(outcomes, failing_ms=self._limits.failing_days * _DAY_MS, entry_of=self._switched_off)
        del self._unrecorded[: len(outcomes)]

    async def _chosen(self, now_ms: int) -> list[str]:
        """What is due and has room."""
        limits, under_way = self._limits, [message.delivery for message in self._under_way.values()]
        to_endpoint = Counter(delivery.endpoint_id for delivery in under_way)
        to_org = Counter(delivery.org_id for delivery in under_way)
        room = limits.in_all - len(under_way)
        if room <= 0:
            return []
        due = await self._outbox.due(
            now_ms,
            limit=limits.in_all,
            busy_endpoints=[name for name, count in to_endpoint.items() if count >= limits.to_endpoint],
            busy_orgs=[name for name, count in to_org.items() if count >= limits.to_org],
        )
        here = {delivery.delivery_id for delivery in under_way}
        chosen: list[str] = []
        for delivery in due:
            if len(chosen) >= room:
                break
            has_room = (
                to_endpoint[delivery.endpoint_id] < limits.to_endpoint and to_org[delivery.org_id] < limits.to_org
            )
            if has_room and delivery.delivery_id not in here:
                to_endpoint[delivery.endpoint_id] += 1
                to_org[delivery.org_id] += 1
                chosen.append(delivery.delivery_id)
        return chosen

    async def _attempt(self, message: Message) -> Outcome:
        began_ms, began_s = self._clock.now_ms(), self._clock.monotonic_s()
        try:
            answer = await self._send(message, began_ms)
        except Exception:  # noqa: BLE001 - a bug that one message meets must not have it sent again for ever
            _log.exception("webhook_not_sent", delivery_id=message.delivery.delivery_id)
            answer = Answer(0, "it could not be sent")
        duration_ms = round((self._clock.monotonic_s() - began_s) * 1_000)
        _log.info(
            "webhook_attempt",
            endpoint_id=message.delivery.endpoint_id,
            delivery_id=message.delivery.delivery_id,
            http_status=answer.http_status,
            error=answer.error,
        )
        attempt = Attempt(began_ms, duration_ms, answer.http_status, answer.error)
        return Outcome(message.delivery, attempt, self._random())

    async def _send(self, message: Message, now_ms: int) -> Answer:
        delivery, body = message.delivery, message.body.encode()
        try:
            secrets = [self._lockbox.open(delivery.endpoint_id, sealed) for sealed in message.secrets.at(now_ms)]
        except CannotOpenError as error:
            _log.error("webhook_secret_lost", endpoint_id=delivery.endpoint_id, cause=str(error))
            return Answer(0, "its secret can't be read any more: rotate it")
        return await self._carrier.carry(message.url, signature_headers(secrets, delivery.event_id, now_ms, body), body)

    def _switched_off(self, before: Endpoint, after: Endpoint) -> TrailEntry:
        return self._telling.entry(
            before.org_id,
            _COURIER,
            "webhook.disabled",
            before.endpoint_id,
            before=before.shown(),
            after=after.shown(),
        )
