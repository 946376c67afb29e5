"""API keys: their form, what is stored of them, and who may use one when."""

from __future__ import annotations

import json
import random
import re
import secrets
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from ledger_svc.domain.errors import ApiKeyRevoked, InvalidApiKey, InvalidRequest, NotFound
from ledger_svc.domain.keys import Peppers, is_well_formed, mint_secret, model_allowed
from ledger_svc.domain.policies import KeyScope
from ledger_svc.service.keys import KeyService
from ledger_svc.service.revocations import Revocations
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.tables import API_KEY, KEY_SECRET, metadata
from meshkit.ids import new_id
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]


def test_a_secret_has_the_documented_form() -> None:
    found = {mint_secret(secrets.randbelow) for _ in range(100)}
    assert len(found) == 100
    assert all(re.fullmatch(r"tg-[0-9A-Za-z]{43}", secret) and is_well_formed(secret) for secret in found)


def test_the_checksum_is_the_crc32_in_base62_of_what_stands_before() -> None:
    secret = mint_secret(lambda _: 0)
    assert secret == "tg-" + "0" * 37 + "12C321"
    assert is_well_formed(secret)


@given(st.integers(0, 2**32), st.integers(3, 45), st.sampled_from("0123456789ABCxyz_- é"))
def test_one_changed_character_is_known_without_a_lookup(seed: int, at: int, char: str) -> None:
    secret = mint_secret(random.Random(seed).randrange)
    changed = secret[:at] + char + secret[at + 1 :]
    assert is_well_formed(changed) == (changed == secret)


@pytest.mark.parametrize("text", ["", "tg-", "sk-" + "0" * 43, "tg-" + "0" * 42, "tg-" + "0" * 44, "tg-" + "é" * 43])
def test_what_is_not_a_secret_is_known_without_a_lookup(text: str) -> None:
    assert not is_well_formed(text)


def test_digests_depend_on_the_pepper_and_the_newest_signs() -> None:
    old, both = Peppers({1: "a" * 16}), Peppers({1: "a" * 16, 2: "b" * 16})
    secret = mint_secret(secrets.randbelow)
    assert both.digest(secret).pepper_version == 2
    assert old.digest(secret) in both.digests(secret)
    assert len({digest.hmac_sha256_hex for digest in both.digests(secret)}) == 2


@pytest.mark.parametrize("peppers", [{}, {1: "short"}, {0: "a" * 16}])
def test_weak_peppers_are_refused(peppers: dict[int, str]) -> None:
    with pytest.raises(ValueError, match="pepper"):
        Peppers(peppers)


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ((), "any/thing", True),
        (("gpt-5",), "gpt-5", True),
        (("gpt-5",), "gpt-5-mini", False),
        (("gpt-*", "claude-*"), "claude-opus", True),
        (("*",), "a/b/c", True),
        (("openai/*",), "openai/gpt-5", True),
        (("openai/*",), "azure/openai/gpt-5", False),
        (("gpt-?",), "GPT-5", False),
    ],
)
def test_the_allow_list(patterns: tuple[str, ...], model: str, allowed: bool) -> None:
    assert model_allowed(patterns, model) is allowed


