"""Connections that are kept, and which process is at their other end (proc(5), tcp(7))."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(slots=True)
class Client:
    """One client on one connection, which is opened at the first request and anew if the server has closed it."""

    connection: http.client.HTTPConnection
    path: str
    secret: str

    def get(self, resource: str) -> Answer:
        """A GET under the base URL."""
        return self._answer("GET", resource, None, {})

    def chat(self, model: str, *, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        """A chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": "one of many"}], "max_tokens": 8} | fields
        return self._answer("POST", "/chat/completions", json.dumps(body), headers or {})

    def _answer(self, method: str, resource: str, body: str | None, headers: dict[str, str]) -> Answer:
        sent = {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json", **headers}
        self.connection.request(method, self.path + resource, body, sent)
        response = self.connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, json.loads(response.read()))

    def server(self, pids: Iterable[int]) -> int:
        """Which of the processes has the connection; 0: none. There must have been an answer on it."""
        sock = self.connection.sock
        return _owner(sock, pids) if isinstance(sock, socket.socket) else 0


@contextmanager
def client_at(base_url: str, secret: str) -> Iterator[Client]:
    """A client of a gateway on this machine."""
    url = urlsplit(base_url)
    assert url.hostname is not None
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=50)
    try:
        yield Client(connection, url.path, secret)
    finally:
        connection.close()


@contextmanager
def client_of_each(base_url: str, secret: str, pids: Iterable[int]) -> Iterator[list[Client]]:
    """For each of the processes, in order, a client whose connection it has. All of them must answer."""
    found: dict[int, Client] = {}
    wanted = list(pids)
    with ExitStack() as stack:
        while len(found) < len(wanted):
            client = stack.enter_context(client_at(base_url, secret))
            assert client.get("/models").status == 200
            found.setdefault(client.server(wanted), client)
            found.pop(0, None)
        yield [found[pid] for pid in wanted]


def _owner(sock: socket.socket, pids: Iterable[int]) -> int:
    """The process that holds the other end of a connection over IPv4's loopback."""
    ours, theirs = sock.getsockname()[1], sock.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        local, remote = (int(address.partition(":")[2], 16) for address in fields[1:3])
        if (local, remote) == (theirs, ours):
            inode = f"socket:[{fields[9]}]"
            return next((pid for pid in pids if inode in _sockets(pid)), 0)
    return 0


def _sockets(pid: int) -> set[str]:
    try:
        return {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    except FileNotFoundError:  # it has ended, or has closed one meanwhile
        return set()
