"""A port that several processes share, and nobody else."""

from __future__ import annotations

import socket

import pytest

from tallygate_deploy.shared_port import SharedPort, is_listening, shared_port

HOST = "127.0.0.1"


def is_refused(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex((HOST, port)) != 0


def assert_kept(port: SharedPort) -> None:
    """From another installation, be it one that shares its own port."""
    with pytest.raises(OSError, match="in use"), shared_port(HOST, port.port):
        pass
    with pytest.raises(OSError, match="in use"):
        socket.create_server((HOST, port.port))


def test_connections_go_to_those_who_listen() -> None:
    with shared_port(HOST, 0) as port, port.socket() as one, port.socket() as two:
        assert_kept(port)
        assert is_refused(port.port), "nobody listens yet"
        for member in (one, two):
            assert not is_listening(member)
            member.listen(100)
            assert is_listening(member)
            member.settimeout(5)
        assert_kept(port)
        clients = [socket.create_connection((HOST, port.port)) for _ in range(64)]
        for member in (one, two):
            member.accept()[0].close()
        one.close()
        clients += [socket.create_connection((HOST, port.port)) for _ in range(8)]
        for client in clients:
            client.close()


def test_it_can_be_had_again_while_old_connections_end() -> None:
    with shared_port(HOST, 0) as port, port.socket() as member:
        member.listen()
        client = socket.create_connection((HOST, port.port))
        accepted, _ = member.accept()
    accepted.close()
    client.close()  # the server's side waits now until nothing of it can come any more
    with shared_port(HOST, port.port) as again, again.socket() as member:
        member.listen()
        assert not is_refused(port.port)


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server((HOST, 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"), shared_port(HOST, taken):
            pass
