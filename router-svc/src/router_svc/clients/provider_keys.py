"""The keys that organisations brought for sources, over gRPC: asked for when a request needs them, kept in memory for
some seconds, and dropped when the ledger tells of a change.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import grpc
import structlog

from meshkit.clock import Clock
from meshkit.deadlines import deadline
from meshkit.errors import MeshError, mesh_errors
from meshkit.secret import Secret
from router_svc.domain.errors import LedgerUnavailable
from router_svc.domain.own_key import OwnKey, OwnKeys
from tallygate.ledger.v1 import provider_keys_pb2
from tallygate.ledger.v1.provider_keys_pb2_grpc import ProviderKeyServiceStub

_WATCH_S = 3_600.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    keys: OwnKeys
    until_s: float


class WatchedProviderKeys:
    """As the Protocol ``ProviderKeys``. ``watch`` is the task that hears of changes; while it does not stand, what is
    kept is ``kept_s`` old at most. Kept of at most ``most_orgs`` organisations, those that asked last.
    """

    def __init__(
        self, channel: grpc.aio.Channel, clock: Clock, *, timeout_s: float, kept_s: float, most_orgs: int
    ) -> None:
        self._stub = ProviderKeyServiceStub(channel)
        self._clock = clock
        self._timeout_s = timeout_s
        self._kept_s = kept_s
        self._most_orgs = most_orgs
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._asking: dict[str, asyncio.Task[OwnKeys]] = {}

    async def of(self, org_id: str) -> OwnKeys:
        """As ProviderKeys.of. Requests that come together ask once."""
        kept = self._kept.get(org_id)
        if kept is not None and self._clock.monotonic_s() < kept.until_s:
            self._kept.move_to_end(org_id)
            return kept.keys
        asking = self._asking.get(org_id)
        if asking is None:
            asking = self._asking[org_id] = asyncio.create_task(self._ask(org_id), name="ask for provider keys")
            asking.add_done_callback(_seen)
        return await asyncio.shield(asking)

    def forget(self, org_id: str) -> None:
        """Drops what is kept of an organisation, or of all for "". Answers on their way may be older than the change:
        they are not kept, and whoever comes from now on asks anew.
        """
        if org_id:
            self._kept.pop(org_id, None)
            self._asking.pop(org_id, None)
        else:
            self._kept.clear()
            self._asking.clear()

    async def watch(self) -> None:
        """Hears of changes for ever."""
        pause_s, lost = _FIRST_PAUSE_S, False
        while True:
            try:
                with deadline(_WATCH_S, detached=True):
                    request = provider_keys_pb2.WatchProviderKeysRequest()
                    async for change in self._stub.WatchProviderKeys(request, timeout=_WATCH_S):
                        self.forget(change.org_id)
                        if lost:
                            _log.info("provider_key_watch_regained")
                        pause_s, lost = _FIRST_PAUSE_S, False
            except grpc.RpcError as error:
                # Every watch has a deadline; passing it is how a quiet one ends.
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED and not lost:
                    lost = True
                    _log.warning("provider_key_watch_lost", code=str(error.code()))
            except Exception:  # noqa: BLE001 - one bad message must not end the watch for good
                _log.exception("provider_key_watch_broke")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _ask(self, org_id: str) -> OwnKeys:
        asked_at_s, this = self._clock.monotonic_s(), asyncio.current_task()
        request = provider_keys_pb2.ListProviderSecretsRequest(org_id=org_id)
        try:
            with deadline(self._timeout_s, detached=True), mesh_errors():
                answer = await self._stub.ListProviderSecrets(request, timeout=self._timeout_s)
        except MeshError as error:
            _log.warning("provider_keys_not_read", org_id=org_id, reason=error.message)
            raise LedgerUnavailable("the ledger can't say which keys the organisation has") from error
        finally:
            current = self._asking.get(org_id) is this
            if current:
                del self._asking[org_id]
        keys = {
            found.source_id: OwnKey(found.provider_key_id, Secret(found.secret), found.fallback)
            for found in answer.secrets
        }
        if current:
            self._kept[org_id] = _Kept(keys, asked_at_s + self._kept_s)
            self._kept.move_to_end(org_id)
            while len(self._kept) > self._most_orgs:
                self._kept.popitem(last=False)
        return keys


def _seen(asking: asyncio.Task[OwnKeys]) -> None:
    """Whoever asked may have gone; its failure has been logged."""
    if not asking.cancelled():
        asking.exception()
