"""Requests with an ``Idempotency-Key``: one call and one charge, however often and from however many they come.

The edge boards the flight of the key, hands the lead over with the call, and ends it itself only where the call goes no
further than here: a refusal, or a replay from the cache.

The form follows https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/ and what Stripe does,
https://docs.stripe.com/api/idempotent_requests.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from edge.errors import invalid, refusal
from edge.mesh import Flights, Ledger
from edge.settings import EdgeSettings
from edge.translate import ENDPOINT, Admitted
from edge.wire.header_lines import HeaderLines
from meshkit.clock import Clock
from meshkit.errors import MeshError
from meshkit.ids import MakeId, id_of
from tallygate.cache.v1 import flights_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2

HEADER = "Idempotency-Key"
_NAME = HEADER.lower().encode()
MAX_KEY_CHARS = 255

_R = ErrorReason
_NOT_CHARGED = {
    _R.ERROR_REASON_INSUFFICIENT_BALANCE,
    _R.ERROR_REASON_BUDGET_EXCEEDED,
    _R.ERROR_REASON_RATE_LIMIT_EXCEEDED,
    _R.ERROR_REASON_MODEL_NOT_ALLOWED,
    _R.ERROR_REASON_INVALID_API_KEY,
    _R.ERROR_REASON_API_KEY_REVOKED,
}
"""Refusals of a charge after which nothing is held or charged under its request id."""
_NAMED_BEFORE = {_R.ERROR_REASON_IDEMPOTENCY_CONFLICT, _R.ERROR_REASON_HOLD_CLOSED}
"""Refusals that say that the request id stands for something already."""
_NOTHING_HELD = flights_pb2.AbandonRequest.ENDING_NOTHING_HELD
_UNKNOWN = flights_pb2.AbandonRequest.ENDING_UNKNOWN
_USED_BEFORE = (
    "This Idempotency-Key was used before, and what is on record of it does not fit this request; it may have been "
    "charged. Use a new key for a new request."
)

_log = structlog.get_logger(__name__)


def idempotency_key(lines: HeaderLines) -> str | None:
    """The key of a request; None: it has none.

    Raises:
        MeshError: INVALID_REQUEST for one that is no key.
    """
    values = lines.every(_NAME)
    if not values:
        return None
    if len(values) > 1:
        raise invalid(f"{HEADER} stands in the headers {len(values)} times; send it once.")
    key = values[0]
    if not 1 <= len(key) <= MAX_KEY_CHARS or not all(" " <= char <= "~" for char in key):
        raise invalid(
            f"{HEADER} takes 1 to {MAX_KEY_CHARS} printable ASCII characters. Use a random UUID, for example."
        )
    return key


@dataclass(slots=True)
class Leg:
    """This request leads its flight. ``handed_over``: another ends it, or this request's own charge."""

    ticket: flights_pb2.FlightPass
    handed_over: bool = False

    def hand_over(self) -> flights_pb2.FlightPass:
        """For the router, which ends the flight from now on."""
        self.handed_over = True
        return self.ticket


