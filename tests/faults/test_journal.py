"""What clients were told is held against the books: each way in which the two can differ is seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from meshkit import codec
from meshkit.deadlines import deadline
from tallygate.ledger.v1 import ledger_pb2 as pb
from tallygate.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from tallygate_deploy.allinone import ledger_alone
from tallygate_deploy.data_dir import DataDir
from tests.bench.ledger_spending import MODEL, PRICE, USAGE
from tests.faults.journal import Capped, Differences, Journal, Told, compare

CREDIT, TRACE = 10**9, "0af7651916cd43dd8448eb211c80319c"
NOTHING = Differences((), (), ())


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[tuple[Connection, list[pb.Receipt]]]:
    """A ledger with credit "first" and two charges, "req_a" of a trace and "req_b"."""
    data = DataDir(tmp_path / "data")
    async with ledger_alone(data) as channel:
        ledger: Any = LedgerServiceStub(channel)
        with deadline(10.0):
            org_id = (await ledger.CreateOrganization(pb.CreateOrganizationRequest(name="x"))).org_id
            project = await ledger.CreateProject(pb.CreateProjectRequest(org_id=org_id, name="x"))
            key = await ledger.CreateKey(pb.CreateKeyRequest(org_id=org_id, project_id=project.project_id, name="x"))
            who = await ledger.Authenticate(pb.AuthenticateRequest(secret=key.secret))
            await ledger.AddCredit(
                pb.AddCreditRequest(
                    org_id=org_id, amount_nano_usd=CREDIT, idempotency_key="first", kind=pb.CREDIT_KIND_PAID
                )
            )
            receipts = [
                (
                    await ledger.Charge(
                        pb.ChargeRequest(principal=who.principal, request_id=name, facts=a_replay(trace_id))
                    )
                ).receipt
                for name, trace_id in (("req_a", TRACE), ("req_b", ""))
            ]
    with create_engine(f"sqlite:///{data.ledger_db}").connect() as connection:
        yield connection, receipts
    connection.engine.dispose()


def a_replay(trace_id: str) -> pb.ChargeFacts:
    return pb.ChargeFacts(
        usage=codec.usage_to_proto(USAGE),
        price=codec.price_to_proto(PRICE),
        served_mode=pb.SERVED_MODE_EXACT,
        outcome=pb.OUTCOME_COMPLETE,
        requested_model=MODEL,
        model=MODEL,
        source_id="openai",
        upstream_model=MODEL,
        origin_receipt_id="rcpt_origin",
        trace_id=trace_id,
    )


def true_journal(receipts: list[pb.Receipt]) -> Journal:
    journal = Journal()
    journal.operation("req_a", TRACE)
    journal.operation("req_b")
    journal.told |= {Told(each.org_id, each.receipt_id, each.charged_nano_usd) for each in receipts}
    journal.credits[receipts[0].org_id, "first"] = CREDIT
    return journal


async def test_what_is_true_is_no_difference(books: tuple[Connection, list[pb.Receipt]]) -> None:
    connection, receipts = books
    assert compare(connection, true_journal(receipts)) == NOTHING


async def test_a_charge_or_a_credit_that_is_not_there_as_it_was_told_is_lost(
    books: tuple[Connection, list[pb.Receipt]],
) -> None:
    connection, receipts = books
    journal = true_journal(receipts)
    first = receipts[0]
    journal.told.add(Told(first.org_id, "rcpt_gone", 7))
    journal.told.add(Told(first.org_id, first.receipt_id, first.charged_nano_usd + 1))
    journal.credits[first.org_id, "second"] = 7
    found = compare(connection, journal)
    assert (len(found.lost), found.double_charged, found.overspent) == (3, (), ())


async def test_one_operation_with_two_receipts_is_charged_twice(books: tuple[Connection, list[pb.Receipt]]) -> None:
    connection, receipts = books
    journal = true_journal(receipts)
    journal.operation(TRACE, "req_b")
    found = compare(connection, journal)
    assert (found.lost, len(found.double_charged), found.overspent) == ((), 1, ())


async def test_one_operation_of_which_two_receipts_were_told_is_charged_twice(
    books: tuple[Connection, list[pb.Receipt]],
) -> None:
    connection, receipts = books
    journal = true_journal(receipts)
    journal.operation(TRACE).receipts |= {receipts[0].receipt_id, receipts[1].receipt_id}
    found = compare(connection, journal)
    assert (found.lost, len(found.double_charged), found.overspent) == ((), 1, ())


async def test_another_answer_under_the_same_key_is_one_that_was_lost(
    books: tuple[Connection, list[pb.Receipt]],
) -> None:
    connection, receipts = books
    journal = true_journal(receipts)
    journal.changed.append("Idempotency-Key k")
    found = compare(connection, journal)
    assert (len(found.lost), found.double_charged, found.overspent) == (1, (), ())


async def test_whoever_was_told_of_more_in_a_day_than_the_cap_is_overspent(
    books: tuple[Connection, list[pb.Receipt]],
) -> None:
    connection, receipts = books
    journal = true_journal(receipts)
    org_id = receipts[0].org_id
    journal.caps[org_id] = 10
    journal.capped |= {Capped(org_id, 1, "a", 6), Capped(org_id, 1, "b", 4), Capped(org_id, 2, "c", 10)}
    assert compare(connection, journal) == NOTHING
    journal.capped.add(Capped(org_id, 2, "d", 1))
    found = compare(connection, journal)
    assert (found.lost, found.double_charged, len(found.overspent)) == ((), (), 1)


async def test_whoever_was_charged_more_than_given_is_overspent(books: tuple[Connection, list[pb.Receipt]]) -> None:
    connection, receipts = books
    for (name,) in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
        connection.execute(text(f"DROP TRIGGER {name}"))
    connection.execute(
        text("UPDATE posting SET amount_nano_usd = 1 WHERE amount_nano_usd = :credit"), {"credit": CREDIT}
    )
    journal = true_journal(receipts)
    journal.credits.clear()
    found = compare(connection, journal)
    connection.rollback()
    assert (found.lost, found.double_charged, len(found.overspent)) == ((), (), 1)
