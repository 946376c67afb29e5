"""`tallygate ledger check` on a data folder: what it prints, and what it ends with."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meshkit.deadlines import deadline
from tallygate.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tallygate_deploy.allinone import ledger_alone
from tallygate_deploy.cli import app
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.first_start import provision

PAST_ITS_TIME = "a hold past its time is ended by the next sweep"


@pytest.fixture
async def data(tmp_path: Path) -> DataDir:
    """A folder in which a ledger has run: an organisation with credit, and one hold of a millisecond."""
    data = DataDir(tmp_path / "data")
    data.claim("up")
    async with ledger_alone(data) as channel:
        welcome = await provision(data, channel, mint_key=False)
        ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        with deadline(10.0):
            who = await ledger.Authenticate(ledger_pb2.AuthenticateRequest(secret=welcome.api_key or ""))
            hold = ledger_pb2.ReserveRequest(
                principal=who.principal, request_id="req_1", amount_nano_usd=7, ttl_ms=1, model="m"
            )
            await ledger.Reserve(hold)
    return data


@pytest.fixture
def served(data: DataDir) -> Iterator[DataDir]:
    """The folder while a process serves from it, or so it seems."""
    with data.locked():
        yield data


def check(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ledger", "check", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_ledger_at_rest_is_right_and_its_folder_has_the_keys(data: DataDir) -> None:
    before = {path.name: path.read_bytes() for path in data.root.iterdir() if path.is_file()}
    code, output = check("--data", data.root)
    assert code == 0, output
    lines = output.splitlines()
    assert "ok       the postings of a transfer sum to 0: 2 of posting" in lines
    assert f"left out {PAST_ITS_TIME}: no ledger runs that would sweep" in lines
    # How many there are is a matter of time: the log grows by what was done at the first start.
    assert re.search(r"(?m)^ok       a checkpoint is signed by a key of the log: [1-9]\d* of checkpoint$", output)
    assert "ok       an audit entry is signed by a key of the log: 4 of audit_log" in lines
    assert lines[-1].endswith(" rules hold, 0 are broken, 1 left out")
    assert {name: (data.root / name).read_bytes() for name in before} == before


def test_while_it_serves_a_hold_past_its_time_is_a_break(served: DataDir) -> None:
    assert check("--data", served.root)[0] == 0, "within the grace of a sweep"
    code, output = check("--data", served.root, "--grace-s", "0")
    assert code == 1
    assert f"BROKEN   {PAST_ITS_TIME}: first at hold_" in output


def test_the_same_for_machines(served: DataDir) -> None:
    code, output = check("--data", served.root, "--grace-s", "0", "--json")
    found = json.loads(output)
    assert (code, found["ok"]) == (1, False)
    assert found["database"] == f"sqlite:///{served.ledger_db}"
    (broken,) = [rule for rule in found["rules"] if rule["breaks"]]
    assert (broken["rule"], broken["table"], broken["checked"]) == (PAST_ITS_TIME, "reservation", 1)
    assert broken["breaks"][0]["row"].startswith("hold_")


def test_a_changed_balance_is_found_by_url_too(data: DataDir) -> None:
    with sqlite3.connect(data.ledger_db) as database:
        database.execute("DROP TRIGGER account_refuses_update")  # as whoever owns the file can
        database.execute("UPDATE account SET posted_nano_usd = posted_nano_usd - 1 WHERE kind = 'promo'")
    database.close()
    code, output = check("--database", f"sqlite:///{data.ledger_db}", "--at-rest")
    assert code == 1
    assert "BROKEN   posted is the sum of the postings, and version their number: first at org_" in output
    assert "left out a receipt is signed by a key of the log: no keys were given" in output
    assert output.splitlines()[-1].endswith(" rules hold, 2 are broken, 4 left out")


@pytest.mark.parametrize("arguments", [("--data", "nowhere"), ("--database", "sqlite:///nowhere.db")])
def test_what_can_not_be_read_ends_with_2(arguments: tuple[str, str], tmp_path: Path) -> None:
    option, where = arguments
    code, output = check(option, where.replace("nowhere", f"{tmp_path}/nowhere"))
    assert code == 2
    assert output.startswith("tallygate: there is no ")
    assert not (tmp_path / "nowhere").exists(), "a check makes nothing"
