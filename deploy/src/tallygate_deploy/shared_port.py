"""A TCP port on which several processes listen, each on a socket of its own; the kernel spreads connections over them.

SO_REUSEPORT, socket(7): a connection belongs to one socket, by a hash of its addresses. So no process is woken for
another's connection, and none takes all of them, as happens on one socket that is inherited. A process that ends takes
its socket with it, and the next connection goes to another.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SharedPort:
    """``host`` and ``port`` as bound."""

    family: socket.AddressFamily
    host: str
    port: int

    def socket(self) -> socket.socket:
        """One more socket. It takes part as soon as somebody listens on it, and not before."""
        member = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            _bind(member, self.host, self.port, reuse_port=True)
        except OSError:
            member.close()
            raise
        return member


def is_listening(member: socket.socket) -> bool:
    """Whether somebody listens on the socket, here or in a process that has inherited it."""
    return bool(member.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@contextmanager
def shared_port(host: str, port: int) -> Iterator[SharedPort]:
    """Keeps the port for this process and its children; 0 picks a free one.

    Raises:
        OSError: it can't be bound, or another has it, one that shares it among its own processes included.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as guard:
        # Bound as one that shares with nobody, lest two installations answer on one port; nobody listens on it.
        _bind(guard, host, port, reuse_port=False)
        guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield SharedPort(family, host, guard.getsockname()[1])


def _bind(sock: socket.socket, host: str, port: int, *, reuse_port: bool) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is left of connections that have ended
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as `socket.create_server` does
    sock.bind((host, port))
