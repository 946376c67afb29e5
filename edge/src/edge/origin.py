"""Where a request comes from: the address of the client, as far as it can be known.

A header is only as true as who wrote it. With ``trusted_proxies`` of n, the last n addresses of ``X-Forwarded-For``
were written by the operator's own proxies, each the address that its request came from; the n-th from the right is the
client. What stands left of it is the client's own claim, and is never read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from starlette.types import Scope

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_HEADER = b"x-forwarded-for"
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?")
_WITH_PORT = re.compile(r"([0-9.]+):([0-9]{1,5})")
_MAX_PORT = 65_535


def client_address(scope: Scope, trusted_proxies: int) -> Address | None:
    """The client of an ASGI scope; None: not known. An IPv4 address in IPv6 form (::ffff:192.0.2.1) is the IPv4 one.

    ``trusted_proxies`` 0: the peer of the connection. n: the n-th address from the right of ``X-Forwarded-For``; not
    known where that has fewer, or this one is no address.
    """
    if trusted_proxies == 0:
        peer = scope.get("client")
        return None if peer is None else _parsed(str(peer[0]).partition("%")[0])
    # Several lines of a header are one list (RFC 9110, 5.3).
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == _HEADER]
    hops = ",".join(lines).split(",") if lines else []
    if len(hops) < trusted_proxies:
        return None
    return _parsed(_without_port(hops[-trusted_proxies].strip(" \t")))


@lru_cache(maxsize=4_096)
def text_of(address: Address | None) -> str:
    """An address as it is written; empty: it is not known."""
    return "" if address is None else str(address)


def networks_of(cidrs: Sequence[str]) -> tuple[Network, ...]:
    """The networks of an allow-list, as the ledger gives it."""
    return tuple(ip_network(cidr) for cidr in cidrs)


def _without_port(text: str) -> str:
    """The address of "192.0.2.1:443", "[2001:db8::1]:443" or "[2001:db8::1]"; a text of another form as it is."""
    found = _BRACKETED.fullmatch(text)
    if found is not None:
        address = found[1] if ":" in found[1] else ""
    else:
        found = _WITH_PORT.fullmatch(text)
        if found is None:
            return text
        address = found[1]
    return "" if int(found[2] or 0) > _MAX_PORT else address


@lru_cache(maxsize=4_096)
def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address
