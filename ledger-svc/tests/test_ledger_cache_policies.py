"""Cache policies: who says what, what is in force, and who is told of a change."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from ledger_svc.domain.cache_policies import (
    INSTALLATION,
    SAYS_NOTHING,
    CacheDefault,
    CachePolicy,
    CachePolicyChange,
    CacheTier,
    PolicyLevel,
    checked,
    decode,
    encode,
)
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.signing import Keyring
from ledger_svc.service.cache_policies import CachePolicyService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.revocations import Revocations, name_of_organization
from ledger_svc.store.cache_policies import CachePolicies
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import AUDIT_LOG
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.principal import Actor, ActorKind, Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]

POLICIES = st.builds(
    CachePolicy,
    default=st.none() | st.sampled_from(CacheDefault),
    up_to=st.none() | st.sampled_from(CacheTier),
    max_error_ppm=st.none() | st.integers(1, 1_000_000),
    ttl_s=st.none() | st.integers(1, 1_000),
    allow_sampled=st.none() | st.booleans(),
    share_in_org=st.none() | st.booleans(),
    record_requests=st.none() | st.booleans(),
)


@pytest.fixture
def policies(
    database: Database,
    writer: Writer,
    keyring: Keyring,
    keys: KeyService,
    revocations: Revocations,
    clock: FakeClock,
    make_id: MakeId,
) -> CachePolicyService:
    return CachePolicyService(
        policies=CachePolicies(database, writer, Trail(Sealer(keyring))),
        keys=keys,
        revocations=revocations,
        installation=INSTALLATION,
        clock=clock,
        make_id=make_id,
    )


class Subject(TypedDict):
    """Whose policy, of an organisation."""

    project_id: str
    key_id: str


def change(**values: Any) -> CachePolicyChange:
    return CachePolicyChange(values)


@settings(max_examples=50, deadline=None)
@given(POLICIES, POLICIES, POLICIES)
def test_the_lowest_who_says_something_decides(key: CachePolicy, project: CachePolicy, org: CachePolicy) -> None:
    assert decode(encode(key)) == key
    in_force = key.over(project).over(org)
    assert in_force == key.over(project.over(org)), "whichever two are put together first"
    for name in ("default", "up_to", "ttl_s", "share_in_org"):
        said = [getattr(policy, name) for policy in (key, project, org)]
        assert getattr(in_force, name) == next((value for value in said if value is not None), None)


@pytest.mark.parametrize(
    ("policy", "level", "said"),
    [
        (CachePolicy(ttl_s=0), PolicyLevel.KEY, "ttl_s: is 0"),
        (CachePolicy(ttl_s=30 * 86_400 + 1), PolicyLevel.ORGANIZATION, "ttl_s"),
        (CachePolicy(max_error_ppm=0), PolicyLevel.PROJECT, "max_error_ppm: is 0"),
        (CachePolicy(max_error_ppm=1_000_001), PolicyLevel.PROJECT, "max_error_ppm"),
        (CachePolicy(share_in_org=True), PolicyLevel.PROJECT, "for the whole organisation"),
        (CachePolicy(record_requests=False), PolicyLevel.KEY, "for the whole organisation"),
        (CachePolicy(up_to=CacheTier.SEMANTIC), PolicyLevel.KEY, "the semantic tier needs it"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(policy: CachePolicy, level: PolicyLevel, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        checked(policy, INSTALLATION, level)


def test_the_error_bound_may_come_from_above() -> None:
    semantic = CachePolicy(up_to=CacheTier.SEMANTIC)
    assert checked(semantic, CachePolicy(max_error_ppm=10_000), PolicyLevel.KEY) == semantic
    with pytest.raises(InvalidRequest, match="semantic tier needs"):
        checked(SAYS_NOTHING, semantic, PolicyLevel.KEY)


async def test_a_key_inherits_and_may_differ(
    policies: CachePolicyService, keys: KeyService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    org: Subject = {"project_id": "", "key_id": ""}
    project: Subject
    key: Subject
    project, key = {"project_id": payer.project_id, "key_id": ""}, {"project_id": "", "key_id": payer.key_id}
    assert await policies.policy(payer.org_id, **key) == (SAYS_NOTHING, INSTALLATION)
    off = change(default=CacheDefault.OFF, ttl_s=60, share_in_org=True)
    _, in_force = await policies.update_policy(payer.org_id, off, **org)
    assert (in_force.default, in_force.ttl_s, in_force.share_in_org) == (CacheDefault.OFF, 60, True)
    own, in_force = await policies.update_policy(payer.org_id, change(ttl_s=5), **project)
    assert (own, in_force.ttl_s, in_force.default) == (CachePolicy(ttl_s=5), 5, CacheDefault.OFF)
    on = change(default=CacheDefault.ON, up_to=CacheTier.CANONICAL)
    own, in_force = await policies.update_policy(payer.org_id, on, **key)
    assert own == CachePolicy(default=CacheDefault.ON, up_to=CacheTier.CANONICAL)
    assert (in_force.default, in_force.ttl_s, in_force.share_in_org) == (CacheDefault.ON, 5, True)
    made, secret = await keys.create_key(
        payer.org_id, payer.project_id, "other", cache=CachePolicy(up_to=CacheTier.EXACT)
    )
    assert (await keys.get_key(made.key_id, payer.org_id)) == made
    found = (await keys.authenticate(secret)).cache
    assert found == CachePolicy(CacheDefault.OFF, CacheTier.EXACT, None, 5, False, True, False)
    assert [key.cache.up_to for key in await keys.list_keys(payer.org_id)] == [CacheTier.EXACT, CacheTier.CANONICAL]
    back = await policies.update_policy(payer.org_id, change(default=None, up_to=None), **key)
    assert back[0] == SAYS_NOTHING
    assert back[1].default is CacheDefault.OFF
    with pytest.raises(InvalidRequest, match="semantic tier needs"):
        await keys.create_key(payer.org_id, payer.project_id, "x", cache=CachePolicy(up_to=CacheTier.SEMANTIC))


async def test_another_organisations_are_not_found(policies: CachePolicyService, new_payer: NewPayer) -> None:
    mine, theirs = await new_payer(), await new_payer()
    subjects: list[Subject] = [
        {"project_id": theirs.project_id, "key_id": ""},
        {"project_id": "", "key_id": theirs.key_id},
    ]
    for subject in subjects:
        with pytest.raises(NotFound):
            await policies.policy(mine.org_id, **subject)
        with pytest.raises(NotFound):
            await policies.update_policy(mine.org_id, change(ttl_s=1), **subject)
    with pytest.raises(NotFound):
        await policies.update_policy("org_none", change(ttl_s=1), project_id="", key_id="")
    with pytest.raises(InvalidRequest, match="name one of them"):
        await policies.policy(mine.org_id, project_id=mine.project_id, key_id=mine.key_id)
    assert (await policies.policy(theirs.org_id, project_id="", key_id=theirs.key_id))[0] == SAYS_NOTHING


async def test_a_change_is_told_once_in_the_trail_and_to_the_watchers(
    policies: CachePolicyService,
    directory: Directory,
    revocations: Revocations,
    database: Database,
    new_payer: NewPayer,
) -> None:
    payer = await new_payer()
    elsewhere = Revocations(directory, max_pending=9)
    await elsewhere.poll()
    actor = Actor(ActorKind.API_KEY, "key_admin", "192.0.2.7", "a" * 32)
    async with aclosing(revocations.watch()) as here, aclosing(elsewhere.watch()) as there:
        assert (await anext(here), await anext(there)) == ("", "")
        for _ in range(2):
            await policies.update_policy(payer.org_id, change(ttl_s=9), project_id="", key_id="", actor=actor)
        await policies.update_policy(payer.org_id, change(ttl_s=8), project_id="", key_id=payer.key_id)
        await policies.update_policy(payer.org_id, change(ttl_s=7), project_id=payer.project_id, key_id="")
        await elsewhere.poll()
        whole = name_of_organization(payer.org_id)
        assert [await anext(here) for _ in range(3)] == [whole, payer.key_id, whole]
        assert [await anext(there) for _ in range(2)] == [payer.key_id, whole], "the newest change of each"
        assert await directory.changes_after(0) == [(payer.key_id, 2), (whole, 3)]
        await policies.update_policy(payer.org_id, change(ttl_s=6), project_id="", key_id=payer.key_id)
        assert (await directory.newest_change(), await directory.changes_after(3)) == (4, [(payer.key_id, 4)])
    query = select(AUDIT_LOG.c.document).where(AUDIT_LOG.c.action.like("%.updated")).order_by(AUDIT_LOG.c.entry_id)
    documents = map(json.loads, await database.read(lambda connection: connection.scalars(query).all()))
    told = [(entry["action"], entry["subject"], entry["before"], entry["after"]) for entry in documents]
    assert told == [
        ("organization.updated", payer.org_id, {"cache_ttl_s": None}, {"cache_ttl_s": 9}),
        ("key.updated", payer.key_id, {"cache_ttl_s": None}, {"cache_ttl_s": 8}),
        ("project.updated", payer.project_id, {"cache_ttl_s": None}, {"cache_ttl_s": 7}),
        ("key.updated", payer.key_id, {"cache_ttl_s": 8}, {"cache_ttl_s": 6}),
    ]
