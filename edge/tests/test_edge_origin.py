"""The address of a client is its peer's, or what the operator's own proxies say, and never what the client says."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.origin import client_address

ADDRESSES = st.ip_addresses().filter(lambda address: address.version == 4 or address.ipv4_mapped is None)


def scope_of(*lines: str, peer: str | None = "198.51.100.1") -> dict[str, Any]:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", line.encode("latin-1")) for line in lines)]
    return {"type": "http", "headers": headers, "client": None if peer is None else (peer, 4711)}


@pytest.mark.parametrize(
    ("lines", "trusted", "expected"),
    [
        ((), 0, "198.51.100.1"),
        (("192.0.2.1",), 0, "198.51.100.1"),
        (("192.0.2.1",), 1, "192.0.2.1"),
        (("6.6.6.6, 192.0.2.1",), 1, "192.0.2.1"),
        (("6.6.6.6, 192.0.2.1, 10.0.0.1",), 2, "192.0.2.1"),
        (("6.6.6.6", "192.0.2.1", "10.0.0.1"), 2, "192.0.2.1"),
        (("6.6.6.6,,, 192.0.2.1",), 1, "192.0.2.1"),
        ((" \t192.0.2.1\t ",), 1, "192.0.2.1"),
        (("192.0.2.1:443",), 1, "192.0.2.1"),
        (("2001:db8::1",), 1, "2001:db8::1"),
        (("[2001:db8::1]",), 1, "2001:db8::1"),
        (("[2001:DB8::1]:65535",), 1, "2001:db8::1"),
        (("::ffff:192.0.2.1",), 1, "192.0.2.1"),
        (("[::ffff:c000:201]:1",), 1, "192.0.2.1"),
        ((), 1, None),
        (("",), 1, None),
        (("192.0.2.1",), 2, None),
        (("192.0.2.1,",), 1, None),
        (("192.0.2.1 10.0.0.1",), 1, None),
        (("192.0.2.1:",), 1, None),
        (("192.0.2.1:65536",), 1, None),
        (("192.0.2.1:999999",), 1, None),
        (("[192.0.2.1]",), 1, None),
        (("[2001:db8::1",), 1, None),
        (("2001:db8::1]:1",), 1, None),
        (("fe80::1%eth0",), 1, None),
        (("192.0.2.01",), 1, None),
        (("192.0.2",), 1, None),
        (("3221225985",), 1, None),
        (("0xc0000201",), 1, None),
        (("unknown",), 1, None),
        (("_hidden",), 1, None),
        (('"192.0.2.1"',), 1, None),
        (("for=192.0.2.1",), 1, None),
        (("192.0.2.1/32",), 1, None),
        (("\u00b9\u00b2.0.2.1",), 1, None),
        (("192.0.2.1\x00",), 1, None),
    ],
)
def test_where_a_request_comes_from(lines: tuple[str, ...], trusted: int, expected: str | None) -> None:
    found = client_address(scope_of(*lines), trusted)
    assert found == (None if expected is None else ip_address(expected))


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (None, None),
        ("", None),
        ("/run/edge.sock", None),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
    ],
)
def test_the_peer(peer: str | None, expected: str | None) -> None:
    found = client_address(scope_of("6.6.6.6", peer=peer), 0)
    assert found == (None if expected is None else ip_address(expected))


def as_written(address: IPv4Address | IPv6Address, form: int, port: int) -> str:
    """One of the forms in which proxies write an address."""
    if form == 0:
        return str(address)
    if address.version == 4:
        return f"{address}:{port}" if form == 1 else f"::ffff:{address}"
    return f"[{address}]:{port}" if form == 1 else f"[{address.exploded.upper()}]"


@given(
    claims=st.lists(st.text(st.characters(max_codepoint=255), max_size=20), max_size=5),
    client=ADDRESSES,
    proxies=st.lists(ADDRESSES, max_size=3),
    form=st.integers(0, 2),
    port=st.integers(0, 65_535),
    split=st.booleans(),
)
def test_no_claim_of_the_client_moves_its_address(
    claims: list[str],
    client: IPv4Address | IPv6Address,
    proxies: list[IPv4Address | IPv6Address],
    form: int,
    port: int,
    split: bool,
) -> None:
    written = [*claims, as_written(client, form, port), *map(str, proxies)]
    scope = scope_of(*(written if split else [", ".join(written)]))
    assert client_address(scope, len(proxies) + 1) == client


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=30), max_size=4), st.integers(0, 10))
def test_whatever_comes_is_an_address_or_unknown(lines: list[str], trusted: int) -> None:
    found = client_address(scope_of(*lines), trusted)
    assert found is None or isinstance(found, IPv4Address | IPv6Address)