async def test_a_key_is_shown_once_and_never_stored_in_clear(
    keys: KeyService, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    key, secret = await keys.create_key(payer.org_id, payer.project_id, "mine", allowed_models=["gpt-*"])
    assert secret.startswith(key.prefix)
    assert len(key.prefix) == 9
    everything = await database.read(
        lambda connection: json.dumps(
            [
                [str(value) for value in row]
                for table in metadata.sorted_tables
                for row in connection.execute(select(table))
            ]
        )
    )
    assert secret not in everything
    assert secret[len(key.prefix) :] not in everything
    assert key.key_id in everything


async def test_who_holds_a_secret(keys: KeyService, new_payer: NewPayer) -> None:
    payer = await new_payer()
    key, secret = await keys.create_key(payer.org_id, payer.project_id, "mine", allowed_models=["gpt-*", "o3"])
    principal, policy, valid_for_ms, _ = await keys.authenticate(secret)
    assert (policy.scope, policy.requests_per_minute, policy.tokens_per_minute) == (KeyScope.INFERENCE, 60, 0)
    assert principal == Principal(payer.org_id, payer.project_id, key.key_id, ("gpt-*", "o3"))
    assert valid_for_ms == 5_000
    for wrong in ("", "tg-nonsense", mint_secret(secrets.randbelow), secret + "0", secret.lower()):
        with pytest.raises(InvalidApiKey):
            await keys.authenticate(wrong)


async def test_a_revoked_key_is_known_and_refused(keys: KeyService, clock: FakeClock, new_payer: NewPayer) -> None:
    payer, stranger = await new_payer(), await new_payer()
    key, secret = await keys.create_key(payer.org_id, payer.project_id, "mine")
    with pytest.raises(NotFound):
        await keys.revoke_key(key.key_id, stranger.org_id)
    await keys.authenticate(secret)
    revoked = await keys.revoke_key(key.key_id, payer.org_id)
    assert revoked.revoked_at_ms == clock.now_ms()
    clock.advance(1_000)
    assert await keys.revoke_key(key.key_id, "") == revoked
    with pytest.raises(ApiKeyRevoked, match="revoked"):
        await keys.authenticate(secret)
    with pytest.raises(NotFound):
        await keys.revoke_key("key_none", "")


async def test_a_key_ends_at_its_time_and_is_not_believed_beyond_it(
    keys: KeyService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    _, secret = await keys.create_key(payer.org_id, payer.project_id, "mine", expires_at_ms=clock.now_ms() + 6_000)
    assert (await keys.authenticate(secret))[2] == 5_000
    clock.advance(5_999)
    assert (await keys.authenticate(secret))[2] == 1
    clock.advance(1)
    with pytest.raises(ApiKeyRevoked, match="expired"):
        await keys.authenticate(secret)
    with pytest.raises(InvalidRequest):
        await keys.create_key(payer.org_id, payer.project_id, "mine", expires_at_ms=clock.now_ms())


async def test_after_a_rotation_old_secrets_hold_and_new_ones_take_the_new_pepper(
    keys: KeyService,
    directory: Directory,
    revocations: Revocations,
    database: Database,
    clock: FakeClock,
    new_payer: NewPayer,
) -> None:
    payer = await new_payer()
    _, old_secret = await keys.create_key(payer.org_id, payer.project_id, "old")
    rotated = KeyService(
        directory=directory,
        revocations=revocations,
        peppers=Peppers({1: "pepper-for-tests", 2: "another pepper for tests"}),
        clock=clock,
        make_id=new_id,
        random_below=secrets.randbelow,
        valid_for_ms=5_000,
    )
    _, new_secret = await rotated.create_key(payer.org_id, payer.project_id, "new")
    for secret in (old_secret, new_secret):
        assert (await rotated.authenticate(secret))[0].org_id == payer.org_id
    with pytest.raises(InvalidApiKey):
        await keys.authenticate(new_secret)
    query = select(API_KEY.c.name, KEY_SECRET.c.pepper_version).join_from(
        API_KEY, KEY_SECRET, API_KEY.c.key_id == KEY_SECRET.c.key_id
    )
    versions = {row.name: row.pepper_version for row in await database.read(lambda c: c.execute(query).all())}
    assert (versions["old"], versions["new"]) == (1, 2)


async def test_keys_are_listed_newest_first_by_organisation(
    keys: KeyService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer, other = await new_payer(), await new_payer()
    clock.advance(1)
    key, _ = await keys.create_key(payer.org_id, payer.project_id, "newer")
    listed = await keys.list_keys(payer.org_id)
    assert [found.key_id for found in listed] == [key.key_id, payer.key_id]
    assert listed[0] == key
    assert {found.key_id for found in await keys.list_keys("")} == {key.key_id, payer.key_id, other.key_id}


async def test_projects_belong_to_organisations(keys: KeyService, new_payer: NewPayer) -> None:
    payer, other = await new_payer(), await new_payer()
    with pytest.raises(NotFound):
        await keys.create_project("org_none", "x")
    with pytest.raises(NotFound):
        await keys.create_key(payer.org_id, other.project_id, "x")
    with pytest.raises(InvalidRequest) as refusal:
        await keys.create_project(payer.org_id, "web")
    assert refusal.value.metadata["param"] == "name"
    for name in ("", "  ", "x" * 101, "a\nb"):
        with pytest.raises(InvalidRequest):
            await keys.create_organization(name)


async def test_a_name_is_data_and_never_a_statement(keys: KeyService, database: Database, new_payer: NewPayer) -> None:
    payer = await new_payer()
    name = "'; DROP TABLE org; -- \" % :x {} 株式会社"
    key, _ = await keys.create_key(payer.org_id, payer.project_id, name, allowed_models=[name])
    assert (await keys.list_keys(payer.org_id))[-1].key_id
    assert {k.name for k in await keys.list_keys(payer.org_id)} == {"key", name}
    assert key.allowed_models == (name,)
    assert await database.read(lambda connection: connection.scalar(text("SELECT count(*) FROM org"))) == 1
