"""Provider keys on each database: stored encrypted, told in the trail, and pushed to watchers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import orjson
import pytest
from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import DBAPIError

from ledger_svc.domain.envelope import Envelope, KeyMissing, SealBroken
from ledger_svc.domain.errors import InvalidRequest, LedgerUnavailable, NotFound
from ledger_svc.service.provider_key_changes import ProviderKeyChanges
from ledger_svc.service.provider_key_ports import WrappingKey
from ledger_svc.service.provider_keys import ProviderKeyService
from ledger_svc.service.rewrapping import Rewrapping
from ledger_svc.store.audit import audit
from ledger_svc.store.database import Database
from ledger_svc.store.provider_keys import ProviderKeys
from ledger_svc.store.secret_audit import SEALED
from ledger_svc.store.tables import AUDIT_LOG, DATA_KEY, PROVIDER_KEY
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.principal import Actor, ActorKind, Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
SECRET, OTHER = "sk-acme-0123456789abcd", "sk-acme-0123456789wxyz"
OLD, NEW = {"2026-10": b"o" * 32}, {"2026-11": b"n" * 32}
ACTOR = Actor(ActorKind.API_KEY, "key_admin", "203.0.113.7", "f" * 32)

MakeStore = Callable[[dict[str, bytes]], ProviderKeys]


@pytest.fixture
def make_store(database: Database, writer: Writer, changes_trail: Trail, make_id: MakeId) -> MakeStore:
    """A store with other key-encryption keys."""
    return lambda keys: ProviderKeys(database, writer, changes_trail, Envelope(keys, secrets.token_bytes), make_id)


@pytest.fixture
def store(make_store: MakeStore) -> ProviderKeys:
    return make_store(OLD)


@pytest.fixture
def changes(store: ProviderKeys, clock: FakeClock) -> ProviderKeyChanges:
    return ProviderKeyChanges(store, clock, max_pending=3)


@pytest.fixture
def service(store: ProviderKeys, changes: ProviderKeyChanges, clock: FakeClock, make_id: MakeId) -> ProviderKeyService:
    return ProviderKeyService(store, changes, clock, make_id)


@pytest.fixture
async def org_id(new_payer: NewPayer) -> str:
    return (await new_payer()).org_id


async def rows(database: Database, table: Any) -> list[Any]:
    return list(await database.read(lambda connection: connection.execute(select(table)).all()))


async def trail(database: Database, org_id: str, kind: str) -> list[dict[str, Any]]:
    found = await rows(database, AUDIT_LOG)
    documents = [orjson.loads(row.document) for row in found if row.org_id == org_id]
    return [document for document in documents if document["action"].startswith(kind)]


async def revealed(service: ProviderKeyService, org_id: str) -> dict[str, str]:
    return {found.source_id: found.secret.reveal() for found in await service.secrets(org_id)}


async def test_a_key_is_made_read_and_never_stored_in_the_clear(
    service: ProviderKeyService, database: Database, org_id: str, clock: FakeClock
) -> None:
    made = await service.create(org_id, "openai", "production", SECRET, actor=ACTOR)
    assert made.provider_key_id.startswith("pk_")
    assert (made.hint, made.fallback, made.created_at_ms) == ("...abcd", True, clock.now_ms())
    assert await service.get(org_id, made.provider_key_id) == made
    assert await revealed(service, org_id) == {"openai": SECRET}
    for table in (PROVIDER_KEY, DATA_KEY, AUDIT_LOG):
        assert SECRET[:8] not in str(await rows(database, table))
    (entry,) = await trail(database, org_id, "provider_key")
    assert (entry["action"], entry["subject"], entry["before"]) == ("provider_key.created", made.provider_key_id, {})
    assert entry["after"] == {"source": "openai", "name": "production", "hint": "...abcd", "fallback": True}
    assert (entry["actor"]["id"], entry["actor"]["address"]) == ("key_admin", "203.0.113.7")


async def test_there_is_one_key_at_a_source_until_it_is_revoked(service: ProviderKeyService, org_id: str) -> None:
    made = await service.create(org_id, "openai", "a", SECRET)
    with pytest.raises(InvalidRequest, match=made.provider_key_id):
        await service.create(org_id, "openai", "b", OTHER)
    await service.create(org_id, "groq", "c", OTHER, fallback=False)
    assert await revealed(service, org_id) == {"groq": OTHER, "openai": SECRET}
    await service.revoke(org_id, made.provider_key_id)
    assert await revealed(service, org_id) == {"groq": OTHER}
    again = await service.create(org_id, "openai", "b", OTHER)
    assert await revealed(service, org_id) == {"groq": OTHER, "openai": OTHER}
    found, token = await service.page(org_id, page_size=2, page_token="")
    rest, end = await service.page(org_id, page_size=2, page_token=token)
    assert {key.provider_key_id for key in [*found, *rest]} >= {made.provider_key_id, again.provider_key_id}
    assert (len(found), len(rest), end) == (2, 1, "")


async def test_another_organisations_key_is_not_there(
    service: ProviderKeyService, org_id: str, new_payer: NewPayer
) -> None:
    made, other = await service.create(org_id, "openai", "a", SECRET), (await new_payer()).org_id
    for work in (
        service.get(other, made.provider_key_id),
        service.rotate(other, made.provider_key_id, OTHER),
        service.revoke(other, made.provider_key_id),
        service.create("org_unknown", "openai", "a", SECRET),
        service.reseal(other),
    ):
        with pytest.raises(NotFound):
            await work
    assert await service.secrets(other) == []
    assert (await service.page(other, page_size=0, page_token=""))[0] == []
    assert await revealed(service, org_id) == {"openai": SECRET}


async def test_a_rotation_takes_another_secret_and_the_same_one_changes_nothing(
    service: ProviderKeyService, database: Database, org_id: str, clock: FakeClock
) -> None:
    made = await service.create(org_id, "openai", "a", SECRET)
    clock.advance(1_000)
    rotated = await service.rotate(org_id, made.provider_key_id, OTHER, actor=ACTOR)
    assert (rotated.hint, rotated.rotated_at_ms) == ("...wxyz", clock.now_ms())
    assert await revealed(service, org_id) == {"openai": OTHER}
    clock.advance(1_000)
    assert await service.rotate(org_id, made.provider_key_id, OTHER) == rotated
    _, entry = await trail(database, org_id, "provider_key")
    assert (entry["action"], entry["before"]["hint"], entry["after"]["hint"]) == (
        "provider_key.rotated",
        "...abcd",
        "...wxyz",
    )


async def test_a_revoked_key_is_erased_and_stays_revoked(
    service: ProviderKeyService, database: Database, org_id: str, clock: FakeClock
) -> None:
    made = await service.create(org_id, "openai", "a", SECRET)
    revoked = await service.revoke(org_id, made.provider_key_id, actor=ACTOR)
    assert revoked.revoked_at_ms == clock.now_ms()
    clock.advance(1_000)
    assert await service.revoke(org_id, made.provider_key_id) == revoked
    with pytest.raises(InvalidRequest, match="revoked"):
        await service.rotate(org_id, made.provider_key_id, OTHER)
    (row,) = await rows(database, PROVIDER_KEY)
    assert row.sealed == ""
    entries = await trail(database, org_id, "provider_key")
    assert [entry["action"] for entry in entries] == ["provider_key.created", "provider_key.revoked"]
    assert entries[1]["before"]["hint"] == "...abcd"


@pytest.mark.parametrize(
    "secret", ["", "short", "with space inside", "tab\tinside", "x" * 513, "schlüssel-lang", "nul\0nul-nul"]
)
async def test_a_bad_secret_is_refused_and_not_repeated(service: ProviderKeyService, org_id: str, secret: str) -> None:
    with pytest.raises(InvalidRequest, match="printable ASCII") as refused:
        await service.create(org_id, "openai", "a", secret)
    assert not secret or secret not in str(refused.value)


async def test_a_short_secret_has_no_hint(service: ProviderKeyService, org_id: str) -> None:
    assert (await service.create(org_id, "openai", "a", "12345678")).hint == "..."


async def test_what_is_changed_in_the_database_does_not_open(
    service: ProviderKeyService, database: Database, org_id: str, new_payer: NewPayer
) -> None:
    """Whoever writes to the database can't make one organisation's key be sent for another, or to another source."""
    other = (await new_payer()).org_id
    mine, theirs = (
        await service.create(org_id, "openai", "a", SECRET),
        await service.create(other, "openai", "a", OTHER),
    )

    def swap(connection: Connection) -> None:
        found = {row.provider_key_id: row.sealed for row in connection.execute(select(PROVIDER_KEY))}
        for target, source in ((mine, theirs), (theirs, mine)):
            connection.execute(
                update(PROVIDER_KEY)
                .where(PROVIDER_KEY.c.provider_key_id == target.provider_key_id)
                .values(sealed=found[source.provider_key_id])
            )

    await database.write(swap)
    for whose in (org_id, other):
        with pytest.raises(SealBroken):
            await service.secrets(whose)
    await database.write(swap)
    assert await revealed(service, org_id) == {"openai": SECRET}


async def test_the_database_refuses_what_never_happens(
    service: ProviderKeyService, database: Database, org_id: str
) -> None:
    made = await service.create(org_id, "openai", "a", SECRET)
    await service.revoke(org_id, made.provider_key_id)
    for change in (
        "DELETE FROM provider_key",
        "UPDATE provider_key SET revoked_at_ms = 0",
        "UPDATE provider_key SET sealed = 'v1:x:y'",
        "UPDATE provider_key SET source_id = 'groq'",
        "UPDATE provider_key SET org_id = 'org_other'",
        "DELETE FROM data_key",
        "UPDATE data_key SET org_id = 'org_other'",
    ):
        with pytest.raises(DBAPIError, match="is history"):
            await database.write(lambda connection, change=change: connection.execute(text(change)))  # type: ignore[misc]


async def test_data_keys_move_to_the_newest_key_encryption_key(
    service: ProviderKeyService, make_store: MakeStore, new_payer: NewPayer
) -> None:
    orgs = [(await new_payer()).org_id for _ in range(5)]
    for org_id in orgs:
        await service.create(org_id, "openai", "a", SECRET)
    assert await service.wrapping_keys() == [WrappingKey("2026-10", True, True, 5)]
    both, only_new = make_store(OLD | NEW), make_store(NEW)
    with pytest.raises(KeyMissing, match="2026-10"):
        await only_new.secrets(orgs[0])
    # Without the old key nothing can be moved; it is not lost either.
    assert await Rewrapping(only_new).rewrap_all() == 0
    assert await only_new.wrapping_keys() == [
        WrappingKey("2026-10", False, False, 5),
        WrappingKey("2026-11", True, True, 0),
    ]
    assert await Rewrapping(both, batch=2).rewrap_all() == 5
    assert await Rewrapping(both).rewrap_all() == 0
    assert await only_new.wrapping_keys() == [WrappingKey("2026-11", True, True, 5)]
    for org_id in orgs:
        assert [found.secret.reveal() for found in await only_new.secrets(org_id)] == [SECRET]


async def test_a_data_key_is_replaced_with_all_that_is_under_it(
    service: ProviderKeyService, database: Database, org_id: str
) -> None:
    await service.create(org_id, "openai", "a", SECRET)
    await service.create(org_id, "groq", "b", OTHER)
    gone = await service.create(org_id, "xai", "c", OTHER)
    await service.revoke(org_id, gone.provider_key_id)
    (before,), sealed = await rows(database, DATA_KEY), {row.sealed for row in await rows(database, PROVIDER_KEY)}
    assert await service.reseal(org_id, actor=ACTOR) == 2
    (after,) = await rows(database, DATA_KEY)
    assert after.data_key_id != before.data_key_id
    assert {row.sealed for row in await rows(database, PROVIDER_KEY)} & sealed == {""}
    assert await revealed(service, org_id) == {"openai": SECRET, "groq": OTHER}
    (entry,) = await trail(database, org_id, "data_key")
    assert entry["before"] == {"data_key": before.data_key_id}
    assert entry["after"] == {"data_key": after.data_key_id, "secrets": 2}


async def test_without_a_key_encryption_key_nothing_can_be_made(
    make_store: MakeStore, changes: ProviderKeyChanges, clock: FakeClock, make_id: MakeId, org_id: str
) -> None:
    service = ProviderKeyService(make_store({}), changes, clock, make_id)
    with pytest.raises(InvalidRequest, match="TALLYGATE_LEDGER_SECRETS_KEYS"):
        await service.create(org_id, "openai", "a", SECRET)
    assert await service.secrets(org_id) == []
    assert await service.wrapping_keys() == []


class InDoubt:
    """A writer whose COMMITs go through and are lost, so that everything is run again."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def write(self, work: Callable[[Connection], Any]) -> Any:
        await self._writer.write(work)
        return await self._writer.write(work)


