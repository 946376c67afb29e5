"""Cases of the ledger's provider keys. Each has an organisation of its own, so that the others go on at the operator's
price.
"""

from __future__ import annotations

import asyncio

import orjson

from tallygate.common.v1 import principal_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2
from tallygate.ledger.v1 import provider_keys_pb2 as pb
from tallygate.router.v1 import router_pb2
from tests.contract.cases import MODEL, TIMEOUT_S, covers, refused
from tests.contract.world import World

SECRET, OTHER = "sk-contract-0123456789", "sk-contract-9876543210"


async def an_org(world: World) -> str:
    request = ledger_pb2.CreateOrganizationRequest(name="keys")
    return (await world.ledger.CreateOrganization(request, timeout=TIMEOUT_S)).org_id


async def a_key(world: World, org_id: str) -> pb.ProviderKey:
    request = pb.CreateProviderKeyRequest(org_id=org_id, source_id="scripted", name="case", secret=SECRET)
    return (await world.provider_keys.CreateProviderKey(request, timeout=TIMEOUT_S)).provider_key


async def secrets(world: World, org_id: str) -> list[tuple[str, str, bool]]:
    request = pb.ListProviderSecretsRequest(org_id=org_id)
    found = await world.provider_keys.ListProviderSecrets(request, timeout=TIMEOUT_S)
    return [(secret.source_id, secret.secret, secret.fallback) for secret in found.secrets]


async def planned_with(world: World, org_id: str) -> str:
    """The own key that the router would send a request of the organisation with."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    request = router_pb2.PlanRequest(
        principal=principal_pb2.Principal(org_id=org_id),
        endpoint="chat/completions",
        model=MODEL,
        openai_body=orjson.dumps(body),
    )
    (candidate,) = (await world.router.Plan(request, timeout=TIMEOUT_S)).candidates
    return candidate.provider_key_id


@covers("ProviderKeyService/CreateProviderKey")
async def create(world: World) -> None:
    org_id = await an_org(world)
    made = await a_key(world, org_id)
    assert (made.org_id, made.source_id, made.name, made.hint) == (org_id, "scripted", "case", "...6789")
    assert (made.fallback, made.rotated_at_ms, made.revoked_at_ms) == (True, 0, 0)
    request = pb.CreateProviderKeyRequest(org_id=org_id, source_id="other", name="x", secret="has spaces in it")
    await refused(
        world.provider_keys.CreateProviderKey(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST
    )


@covers("ProviderKeyService/ListProviderKeys")
async def list_keys(world: World) -> None:
    org_id = await an_org(world)
    made = await a_key(world, org_id)
    request = pb.ListProviderKeysRequest(org_id=org_id, page_size=1)
    found = await world.provider_keys.ListProviderKeys(request, timeout=TIMEOUT_S)
    assert (list(found.provider_keys), found.next_page_token) == ([made], "")


@covers("ProviderKeyService/GetProviderKey")
async def get(world: World) -> None:
    org_id = await an_org(world)
    made = await a_key(world, org_id)
    request = pb.GetProviderKeyRequest(org_id=org_id, provider_key_id=made.provider_key_id)
    assert (await world.provider_keys.GetProviderKey(request, timeout=TIMEOUT_S)).provider_key == made
    foreign = pb.GetProviderKeyRequest(org_id=world.org_id, provider_key_id=made.provider_key_id)
    await refused(world.provider_keys.GetProviderKey(foreign, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("ProviderKeyService/RotateProviderKey")
async def rotate(world: World) -> None:
    org_id = await an_org(world)
    made = await a_key(world, org_id)
    request = pb.RotateProviderKeyRequest(org_id=org_id, provider_key_id=made.provider_key_id, secret=OTHER)
    rotated = (await world.provider_keys.RotateProviderKey(request, timeout=TIMEOUT_S)).provider_key
    assert (rotated.hint, rotated.rotated_at_ms >= made.created_at_ms) == ("...3210", True)
    assert (await world.provider_keys.RotateProviderKey(request, timeout=TIMEOUT_S)).provider_key == rotated
    assert await secrets(world, org_id) == [("scripted", OTHER, True)]


@covers("ProviderKeyService/RevokeProviderKey")
async def revoke(world: World) -> None:
    org_id = await an_org(world)
    made = await a_key(world, org_id)
    assert await planned_with(world, org_id) == made.provider_key_id
    request = pb.RevokeProviderKeyRequest(org_id=org_id, provider_key_id=made.provider_key_id)
    revoked = (await world.provider_keys.RevokeProviderKey(request, timeout=TIMEOUT_S)).provider_key
    assert revoked.revoked_at_ms
    assert (await world.provider_keys.RevokeProviderKey(request, timeout=TIMEOUT_S)).provider_key == revoked
    assert await secrets(world, org_id) == []
    async with asyncio.timeout(1):  # the router is told, and asks again
        while await planned_with(world, org_id):
            pass


@covers("ProviderKeyService/ListProviderSecrets")
async def list_secrets(world: World) -> None:
    org_id = await an_org(world)
    assert await secrets(world, org_id) == []
    await a_key(world, org_id)
    request = pb.CreateProviderKeyRequest(org_id=org_id, source_id="another", name="case", secret=OTHER, fallback=False)
    await world.provider_keys.CreateProviderKey(request, timeout=TIMEOUT_S)
    assert await secrets(world, org_id) == [("another", OTHER, False), ("scripted", SECRET, True)]


@covers("ProviderKeyService/WatchProviderKeys")
async def watch(world: World) -> None:
    org_id = await an_org(world)
    watching = world.provider_keys.WatchProviderKeys(pb.WatchProviderKeysRequest(), timeout=TIMEOUT_S)
    changes = aiter(watching)
    assert (await anext(changes)).org_id == ""
    await a_key(world, org_id)
    while (await anext(changes)).org_id != org_id:
        pass
    watching.cancel()


@covers("ProviderKeyService/RewrapProviderKeys")
async def rewrap(world: World) -> None:
    org_id = await an_org(world)
    request = pb.RewrapProviderKeysRequest(org_id=org_id)
    await refused(
        world.provider_keys.RewrapProviderKeys(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND
    )
    await a_key(world, org_id)
    assert (await world.provider_keys.RewrapProviderKeys(request, timeout=TIMEOUT_S)).rewrapped == 1
    assert await secrets(world, org_id) == [("scripted", SECRET, True)]


@covers("ProviderKeyService/ListKeyEncryptionKeys")
async def list_key_encryption_keys(world: World) -> None:
    await a_key(world, await an_org(world))
    found = await world.provider_keys.ListKeyEncryptionKeys(pb.ListKeyEncryptionKeysRequest(), timeout=TIMEOUT_S)
    assert [(key.kid, key.current, key.set, key.data_keys > 0) for key in found.keys] == [("2026-11", True, True, True)]
