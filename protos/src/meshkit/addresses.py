"""The three kinds of address: ``grpc://HOST:PORT``, ``unix:///PATH``, ``local://NAME``."""

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


def target(scheme: str, rest: str) -> str:
    """What grpc calls a socket address (https://github.com/grpc/grpc/blob/master/doc/naming.md)."""
    return f"unix:{rest}" if scheme == UNIX else rest