class Idempotency:
    """The flights of requests with a key."""

    def __init__(
        self, flights: Flights, ledger: Ledger, settings: EdgeSettings, *, clock: Clock, make_id: MakeId
    ) -> None:
        self._flights = flights
        self._ledger = ledger
        self._settings = settings
        self._clock = clock
        self._make_id = make_id
        self._tasks: set[asyncio.Task[Any]] = set()

    async def board(self, request: Admitted, key: str) -> Leg | flights_pb2.Landing:
        """Lead the flight of ``key``, or get what it landed with, waiting for that as long as a request may take.

        The exchange gets the request id of the operation: the same for each request that asks for it.

        Raises:
            MeshError: IDEMPOTENCY_CONFLICT for another body, IDEMPOTENCY_KEY_IN_USE after waiting in vain, ANSWER_GONE;
                UNAVAILABLE where nothing can keep a second request from running beside this one.
        """
        settings = self._settings
        payer, exchange = request.principal, request.exchange
        asked = flights_pb2.BoardRequest(
            principal=payer,
            kind=flights_pb2.FLIGHT_KIND_IDEMPOTENT_REQUEST,
            key=key,
            fingerprint=hashlib.sha256(ENDPOINT.encode() + b"\0" + request.body).digest(),
            token=self._make_id("flt"),
            lease_ms=round(1_000 * settings.flight_lease_s),
        )
        until_s = self._clock.monotonic_s() + settings.request_timeout_s
        while True:
            left_s = until_s - self._clock.monotonic_s()
            asked.wait_ms = round(1_000 * min(settings.flight_wait_s, max(0.0, left_s)))
            answer = await self._flights.board(asked)
            if answer.HasField("lead"):
                # Of its own and not in the record: the ledger must know the operation again when every record is lost.
                exchange.request_id = id_of("req", "idempotent", payer.org_id, payer.key_id, key, str(answer.lead.run))
                return Leg(answer.lead)
            if answer.HasField("landed"):
                exchange.request_id = answer.landed.request_id
                if answer.landed.answer_gone:
                    raise answer_gone(answer.landed.receipt_id)
                return answer.landed
            if left_s <= 0:
                raise refusal(_R.ERROR_REASON_IDEMPOTENCY_KEY_IN_USE)

    @asynccontextmanager
    async def led(self, leg: Leg) -> AsyncIterator[None]:
        """Inside, ``leg`` is led: abandoned at once where the request ends before it is handed over."""
        try:
            yield
        except BaseException:
            if not leg.handed_over:
                self._begin(self._abandon(leg.ticket, _NOTHING_HELD))
            raise

    @asynccontextmanager
    async def kept(self, leg: Leg | None) -> AsyncIterator[None]:
        """Inside, ``leg`` is kept though the request waits for another; None: there is none to keep."""
        if leg is None:
            yield
            return
        keeper = self._begin(self._keep(leg.ticket))
        try:
            yield
        finally:
            keeper.cancel()

    async def _keep(self, ticket: flights_pb2.FlightPass) -> None:
        lease_s = self._settings.flight_lease_s
        while True:
            await asyncio.sleep(lease_s / 3)
            try:
                await self._flights.renew(ticket, lease_s)
            except MeshError as error:
                _log.warning("flight_not_renewed", flight=ticket.name.hex(), reason=error.message)

    async def charge(
        self,
        leg: Leg,
        request: ledger_pb2.ChargeRequest,
        landing_of: Callable[[ledger_pb2.Receipt], flights_pb2.Landing],
    ) -> ledger_pb2.Receipt | None:
        """Charges for a replay, and lands the flight with it, whether or not the client waits for that. None: the
        request id stands for something else already, and the router must ask the ledger what.

        Raises:
            MeshError: refused; or IDEMPOTENCY_KEY_IN_USE, because another leads by now.
        """
        return await asyncio.shield(self._begin(self._charge(leg, request, landing_of)))

    async def _charge(
        self,
        leg: Leg,
        request: ledger_pb2.ChargeRequest,
        landing_of: Callable[[ledger_pb2.Receipt], flights_pb2.Landing],
    ) -> ledger_pb2.Receipt | None:
        settings, ticket = self._settings, leg.ticket
        lease_s = settings.charge_patience_s + settings.rpc_timeout_s + settings.flight_lease_s
        if not await self._flights.renew(ticket, lease_s):
            raise refusal(_R.ERROR_REASON_IDEMPOTENCY_KEY_IN_USE)
        leg.handed_over = True
        try:
            receipt = await self._ledger.charge(request)
        except MeshError as error:
            if error.reason in _NAMED_BEFORE:
                return None
            await self._abandon(ticket, _NOTHING_HELD if error.reason in _NOT_CHARGED else _UNKNOWN)
            raise
        try:
            await self._flights.land(ticket, landing_of(receipt))
        except MeshError as error:
            # Asked again, it is looked up and charged again under the same request id, which is the same charge.
            _log.error("flight_not_landed", receipt_id=receipt.receipt_id, reason=error.message)
        return receipt

    async def _abandon(
        self, ticket: flights_pb2.FlightPass, ending: flights_pb2.AbandonRequest.Ending.ValueType
    ) -> None:
        try:
            await self._flights.abandon(ticket, ending)
        except MeshError as error:
            _log.warning("flight_not_abandoned", flight=ticket.name.hex(), reason=error.message)

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begins what goes on without the client."""
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Says what went wrong where nobody may be left who awaits it; a refusal has been dealt with."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, MeshError):
            _log.error("unexpected_error", exc_info=error)


def run_is_over(error: MeshError) -> bool:
    """The run that was led has ended uncharged, and the next one may be boarded. False: ``error`` says something else.

    Raises:
        MeshError: what to tell the client instead, where the ledger has this request on record in another way.
    """
    if error.reason == _R.ERROR_REASON_IDEMPOTENCY_CONFLICT:
        raise refusal(error.reason, _USED_BEFORE) from error
    if error.reason != _R.ERROR_REASON_HOLD_CLOSED:
        return False
    if error.metadata.get("state") == "settled":
        raise answer_gone(error.metadata.get("receipt_id", "")) from error
    return True


def answer_gone(receipt_id: str) -> MeshError:
    """The answer was charged and can't be given again."""
    return refusal(
        _R.ERROR_REASON_ANSWER_GONE,
        "A request with this Idempotency-Key was answered and charged, and its answer is not kept. "
        f"Its receipt is {receipt_id}.",
        receipt_id=receipt_id,
    )
