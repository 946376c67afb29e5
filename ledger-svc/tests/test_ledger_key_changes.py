"""Keys that are changed, given new secrets, and found by page; projects that get another name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from ledger_svc.domain.cache_policies import CacheDefault, CachePolicy
from ledger_svc.domain.errors import ApiKeyRevoked, InvalidApiKey, InvalidRequest, ModelNotAllowed, NotFound
from ledger_svc.domain.key_changes import MAX_OVERLAP_MS, KeyChange, MinuteLimit
from ledger_svc.domain.keys import KeySecret, KeyStatus, ends_of_secrets
from ledger_svc.domain.policies import KeyPolicy, KeyScope, checked
from ledger_svc.service.accounts import AccountService
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.keys import KeyService
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.tables import AUDIT_LOG, KEY_SECRET
from meshkit.ids import MakeId
from meshkit.principal import Actor, ActorKind, Principal
from meshkit.regions import RegionPolicy
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
DAY_MS = 24 * 3_600 * 1_000


@pytest.fixture
def accounts(directory: Directory, clock: FakeClock, make_id: MakeId) -> AccountService:
    return AccountService(directory, clock, make_id)


async def trail_of(database: Database, subject: str) -> list[dict[str, Any]]:
    """What is told of a thing, oldest first."""
    query = select(AUDIT_LOG.c.document).where(AUDIT_LOG.c.subject == subject).order_by(AUDIT_LOG.c.entry_id)
    found = await database.read(lambda connection: connection.scalars(query).all())
    return [json.loads(document) for document in found]


async def test_what_is_not_given_stays_and_what_is_holds_at_once(
    keys: KeyService, charging: ChargingService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**9)
    before = await keys.get_key(payer.key_id, payer.org_id)
    assert await keys.update_key(payer.key_id, payer.org_id, KeyChange()) == before
    change = KeyChange(
        name="renamed",
        allowed_models=("gpt-*",),
        allowed_cidrs=("10.1.2.3/8", "2001:db8::1", "::ffff:192.0.2.0/120"),
        region=RegionPolicy.CN_ONLY,
        requests_per_minute=MinuteLimit(5),
        cache_default=CacheDefault.OFF,
    )
    after = await keys.update_key(payer.key_id, payer.org_id, change)
    assert (after.name, after.allowed_models) == ("renamed", ("gpt-*",))
    assert after.policy == KeyPolicy(
        allowed_cidrs=("10.0.0.0/8", "2001:db8::1/128", "192.0.2.0/24"),
        region=RegionPolicy.CN_ONLY,
        requests_per_minute=5,
    )
    assert after.cache == CachePolicy(default=CacheDefault.OFF)
    assert await keys.get_key(payer.key_id, "") == after
    with pytest.raises(ModelNotAllowed):
        await charging.reserve(payer, "req-1", amount_nano_usd=1, ttl_ms=1_000, model="claude")
    again = await keys.update_key(payer.key_id, "", KeyChange(allowed_models=(), requests_per_minute=MinuteLimit()))
    assert (again.allowed_models, again.policy.requests_per_minute, again.name) == ((), None, "renamed")
    assert again.policy.allowed_cidrs == after.policy.allowed_cidrs
    await charging.reserve(payer, "req-1", amount_nano_usd=1, ttl_ms=1_000, model="claude")
    assert clock.now_ms() == before.created_at_ms


async def test_a_change_is_told_with_what_it_changed(keys: KeyService, database: Database, new_payer: NewPayer) -> None:
    payer = await new_payer()
    actor = Actor(ActorKind.API_KEY, "key_admin", "192.0.2.7", "a" * 32)
    await keys.update_key(payer.key_id, "", KeyChange(name="other", read_only=True), actor=actor)
    await keys.update_key(payer.key_id, "", KeyChange(name="other"), actor=actor)
    _, secret, _ = await keys.rotate_key(payer.key_id, "", overlap_ms=DAY_MS, actor=actor)
    _, updated, rotated = await trail_of(database, payer.key_id)
    assert updated["action"] == "key.updated"
    assert (updated["actor"]["id"], updated["actor"]["address"]) == ("key_admin", "192.0.2.7")
    assert updated["before"] == {"name": "key", "read_only": False}
    assert updated["after"] == {"name": "other", "read_only": True}
    assert rotated["action"] == "key.rotated"
    assert rotated["after"]["prefix"] == secret[:9]
    assert secret not in json.dumps([updated, rotated])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (KeyChange(name=" "), "name"),
        (KeyChange(name="a\x00b"), "name"),
        (KeyChange(allowed_models=("",)), "allowed_models"),
        (KeyChange(allowed_cidrs=("10.0.0.0/33",)), "allowed_cidrs"),
        (KeyChange(allowed_cidrs=("example.com",)), "allowed_cidrs"),
        (KeyChange(allowed_cidrs=("10.0.0.0/8",) * 101), "allowed_cidrs"),
        (KeyChange(requests_per_minute=MinuteLimit(-1)), "requests_per_minute"),
        (KeyChange(tokens_per_minute=MinuteLimit(10**10)), "tokens_per_minute"),
        (KeyChange(expires_at_ms=1), "expires_at_ms"),
        (KeyChange(expires_at_ms=-1), "expires_at_ms"),
    ],
)
async def test_a_change_that_is_none_changes_nothing(
    keys: KeyService, new_payer: NewPayer, change: KeyChange, param: str
) -> None:
    payer = await new_payer()
    before = await keys.get_key(payer.key_id, "")
    with pytest.raises(InvalidRequest) as refused:
        await keys.update_key(payer.key_id, "", change)
    assert refused.value.metadata["param"] == param
    assert await keys.get_key(payer.key_id, "") == before


async def test_the_end_of_a_key_is_set_moved_cleared_and_never_brought_back(
    keys: KeyService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    key, secret = await keys.create_key(payer.org_id, payer.project_id, "ends")
    for end_ms in (clock.now_ms() + 5, 0, clock.now_ms() + 9):
        changed = await keys.update_key(key.key_id, "", KeyChange(expires_at_ms=end_ms))
        assert changed.expires_at_ms == end_ms
    assert (await keys.authenticate(secret))[2] == 9
    clock.advance(9)
    for end_ms in (0, clock.now_ms() + 5):
        with pytest.raises(InvalidRequest, match="has expired"):
            await keys.update_key(key.key_id, "", KeyChange(expires_at_ms=end_ms))
    assert (await keys.update_key(key.key_id, "", KeyChange(name="was"))).name == "was"
    with pytest.raises(InvalidRequest, match="expired"):
        await keys.rotate_key(key.key_id, "", overlap_ms=0)


async def test_a_revoked_key_stays_as_it_is(keys: KeyService, new_payer: NewPayer) -> None:
    payer, stranger = await new_payer(), await new_payer()
    for org_id in (stranger.org_id, "org_none"):
        for refused in (
            keys.update_key(payer.key_id, org_id, KeyChange(name="x")),
            keys.rotate_key(payer.key_id, org_id, overlap_ms=0),
            keys.get_key(payer.key_id, org_id),
        ):
            with pytest.raises(NotFound):
                await refused
    await keys.revoke_key(payer.key_id, "")
    for refused in (
        keys.update_key(payer.key_id, "", KeyChange(name="x")),
        keys.rotate_key(payer.key_id, "", overlap_ms=0),
    ):
        with pytest.raises(InvalidRequest, match="revoked"):
            await refused


async def test_both_secrets_are_valid_until_the_overlap_ends(
    keys: KeyService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    key, old = await keys.create_key(payer.org_id, payer.project_id, "rotating")
    clock.advance(1_000)
    rotated, new, ends_at_ms = await keys.rotate_key(key.key_id, payer.org_id, overlap_ms=6_000)
    assert (rotated.key_id, rotated.prefix, ends_at_ms) == (key.key_id, new[:9], clock.now_ms() + 6_000)
    for secret in (old, new):
        principal, _, valid_for_ms, _ = await keys.authenticate(secret)
        assert (principal.key_id, valid_for_ms) == (key.key_id, 5_000)
    clock.advance(5_999)
    assert (await keys.authenticate(old))[2] == 1, "an answer would be believed beyond the overlap"
    clock.advance(1)
    with pytest.raises(ApiKeyRevoked, match="rotated"):
        await keys.authenticate(old)
    assert (await keys.authenticate(new))[2] == 5_000


async def test_a_second_rotation_ends_the_oldest_and_one_without_overlap_all_before(
    keys: KeyService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    key, first = await keys.create_key(payer.org_id, payer.project_id, "rotating")
    _, second, _ = await keys.rotate_key(key.key_id, "", overlap_ms=DAY_MS)
    _, third, _ = await keys.rotate_key(key.key_id, "", overlap_ms=2 * DAY_MS)
    with pytest.raises(ApiKeyRevoked, match="rotated"):
        await keys.authenticate(first)
    for secret in (second, third):
        await keys.authenticate(secret)
    _, fourth, _ = await keys.rotate_key(key.key_id, "", overlap_ms=0)
    for secret in (first, second, third):
        with pytest.raises(ApiKeyRevoked, match="rotated"):
            await keys.authenticate(secret)
    await keys.authenticate(fourth)
    for overlap_ms in (-1, MAX_OVERLAP_MS + 1):
        with pytest.raises(InvalidRequest):
            await keys.rotate_key(key.key_id, "", overlap_ms=overlap_ms)
    await keys.revoke_key(key.key_id, "")
    with pytest.raises(ApiKeyRevoked, match="revoked"):
        await keys.authenticate(fourth)


async def test_while_a_key_is_rotated_over_and_over_its_newest_secret_is_always_known(
    keys: KeyService, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    key, newest = await keys.create_key(payer.org_id, payer.project_id, "rotating")
    rotating, rotations = True, 0

    async def authenticate() -> int:
        seen = 0
        while rotating:
            asked_at = rotations
            try:
                assert (await keys.authenticate(newest))[0].key_id == key.key_id
                seen += 1
            except ApiKeyRevoked:
                assert rotations > asked_at + 1, "ended though only one came after it"
        return seen

    asking = [asyncio.create_task(authenticate()) for _ in range(3)]
    for _ in range(5):
        rotations += 1  # from here on it may be
        _, newest, _ = await keys.rotate_key(key.key_id, "", overlap_ms=60_000)
        await asyncio.sleep(0)
    rotating = False
    assert sum(await asyncio.gather(*asking)) > 0
    made = await asyncio.gather(*(keys.rotate_key(key.key_id, "", overlap_ms=60_000) for _ in range(4)))
    newest_ends = select(KEY_SECRET.c.hmac_sha256_hex).where(
        KEY_SECRET.c.key_id == key.key_id, KEY_SECRET.c.expires_at_ms == 0
    )
    assert len(await database.read(lambda c: c.execute(newest_ends).all())) == 1
    outcomes = await asyncio.gather(*(keys.authenticate(secret) for _, secret, _ in made), return_exceptions=True)
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 2


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60)), max_size=12))
def test_never_more_than_two_secrets_are_valid(rotations: list[tuple[int, int]]) -> None:
    now_ms, secrets = 1_000, {"0": KeySecret("0", 1, "key_1", 1_000)}
    for number, (pause_ms, overlap_ms) in enumerate(rotations, start=1):
        now_ms += pause_ms
        for digest, ends_at_ms in ends_of_secrets(secrets.values(), now_ms, overlap_ms).items():
            before = secrets[digest].expires_at_ms
            assert not before or ends_at_ms < before, "an end is never put off"
            secrets[digest] = KeySecret(digest, 1, "key_1", secrets[digest].created_at_ms, ends_at_ms)
        secrets[str(number)] = KeySecret(str(number), 1, "key_1", now_ms)
        valid = [name for name, one in secrets.items() if not one.expires_at_ms or one.expires_at_ms > now_ms]
        assert set(valid) <= {str(number), str(number - 1)}
        assert (str(number - 1) in valid) == (overlap_ms > 0)


async def test_keys_come_in_pages_by_project_and_by_state(
    keys: KeyService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer, other = await new_payer(), await new_payer()
    project_id = await keys.create_project(payer.org_id, "app")
    made = [payer.key_id]
    for n in range(4):
        clock.advance(n % 2)  # two of one time each
        end_ms = clock.now_ms() + 1_000 if n == 3 else 0
        key, _ = await keys.create_key(
            payer.org_id, project_id if n else payer.project_id, f"k{n}", expires_at_ms=end_ms
        )
        made.insert(0, key.key_id)
    await keys.revoke_key(made[2], "")
    clock.advance(1_000)

    async def found(size: int = 2, **wanted: Any) -> list[str]:
        ids, token = [], ""
        while True:
            asked = {"project_id": "", "status": None} | wanted
            page, token = await keys.find_keys(payer.org_id, page_size=size, page_token=token, **asked)
            ids += [key.key_id for key in page]
            assert len(page) <= size
            if not token:
                return ids

    assert sorted(await found()) == sorted(made)
    assert await found(size=1) == await found(size=100)
    assert set(await found(project_id=project_id)) == set(made[:3])
    assert await found(status=KeyStatus.REVOKED) == [made[2]]
    assert await found(status=KeyStatus.EXPIRED) == [made[0]]
    assert set(await found(status=KeyStatus.ACTIVE)) == {made[1], *made[3:]}
    assert await found(status=KeyStatus.ACTIVE, project_id=project_id) == [made[1]]
    assert other.key_id not in await found()
    assert keys.status_of(await keys.get_key(made[0], "")) is KeyStatus.EXPIRED


async def test_a_project_gets_another_name(accounts: AccountService, database: Database, new_payer: NewPayer) -> None:
    payer, other = await new_payer(), await new_payer()
    organization = await accounts.organization(payer.org_id)
    assert (organization.org_id, organization.name) == (payer.org_id, "Acme")
    with pytest.raises(NotFound):
        await accounts.organization("org_none")
    for name in ("site", "site", None):
        assert (await accounts.update_project(payer.org_id, payer.project_id, name=name)).name == "site"
    entries = await trail_of(database, payer.project_id)
    assert [entry["action"] for entry in entries] == ["project.created", "project.updated"]
    assert (entries[1]["before"], entries[1]["after"]) == ({"name": "web"}, {"name": "site"})
    with pytest.raises(NotFound):
        await accounts.update_project(other.org_id, payer.project_id, name="mine")
    for name in ("", "\n"):
        with pytest.raises(InvalidRequest):
            await accounts.update_project(payer.org_id, payer.project_id, name=name)


async def test_a_name_that_another_project_has_is_refused(
    keys: KeyService, accounts: AccountService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    project_id = await keys.create_project(payer.org_id, "app")
    with pytest.raises(InvalidRequest, match="web"):
        await accounts.update_project(payer.org_id, project_id, name="web")


def test_a_network_is_kept_in_its_usual_form() -> None:
    given = ("10.1.2.3/8", "192.0.2.7", "::ffff:192.0.2.7", "::ffff:0:0/96", "2001:DB8::/32", "::/0")
    expected = ("10.0.0.0/8", "192.0.2.7/32", "192.0.2.7/32", "0.0.0.0/0", "2001:db8::/32", "::/0")
    assert checked(KeyPolicy(allowed_cidrs=given)).allowed_cidrs == expected


async def test_a_scope_is_for_life_and_unknown_secrets_are_nobodys(keys: KeyService, new_payer: NewPayer) -> None:
    payer = await new_payer()
    policy = KeyPolicy(scope=KeyScope.ACCOUNT)
    key, secret = await keys.create_key(payer.org_id, payer.project_id, "admin", policy=policy)
    changed = await keys.update_key(key.key_id, "", KeyChange(read_only=True))
    assert changed.policy.scope is KeyScope.ACCOUNT
    assert (await keys.authenticate(secret))[1].read_only
    with pytest.raises(InvalidApiKey):
        await keys.authenticate(secret[:-1] + ("a" if secret[-1] != "a" else "b"))
