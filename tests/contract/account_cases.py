"""Cases of the ledger's account service."""

from __future__ import annotations

from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import account_pb2, ledger_pb2
from tests.contract.cases import TIMEOUT_S, covers, new_key, refused
from tests.contract.world import World


@covers("AccountService/ListProjects")
async def list_projects(world: World) -> None:
    request = account_pb2.ListProjectsRequest(org_id=world.org_id, page_size=1)
    first = await world.accounts.ListProjects(request, timeout=TIMEOUT_S)
    assert [project.project_id for project in first.projects] == [world.project_id]
    foreign = account_pb2.ListProjectsRequest(org_id=world.org_id, page_token="x")
    await refused(world.accounts.ListProjects(foreign, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("AccountService/GetProject")
async def get_project(world: World) -> None:
    request = account_pb2.GetProjectRequest(org_id=world.org_id, project_id=world.project_id)
    found = await world.accounts.GetProject(request, timeout=TIMEOUT_S)
    assert (found.project.name, found.project.org_id) == ("contract", world.org_id)
    request = account_pb2.GetProjectRequest(org_id="org_other", project_id=world.project_id)
    await refused(world.accounts.GetProject(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("AccountService/UpdateProject")
async def update_project(world: World) -> None:
    made = await world.ledger.CreateProject(
        ledger_pb2.CreateProjectRequest(org_id=world.org_id, name=world.request_id()), timeout=TIMEOUT_S
    )
    name = world.request_id()
    request = account_pb2.UpdateProjectRequest(org_id=world.org_id, project_id=made.project_id, name=name)
    for _ in range(2):
        assert (await world.accounts.UpdateProject(request, timeout=TIMEOUT_S)).project.name == name
    request.name = "contract"
    await refused(world.accounts.UpdateProject(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)
    request.ClearField("name")
    assert (await world.accounts.UpdateProject(request, timeout=TIMEOUT_S)).project.name == name


@covers("AccountService/GetOrganization")
async def get_organization(world: World) -> None:
    request = account_pb2.GetOrganizationRequest(org_id=world.org_id)
    found = await world.accounts.GetOrganization(request, timeout=TIMEOUT_S)
    assert (found.org_id, found.name, found.created_at_ms > 0) == (world.org_id, "contract", True)
    request = account_pb2.GetOrganizationRequest(org_id="org_other")
    await refused(world.accounts.GetOrganization(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("AccountService/GetKey")
async def get_key(world: World) -> None:
    made = await new_key(world)
    request = account_pb2.GetKeyRequest(org_id=world.org_id, key_id=made.key.key_id)
    found = await world.accounts.GetKey(request, timeout=TIMEOUT_S)
    assert (found.key, found.key.status) == (made.key, ledger_pb2.KEY_STATUS_ACTIVE)
    request.org_id = "org_other"
    await refused(world.accounts.GetKey(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("AccountService/FindKeys")
async def find_keys(world: World) -> None:
    made = await new_key(world)
    await world.ledger.RevokeKey(ledger_pb2.RevokeKeyRequest(key_id=made.key.key_id), timeout=TIMEOUT_S)
    request = account_pb2.FindKeysRequest(
        org_id=world.org_id, project_id=world.project_id, status=ledger_pb2.KEY_STATUS_REVOKED, page_size=1
    )
    first = await world.accounts.FindKeys(request, timeout=TIMEOUT_S)
    assert [key.key_id for key in first.keys] == [made.key.key_id]
    request.page_token = "x"
    await refused(world.accounts.FindKeys(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("AccountService/UpdateKey")
async def update_key(world: World) -> None:
    made = await new_key(world)
    request = account_pb2.UpdateKeyRequest(
        org_id=world.org_id,
        key_id=made.key.key_id,
        allowed_models=account_pb2.TextList(values=["gpt-*"]),
        requests_per_minute=account_pb2.MinuteLimit(per_minute=0),
        region=ledger_pb2.REGION_POLICY_CN_ONLY,
    )
    for _ in range(2):
        changed = (await world.accounts.UpdateKey(request, timeout=TIMEOUT_S)).key
        assert (changed.name, list(changed.allowed_models)) == (made.key.name, ["gpt-*"])
        assert (changed.policy.requests_per_minute, changed.policy.HasField("tokens_per_minute")) == (0, False)
    back = account_pb2.UpdateKeyRequest(
        key_id=made.key.key_id, allowed_models=account_pb2.TextList(), requests_per_minute=account_pb2.MinuteLimit()
    )
    changed = (await world.accounts.UpdateKey(back, timeout=TIMEOUT_S)).key
    assert (list(changed.allowed_models), changed.policy.HasField("requests_per_minute")) == ([], False)
    assert changed.policy.region == ledger_pb2.REGION_POLICY_CN_ONLY
    back.region = 9  # type: ignore[assignment] # a number that the contract does not have
    await refused(world.accounts.UpdateKey(back, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("AccountService/RotateKey")
async def rotate_key(world: World) -> None:
    made = await new_key(world)
    request = account_pb2.RotateKeyRequest(org_id=world.org_id, key_id=made.key.key_id, overlap_ms=60_000)
    rotated = await world.accounts.RotateKey(request, timeout=TIMEOUT_S)
    assert (rotated.key.key_id, rotated.secret[:9]) == (made.key.key_id, rotated.key.prefix)
    for secret, at_most_ms in ((made.secret, 60_000), (rotated.secret, 60_000)):
        asked = ledger_pb2.AuthenticateRequest(secret=secret)
        found = await world.ledger.Authenticate(asked, timeout=TIMEOUT_S)
        assert found.principal.key_id == made.key.key_id
        assert 0 < found.valid_for_ms <= at_most_ms
    request.overlap_ms = 0
    await world.accounts.RotateKey(request, timeout=TIMEOUT_S)
    for secret in (made.secret, rotated.secret):
        asked = ledger_pb2.AuthenticateRequest(secret=secret)
        await refused(world.ledger.Authenticate(asked, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_API_KEY_REVOKED)


@covers("AccountService/GetCachePolicy")
async def get_cache_policy(world: World) -> None:
    request = account_pb2.GetCachePolicyRequest(org_id=world.org_id, project_id=world.project_id)
    found = await world.accounts.GetCachePolicy(request, timeout=TIMEOUT_S)
    assert found.policy == ledger_pb2.CachePolicy()
    in_force = (found.in_force.default, found.in_force.up_to, found.in_force.HasField("ttl_s"))
    assert in_force == (ledger_pb2.CACHE_DEFAULT_ON, ledger_pb2.CACHE_TIER_EXACT, False)
    request.org_id = "org_other"
    await refused(world.accounts.GetCachePolicy(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("AccountService/UpdateCachePolicy")
async def update_cache_policy(world: World) -> None:
    made = await new_key(world)
    request = account_pb2.UpdateCachePolicyRequest(org_id=world.org_id, key_id=made.key.key_id)
    request.change.values.CopyFrom(ledger_pb2.CachePolicy(default=ledger_pb2.CACHE_DEFAULT_OFF, ttl_s=60))
    request.change.fields.paths.extend(["default", "ttl_s"])
    for _ in range(2):
        changed = await world.accounts.UpdateCachePolicy(request, timeout=TIMEOUT_S)
        assert (changed.policy, changed.in_force.ttl_s) == (request.change.values, 60)
    asked = ledger_pb2.AuthenticateRequest(secret=made.secret)
    found = await world.ledger.Authenticate(asked, timeout=TIMEOUT_S)
    assert (found.cache, found.policy.cache_default) == (changed.in_force, ledger_pb2.CACHE_DEFAULT_OFF)
    request.change.CopyFrom(account_pb2.CachePolicyChange())
    request.change.fields.paths.append("default")
    changed = await world.accounts.UpdateCachePolicy(request, timeout=TIMEOUT_S)
    assert changed.policy == ledger_pb2.CachePolicy(ttl_s=60), "a field without a value is inherited again"
    for path in ("colour", "share_in_org"):
        request.change.values.share_in_org = True
        request.change.fields.paths[:] = [path]
        wrong = world.accounts.UpdateCachePolicy(request, timeout=TIMEOUT_S)
        await refused(wrong, ErrorReason.ERROR_REASON_INVALID_REQUEST)
