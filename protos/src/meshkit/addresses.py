"""The three kinds of address: ``grpc://HOST:PORT``, ``unix:///PATH``, ``local://NAME``; for a service with replicas,
the addresses of all of them with commas between."""

from __future__ import annotations

import re

GRPC = "grpc"
UNIX = "unix"
LOCAL = "local"

_FORMS = {
    GRPC: re.compile(r"(?P<rest>(?:\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):\d{1,5})"),
    UNIX: re.compile(r"(?P<rest>/\S+)"),
    LOCAL: re.compile(r"(?P<rest>[a-z][a-z0-9-]*)"),
}


def parse(address: str) -> tuple[str, str]:
    """Scheme and rest: ("grpc", "127.0.0.1:7003"), ("unix", "/run/ledger.sock"), ("local", "ledger").

    Raises:
        ValueError: not an address.
    """
    scheme, separator, rest = address.partition("://")
    form = _FORMS.get(scheme)
    if not separator or form is None or form.fullmatch(rest) is None:
        raise ValueError(f"not an address (grpc://HOST:PORT, unix:///PATH or local://NAME): {address!r}")
    return scheme, rest


def parse_all(address: str) -> list[tuple[str, str]]:
    """As ``parse``, for each replica. Replicas are processes of their own, so none of several is local.

    Raises:
        ValueError: not an address, one is named twice, or several of which one is local.
    """
    parsed = [parse(one.strip()) for one in address.split(",")]
    if len(parsed) > 1 and (len(set(parsed)) < len(parsed) or any(scheme == LOCAL for scheme, _ in parsed)):
        raise ValueError(f"replicas have an address each, and none that is local: {address!r}")
    return parsed


def target(scheme: str, rest: str) -> str:
    """What grpc calls a socket address (https://github.com/grpc/grpc/blob/master/doc/naming.md)."""
    return f"unix:{rest}" if scheme == UNIX else rest
