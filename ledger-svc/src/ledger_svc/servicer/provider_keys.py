"""``tallygate.ledger.v1.ProviderKeyService``: decode, call the service, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ledger_svc.domain.provider_keys import ProviderKey
from ledger_svc.service.provider_key_changes import ProviderKeyChanges
from ledger_svc.service.provider_keys import ProviderKeyService
from ledger_svc.servicer.refusals import ERRORS
from ledger_svc.servicer.wire import actor_of
from meshkit.errors import maps_errors
from tallygate.ledger.v1 import provider_keys_pb2 as pb
from tallygate.ledger.v1.provider_keys_pb2_grpc import ProviderKeyServiceServicer

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


@maps_errors(ERRORS)
class ProviderKeyServicer(ProviderKeyServiceServicer):
    """The methods of provider_keys.proto."""

    def __init__(self, keys: ProviderKeyService, changes: ProviderKeyChanges) -> None:
        self._keys = keys
        self._changes = changes

    async def CreateProviderKey(
        self, request: pb.CreateProviderKeyRequest, context: Context
    ) -> pb.CreateProviderKeyResponse:
        """See provider_keys.proto."""
        made = await self._keys.create(
            request.org_id,
            request.source_id,
            request.name,
            request.secret,
            fallback=request.fallback if request.HasField("fallback") else True,
            actor=actor_of(request),
        )
        return pb.CreateProviderKeyResponse(provider_key=_to_proto(made))

    async def ListProviderKeys(
        self, request: pb.ListProviderKeysRequest, context: Context
    ) -> pb.ListProviderKeysResponse:
        """See provider_keys.proto."""
        found, next_page_token = await self._keys.page(
            request.org_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListProviderKeysResponse(provider_keys=map(_to_proto, found), next_page_token=next_page_token)

    async def GetProviderKey(self, request: pb.GetProviderKeyRequest, context: Context) -> pb.GetProviderKeyResponse:
        """See provider_keys.proto."""
        found = await self._keys.get(request.org_id, request.provider_key_id)
        return pb.GetProviderKeyResponse(provider_key=_to_proto(found))

    async def RotateProviderKey(
        self, request: pb.RotateProviderKeyRequest, context: Context
    ) -> pb.RotateProviderKeyResponse:
        """See provider_keys.proto."""
        rotated = await self._keys.rotate(
            request.org_id, request.provider_key_id, request.secret, actor=actor_of(request)
        )
        return pb.RotateProviderKeyResponse(provider_key=_to_proto(rotated))

    async def RevokeProviderKey(
        self, request: pb.RevokeProviderKeyRequest, context: Context
    ) -> pb.RevokeProviderKeyResponse:
        """See provider_keys.proto."""
        revoked = await self._keys.revoke(request.org_id, request.provider_key_id, actor=actor_of(request))
        return pb.RevokeProviderKeyResponse(provider_key=_to_proto(revoked))

    async def ListProviderSecrets(
        self, request: pb.ListProviderSecretsRequest, context: Context
    ) -> pb.ListProviderSecretsResponse:
        """See provider_keys.proto."""
        return pb.ListProviderSecretsResponse(
            secrets=[
                pb.ProviderSecret(
                    provider_key_id=found.provider_key_id,
                    source_id=found.source_id,
                    secret=found.secret.reveal(),
                    fallback=found.fallback,
                )
                for found in await self._keys.secrets(request.org_id)
            ]
        )

    async def WatchProviderKeys(
        self, request: pb.WatchProviderKeysRequest, context: Context
    ) -> AsyncIterator[pb.WatchProviderKeysResponse]:
        """See provider_keys.proto."""
        async for org_id in self._changes.watch():
            yield pb.WatchProviderKeysResponse(org_id=org_id)

    async def RewrapProviderKeys(
        self, request: pb.RewrapProviderKeysRequest, context: Context
    ) -> pb.RewrapProviderKeysResponse:
        """See provider_keys.proto."""
        rewrapped = await self._keys.reseal(request.org_id, actor=actor_of(request))
        return pb.RewrapProviderKeysResponse(rewrapped=rewrapped)

    async def ListKeyEncryptionKeys(
        self, request: pb.ListKeyEncryptionKeysRequest, context: Context
    ) -> pb.ListKeyEncryptionKeysResponse:
        """See provider_keys.proto."""
        return pb.ListKeyEncryptionKeysResponse(
            keys=[
                pb.KeyEncryptionKey(kid=key.kid, current=key.current, set=key.is_set, data_keys=key.data_keys)
                for key in await self._keys.wrapping_keys()
            ]
        )


def _to_proto(key: ProviderKey) -> pb.ProviderKey:
    return pb.ProviderKey(
        provider_key_id=key.provider_key_id,
        org_id=key.org_id,
        source_id=key.source_id,
        name=key.name,
        hint=key.hint,
        fallback=key.fallback,
        created_at_ms=key.created_at_ms,
        rotated_at_ms=key.rotated_at_ms,
        revoked_at_ms=key.revoked_at_ms,
    )
