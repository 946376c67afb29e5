"""PostgreSQL and Valkey from wheels: usable, kept over a restart where they should be, and gone with their launcher."""

import asyncio
import sys
from pathlib import Path

import pytest
import redis.asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tallygate_deploy import leash
from tallygate_deploy.local_parts import LocalPartError, postgres, valkey

HOLDS_POSTGRES = """
import asyncio, sys
from pathlib import Path
from tallygate_deploy.local_parts import postgres

async def main():
    async with postgres(Path(sys.argv[1])) as url:
        print(url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def sql(url: str, *statements: str) -> list[tuple[object, ...]]:
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            for statement in statements:
                result = await connection.execute(text(statement))
            return [tuple(row) for row in result.all()] if result.returns_rows else []
    finally:
        await engine.dispose()


def postmaster_pid(data_dir: Path) -> Path:
    return data_dir / "postmaster.pid"


async def gone(path: Path) -> None:
    async with asyncio.timeout(20):
        while True:
            if not path.exists():
                return
            await asyncio.sleep(0.02)


async def test_postgres_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    data_dir = tmp_path / "a" / "deep" / "postgres"
    async with postgres(data_dir) as url:
        assert url.startswith("postgresql+asyncpg://")
        await sql(url, "create table tally (notch bigint)", "insert into tally values (9007199254740993)")
        assert await sql(url, "show synchronous_commit") == [("on",)]
    assert not postmaster_pid(data_dir).exists()
    async with postgres(data_dir) as url:
        assert await sql(url, "select notch from tally") == [(9007199254740993,)]
    assert not postmaster_pid(data_dir).exists()


async def test_postgres_stops_when_its_launcher_is_killed(tmp_path: Path) -> None:
    launcher = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDS_POSTGRES, str(tmp_path / "postgres"), stdout=asyncio.subprocess.PIPE
    )
    assert launcher.stdout is not None
    url = (await launcher.stdout.readline()).decode().strip()
    assert await sql(url, "select 1") == [(1,)]
    launcher.kill()
    await launcher.wait()
    await gone(postmaster_pid(tmp_path / "postgres"))


async def test_postgres_that_lost_its_guardian_is_taken_over_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guardians: list[asyncio.subprocess.Process] = []
    spawn = leash._spawn

    async def spawning(*arguments: object) -> asyncio.subprocess.Process:
        guardians.append(await spawn(*arguments))  # type: ignore[arg-type]
        return guardians[-1]

    monkeypatch.setattr(leash, "_spawn", spawning)
    async with postgres(tmp_path / "postgres"):
        guardians[0].kill()
        await guardians[0].wait()
    assert postmaster_pid(tmp_path / "postgres").exists()
    async with postgres(tmp_path / "postgres") as url:
        assert await sql(url, "select 1") == [(1,)]
    assert not postmaster_pid(tmp_path / "postgres").exists()


async def test_the_folders_above_postgres_are_not_opened_for_listing(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    async with postgres(private / "postgres"):
        assert private.stat().st_mode & 0o066 == 0


async def test_postgres_says_why_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("9")
    with pytest.raises(LocalPartError, match=r"(?s)postgres did not start on .*found version 9"):
        async with postgres(tmp_path / "postgres"):
            pass


async def test_postgres_refuses_a_folder_that_it_could_not_start_in(tmp_path: Path) -> None:
    with pytest.raises(LocalPartError, match="without spaces"):
        async with postgres(tmp_path / "my data"):
            pass


async def test_valkey_answers_and_is_bounded(tmp_path: Path) -> None:
    async with valkey(tmp_path / "valkey") as url:
        client = redis.asyncio.from_url(url)
        async with client:
            await client.set("tally", b"|||")
            assert await client.get("tally") == b"|||"
            assert (await client.config_get("maxmemory"))["maxmemory"] == str(256 * 2**20)
    socket = Path(url.removeprefix("unix://").partition("?")[0])
    assert not socket.exists()


async def test_valkey_lives_where_no_socket_path_would_fit(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 20) / ("folder" * 10)
    async with valkey(data_dir) as url:
        client = redis.asyncio.from_url(url)
        async with client:
            assert await client.ping()


async def test_two_of_each_live_side_by_side(tmp_path: Path) -> None:
    async with valkey(tmp_path / "one") as one, valkey(tmp_path / "two") as two:
        assert one != two
    async with postgres(tmp_path / "pg1") as one, postgres(tmp_path / "pg2") as two:
        await sql(one, "create table only_here (x int)")
        assert await sql(two, "select to_regclass('only_here')::text") == [(None,)]
