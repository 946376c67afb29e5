"""Webhooks and alerts of one process of the ledger, with a carrier that only notes what it would send."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ledger_svc.domain.deliveries import Answer
from ledger_svc.domain.destinations import Allowed, Destination
from ledger_svc.domain.lockbox import Lockbox
from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.service.alerts import AlertService
from ledger_svc.service.courier import Courier, CourierLimits
from ledger_svc.service.webhooks import WebhookService
from ledger_svc.store.alerts import Alerts
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.endpoints import Endpoints
from ledger_svc.store.outbox import Outbox
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.principal import OPERATOR
from meshkit.testing import FakeClock

KEYS = {"2026-11": b"k" * 32}
URL = "https://example.com/hook"


KEYRING = Keyring({"2026-11": load_private_key("b25l" * 10 + "b24")})


@dataclass(frozen=True, slots=True)
class Carried:
    """A message as it would have been sent."""

    url: str
    headers: dict[str, str]
    body: bytes


@dataclass
class NotingCarrier:
    """Implements ``webhook_ports.Carrier``. ``answers``: by URL, the last for good; 204 by default."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    carried: list[Carried] = field(default_factory=list)
    before: Callable[[str], Awaitable[None]] | None = None

    def check_url(self, url: str) -> Destination:
        return Allowed().check_url(url)

    async def check_reachable(self, destination: Destination) -> None:
        """Everything is."""

    async def carry(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        self.carried.append(Carried(url, headers, body))
        if self.before is not None:
            await self.before(url)
        left = self.answers.get(url, [Answer(204)])
        return left.pop(0) if len(left) > 1 else left[0]

    def to(self, url: str) -> list[Carried]:
        return [message for message in self.carried if message.url == url]


class Hooks:
    """What a process runs."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: FakeClock,
        make_id: MakeId,
        *,
        keys: dict[str, bytes] | None = None,
        limits: CourierLimits | None = None,
    ) -> None:
        trail, numbers = Trail(Sealer(KEYRING)), itertools.count(1)
        self.carrier = NotingCarrier()
        lockbox = Lockbox(KEYS if keys is None else keys, "webhook secrets", lambda n: next(numbers).to_bytes(n, "big"))
        self.outbox = Outbox(database, writer, trail)
        self.courier = Courier(
            outbox=self.outbox,
            carrier=self.carrier,
            lockbox=lockbox,
            clock=clock,
            make_id=make_id,
            random=lambda: 0.0,
            is_leading=lambda: writer.is_leading,
            limits=limits or CourierLimits(),
        )
        self.webhooks = WebhookService(
            endpoints=Endpoints(database, writer, trail),
            outbox=self.outbox,
            directory=Directory(database, writer, trail),
            carrier=self.carrier,
            lockbox=lockbox,
            clock=clock,
            make_id=make_id,
            random_bytes=lambda n: next(numbers).to_bytes(n, "big"),
            queued=self.courier.nudge,
        )
        self.alerts = AlertService(
            alerts=Alerts(database, writer),
            clock=clock,
            is_leading=lambda: writer.is_leading,
            told=self.courier.nudge,
        )

    async def make(
        self, org_id: str, url: str = URL, events: tuple[str, ...] = ("*",), *, key_id: str = ""
    ) -> tuple[str, str]:
        """(id, secret) of a new endpoint."""
        made, secret = await self.webhooks.create(org_id, url, events, description="", key_id=key_id, actor=OPERATOR)
        return made.endpoint_id, secret

    async def deliver(self) -> int:
        """Sends what is due now, until nothing is; gives the number of attempts."""
        count = 0
        while begun := await self.courier.turn():
            count += begun
            await self.courier.settle()
        return count