async def test_what_is_run_again_after_a_commit_in_doubt_is_done_and_told_once(
    database: Database,
    writer: Writer,
    changes: ProviderKeyChanges,
    clock: FakeClock,
    make_id: MakeId,
    org_id: str,
    changes_trail: Trail,
) -> None:
    envelope, doubtful = Envelope(OLD, secrets.token_bytes), cast(Writer, InDoubt(writer))
    store = ProviderKeys(database, doubtful, changes_trail, envelope, make_id)
    service = ProviderKeyService(store, changes, clock, make_id)
    made = await service.create(org_id, "openai", "a", SECRET)
    rotated = await service.rotate(org_id, made.provider_key_id, OTHER)
    assert (rotated.hint, await revealed(service, org_id)) == ("...wxyz", {"openai": OTHER})
    assert await service.reseal(org_id) == 1
    assert await revealed(service, org_id) == {"openai": OTHER}
    assert (await service.revoke(org_id, made.provider_key_id)).revoked_at_ms == clock.now_ms()
    assert [entry["action"] for entry in await trail(database, org_id, "provider_key")] == [
        "provider_key.created",
        "provider_key.rotated",
        "provider_key.revoked",
    ]
    assert len(await trail(database, org_id, "data_key")) == 1


async def test_the_audit_finds_what_is_sealed_under_another_data_key(
    service: ProviderKeyService, unchecked: Database, writer: Writer, org_id: str
) -> None:
    await service.create(org_id, "openai", "a", SECRET)
    assert await audit(unchecked) == []
    change = "UPDATE data_key SET data_key_id = '{}' || data_key_id"
    await unchecked.write(lambda connection: connection.execute(text(change.format("x"))))
    assert [violation.rule for violation in await audit(unchecked)] == [SEALED]
    undo = "UPDATE data_key SET data_key_id = substr(data_key_id, 2)"
    await unchecked.write(lambda connection: connection.execute(text(undo)))


