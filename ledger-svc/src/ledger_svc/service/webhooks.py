"""Webhooks of an organisation: made, changed, tested, and what was delivered to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ledger_svc.domain.caps import CapScope
from ledger_svc.domain.deliveries import Attempt, Delivery
from ledger_svc.domain.destinations import RefusedDestination
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.limits import check_range, check_text
from ledger_svc.domain.lockbox import Lockbox
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.domain.webhooks import (
    CAP_THRESHOLD_REACHED,
    DISABLED_BY_OWNER,
    MAX_OVERLAP_S,
    SECRET_BYTES,
    WEBHOOK_TEST,
    Endpoint,
    check_event_types,
    event,
    shown_secret,
)
from ledger_svc.service.paging import check_page_size, page_of, position_of_token
from ledger_svc.service.ports import Directory
from ledger_svc.service.telling import Telling
from ledger_svc.service.webhook_ports import Carrier, ChangeEntry, Endpoints, Outbox
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import Actor

MAX_DESCRIPTION_CHARS = 500


class WebhookService:
    """Where events are sent.

    ``random_bytes(n)``: cryptographically strong. ``queued``: called after something was queued, for whoever delivers
    it.
    """

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        outbox: Outbox,
        directory: Directory,
        carrier: Carrier,
        lockbox: Lockbox,
        clock: Clock,
        make_id: MakeId,
        random_bytes: Callable[[int], bytes],
        queued: Callable[[], None],
    ) -> None:
        self._endpoints = endpoints
        self._outbox = outbox
        self._directory = directory
        self._carrier = carrier
        self._lockbox = lockbox
        self._clock = clock
        self._make_id = make_id
        self._random_bytes = random_bytes
        self._queued = queued
        self._telling = Telling(clock, make_id)

    async def create(
        self, org_id: str, url: str, event_types: Sequence[str], *, description: str, key_id: str, actor: Actor
    ) -> tuple[Endpoint, str]:
        """Makes an endpoint; gives it and its secret, which is not shown again. ``key_id``: told only of that key.

        Raises:
            InvalidRequest: also where nothing would ever be sent to this URL, or there are too many.
            NotFound: no such organisation or key.
            NotConfigured: secrets can't be stored.
        """
        self._lockbox.check_can_seal()
        endpoint = Endpoint(
            endpoint_id=self._make_id("whk"),
            org_id=check_text("org_id", org_id),
            key_id=check_text("key_id", key_id, empty=True),
            url=await self._checked_url(url),
            event_types=check_event_types(event_types),
            description=_checked_description(description),
            disabled_reason="",
            created_at_ms=self._clock.now_ms(),
        )
        secret = self._random_bytes(SECRET_BYTES)
        sealed = self._lockbox.seal(endpoint.endpoint_id, secret)
        entry = self._telling.entry(org_id, actor, "webhook.created", endpoint.endpoint_id, after=endpoint.shown())
        await self._endpoints.create(endpoint, sealed, entry)
        return endpoint, shown_secret(secret)

    async def page(self, org_id: str, *, page_size: int, page_token: str) -> tuple[list[Endpoint], str]:
        """Endpoints, oldest first, and the token of the next page ("": there is none).

        Raises:
            InvalidRequest.
        """
        size, after = check_page_size(page_size), position_of_token(page_token)
        found = await self._endpoints.page(check_text("org_id", org_id), limit=size + 1, after=after)
        return page_of(found, size, lambda endpoint: (endpoint.created_at_ms, endpoint.endpoint_id))

    async def endpoint(self, org_id: str, endpoint_id: str) -> Endpoint:
        """One of them.

        Raises:
            NotFound.
        """
        return await self._endpoints.endpoint(*_checked(org_id, endpoint_id))

    async def update(
        self,
        org_id: str,
        endpoint_id: str,
        *,
        url: str | None,
        event_types: Sequence[str] | None,
        description: str | None,
        enabled: bool | None,
        actor: Actor,
    ) -> Endpoint:
        """Changes what is not None. Switched off, what waits for it is cancelled; switched on, it begins anew.

        Raises:
            NotFound, InvalidRequest.
        """
        org_id, endpoint_id = _checked(org_id, endpoint_id)
        await self._endpoints.endpoint(org_id, endpoint_id)  # before a name is resolved for it
        checked_url = None if url is None else await self._checked_url(url)
        checked_types = None if event_types is None else check_event_types(event_types)
        if description is not None:
            _checked_description(description)

        def change(before: Endpoint) -> Endpoint:
            after = replace(
                before,
                url=before.url if checked_url is None else checked_url,
                event_types=before.event_types if checked_types is None else checked_types,
                description=before.description if description is None else description,
            )
            if enabled is None or enabled == before.enabled:
                return after
            return replace(after, disabled_reason="" if enabled else DISABLED_BY_OWNER, failing_since_ms=0)

        return await self._endpoints.update(org_id, endpoint_id, change, self._told(actor, "webhook.updated"))

    async def delete(self, org_id: str, endpoint_id: str, *, actor: Actor) -> None:
        """Ends an endpoint.

        Raises:
            NotFound.
        """

        def entry_of(before: Endpoint) -> TrailEntry:
            return self._telling.entry(org_id, actor, "webhook.deleted", endpoint_id, before=before.shown())

        await self._endpoints.delete(*_checked(org_id, endpoint_id), entry_of)

    async def rotate(self, org_id: str, endpoint_id: str, *, overlap_s: int, actor: Actor) -> tuple[Endpoint, str]:
        """Gives it a new secret, which is not shown again; for ``overlap_s`` seconds messages are signed with the one
        before, too. Of several rotations within an overlap the last two secrets sign.

        Raises:
            NotFound, InvalidRequest, NotConfigured.
        """
        check_range("overlap_s", overlap_s, 0, MAX_OVERLAP_S)
        org_id, endpoint_id = _checked(org_id, endpoint_id)
        secret = self._random_bytes(SECRET_BYTES)
        until_ms = self._clock.now_ms() + overlap_s * 1_000

        def entry_of(before: Endpoint, after: Endpoint) -> TrailEntry:
            return self._telling.entry(
                org_id,
                actor,
                "webhook.secret_rotated",
                endpoint_id,
                before={"previous_until_ms": before.previous_until_ms},
                after={"previous_until_ms": after.previous_until_ms},
            )

        sealed = self._lockbox.seal(endpoint_id, secret)
        endpoint = await self._endpoints.rotate(
            org_id, endpoint_id, sealed, previous_until_ms=until_ms, entry_of=entry_of
        )
        return endpoint, shown_secret(secret)

    async def of_key(self, org_id: str, key_id: str) -> Endpoint | None:
        """The alert webhook of a key; None: it has none.

        Raises:
            NotFound: no such key.
        """
        await self._check_key(org_id, key_id)
        return await self._endpoints.of_key(org_id, key_id)

    async def set_of_key(self, org_id: str, key_id: str, url: str, *, actor: Actor) -> tuple[Endpoint, str]:
        """Has alerts of a key sent to a URL; gives its endpoint, and the secret where it is a new one.

        Raises:
            As ``create``.
        """
        existing = await self.of_key(org_id, key_id)
        if existing is None:
            types = [CAP_THRESHOLD_REACHED]
            return await self.create(org_id, url, types, description="", key_id=key_id, actor=actor)
        changed = await self.update(
            org_id, existing.endpoint_id, url=url, event_types=None, description=None, enabled=True, actor=actor
        )
        return changed, ""

    async def test(self, org_id: str, endpoint_id: str) -> Delivery:
        """Queues an event of type "webhook.test".

        Raises:
            NotFound.
            InvalidRequest: the endpoint is off, or too much waits for it.
        """
        org_id, endpoint_id = _checked(org_id, endpoint_id)
        data = {"organization_id": org_id, "webhook_id": endpoint_id}
        told = event(self._make_id("evt"), org_id, WEBHOOK_TEST, self._clock.now_ms(), data)
        delivery = await self._outbox.send_to(org_id, endpoint_id, told, self._make_id("dlv"))
        self._queued()
        return delivery

    async def deliveries(
        self, org_id: str, endpoint_id: str, *, page_size: int, page_token: str
    ) -> tuple[list[Delivery], str]:
        """Deliveries to an endpoint, newest first, and the token of the next page ("": there is none).

        Raises:
            NotFound, InvalidRequest.
        """
        size, before = check_page_size(page_size), position_of_token(page_token)
        found = await self._outbox.page(*_checked(org_id, endpoint_id), limit=size + 1, before=before)
        return page_of(found, size, lambda delivery: (delivery.created_at_ms, delivery.delivery_id))

    async def delivery(self, org_id: str, endpoint_id: str, delivery_id: str) -> tuple[Delivery, list[Attempt], str]:
        """A delivery, its attempts in order, and the body that is sent.

        Raises:
            NotFound.
        """
        return await self._outbox.delivery(*_checked(org_id, endpoint_id), check_text("delivery_id", delivery_id))

    async def retry(self, org_id: str, endpoint_id: str, delivery_id: str) -> Delivery:
        """Has a delivery attempted at once, whatever became of it.

        Raises:
            NotFound.
            InvalidRequest: the endpoint is off.
        """
        check_text("delivery_id", delivery_id)
        now_ms = self._clock.now_ms()
        delivery = await self._outbox.queue_again(*_checked(org_id, endpoint_id), delivery_id, now_ms)
        self._queued()
        return delivery

    async def _checked_url(self, url: str) -> str:
        destination = self._carrier.check_url(url)
        try:
            await self._carrier.check_reachable(destination)
        except RefusedDestination as error:
            raise InvalidRequest("url", f"{error}") from error
        return destination.url

    async def _check_key(self, org_id: str, key_id: str) -> None:
        check_text("org_id", org_id)
        if not await self._directory.has_scope(org_id, CapScope.KEY, check_text("key_id", key_id)):
            raise NotFound(f"no API key {key_id}")

    def _told(self, actor: Actor, action: str) -> ChangeEntry:
        def entry_of(before: Endpoint, after: Endpoint) -> TrailEntry:
            return self._telling.entry(
                before.org_id, actor, action, before.endpoint_id, before=before.shown(), after=after.shown()
            )

        return entry_of


def _checked(org_id: str, endpoint_id: str) -> tuple[str, str]:
    return check_text("org_id", org_id), check_text("webhook_id", endpoint_id)


def _checked_description(text: str) -> str:
    return check_text("description", text, max_chars=MAX_DESCRIPTION_CHARS, empty=True)
