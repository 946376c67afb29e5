"""The ledger's account services, and the cache, over gRPC, for the routes that manage an account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import grpc

from meshkit.errors import mesh_errors
from tallygate.cache.v1 import cache_pb2_grpc, recordings_pb2_grpc
from tallygate.common.v1 import actor_pb2
from tallygate.ledger.v1 import (
    account_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    billing_pb2_grpc,
    ledger_pb2_grpc,
    provider_keys_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
    webhooks_pb2_grpc,
)

Q = TypeVar("Q")
A = TypeVar("A")


class Account:
    """Stubs of what an account is managed by. Whoever asks names the organisation of the caller, never an empty one:
    that is the operator's.
    """

    def __init__(self, channel: grpc.aio.Channel, *, cache: grpc.aio.Channel, timeout_s: float) -> None:
        self.cache = cache_pb2_grpc.CacheServiceStub(cache)
        self.recordings = recordings_pb2_grpc.RecordingServiceStub(cache)
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        self.accounts = account_pb2_grpc.AccountServiceStub(channel)
        self.audit = audit_pb2_grpc.AuditServiceStub(channel)
        self.provider_keys = provider_keys_pb2_grpc.ProviderKeyServiceStub(channel)
        self.webhooks = webhooks_pb2_grpc.WebhookServiceStub(channel)
        self.billing = billing_pb2_grpc.BillingServiceStub(channel)
        self.usage = usage_pb2_grpc.UsageServiceStub(channel)
        self._timeout_s = timeout_s

    async def ask(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q, *, timeout_s: float | None = None
    ) -> A:
        """What a method of one of the stubs answers. ``timeout_s``: if not as usual.

        Raises:
            MeshError: refused, or the service is away.
        """
        with mesh_errors():
            return await method(request, timeout=timeout_s or self._timeout_s)

    async def tell(self, actor: actor_pb2.Actor, request: audit_pb2.RecordCacheActionRequest) -> None:
        """Has the audit trail tell of what ``actor`` is about to do with what the cache keeps. Before it is done: what
        then fails stands in the trail too, and nothing is done of which it is silent.

        Raises:
            MeshError: it is not told, so it is not to be done.
        """
        request.actor.CopyFrom(actor)
        await self.ask(self.audit.RecordCacheAction, request)

    async def record_failures(self, failures: Sequence[usage_pb2.FailedRequest]) -> None:
        """See ``edge.failures.FailureStore``."""
        await self.ask(self.usage.RecordFailures, usage_pb2.RecordFailuresRequest(failures=failures))