async def next_of(watch: AsyncGenerator[str]) -> str:
    return await asyncio.wait_for(anext(watch), 5)


async def test_a_watcher_is_told_of_each_change_once(
    service: ProviderKeyService, changes: ProviderKeyChanges, org_id: str, clock: FakeClock
) -> None:
    watch = changes.watch()
    assert await next_of(watch) == ""
    made = await service.create(org_id, "openai", "a", SECRET)
    assert await next_of(watch) == org_id
    clock.advance(10)
    await service.rotate(org_id, made.provider_key_id, OTHER)
    assert await next_of(watch) == org_id
    clock.advance(10)
    await service.revoke(org_id, made.provider_key_id)
    assert await next_of(watch) == org_id
    await changes.poll()  # the store has them, and they were told
    await service.create(org_id, "groq", "b", SECRET)
    assert await next_of(watch) == org_id
    await watch.aclose()


async def test_a_watcher_of_another_replica_is_told_after_a_poll(
    service: ProviderKeyService, store: ProviderKeys, org_id: str, clock: FakeClock
) -> None:
    elsewhere = ProviderKeyChanges(store, clock)
    watch = elsewhere.watch()
    assert await next_of(watch) == ""
    await service.create(org_id, "openai", "a", SECRET)
    await elsewhere.poll()
    assert await next_of(watch) == org_id
    await watch.aclose()


async def test_a_watcher_that_falls_behind_begins_again(
    service: ProviderKeyService, changes: ProviderKeyChanges, org_id: str
) -> None:
    watch = changes.watch()
    assert await next_of(watch) == ""
    for number in range(4):
        await service.create(org_id, f"source-{number}", "a", SECRET)
    with pytest.raises(LedgerUnavailable):
        await next_of(watch)
