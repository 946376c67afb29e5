"""Where a webhook may be sent: an HTTPS URL with a name, whose every address is public.

The URL is checked as it is read, the addresses as they are resolved, each time before a connection is made to one of
them (OWASP, Server-Side Request Forgery Prevention: the case of URLs that customers give).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.limits import check_text

HTTPS_PORT = 443
MAX_URL_CHARS = 2_000

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_URL_CHARS = re.compile(r"[!$%&'()*+,\-./0-9:;=?@A-Z_a-z~\[\]]+")
"""Those of RFC 3986 but "#", which begins a fragment; so no blank, backslash, quote or letter beyond ASCII."""
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""Whose last label is one is an address to a WHATWG URL parser and to inet_aton: 127.1, 0x7f000001, 2130706433."""

_NAT64 = ip_network("64:ff9b::/96")
_UNICAST = ip_network("2000::/3")
"""The only IPv6 addresses that IANA has given out for the world."""
_REFUSED: Sequence[Network] = [
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carriers, and metadata of Alibaba Cloud
        "168.63.129.16/32",  # the host of an Azure machine
        "192.0.0.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "198.18.0.0/15",
        "240.0.0.0/4",
        "2001::/23",  # Teredo, ORCHID and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address, whatever it is
        "3fff::/20",
    )
]
"""What some Python's ``is_global`` takes for public, and what is public in name only."""
_ISATAP = (0x00005EFE, 0x02005EFE)
"""Before an embedded IPv4 address (RFC 5214)."""


class RefusedDestination(Exception):
    """Nothing is sent there. ``str(error)``: why, for the endpoint's owner."""


@dataclass(frozen=True, slots=True)
class Destination:
    """An HTTPS URL that was looked at, in its parts. ``target``: path and query, as they are sent."""

    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """Without path and query, in which services hide secrets."""
        return f"https://{self.host}" if self.port == HTTPS_PORT else f"https://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """In its one form."""
        return self.origin + self.target


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which ports and addresses there may be. ``min_port``: from which on ports may be used, beside 443. ``private``:
    networks that are allowed though they are not public.
    """

    min_port: int = 1_024
    private: tuple[Network, ...] = ()

    def check_url(self, url: str) -> Destination:
        """The destination of a URL.

        Raises:
            InvalidRequest: param "url".
        """
        check_text("url", url, max_chars=MAX_URL_CHARS)
        if "#" in url:
            raise InvalidRequest("url", "must have no fragment")
        if not _URL_CHARS.fullmatch(url):
            raise InvalidRequest(
                "url",
                "has characters that a URL has not: write a name in Punycode (xn--...), and others percent-encoded",
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidRequest("url", "is not a URL") from error
        if parts.scheme != "https":
            raise InvalidRequest("url", "must begin with https://")
        if "@" in parts.netloc:
            raise InvalidRequest("url", "must have no user name or password")
        port = HTTPS_PORT if port is None else port
        if port != HTTPS_PORT and not self.min_port <= port <= 65_535:
            only = f"443 or one from {self.min_port} on" if self.min_port <= 65_535 else "443"
            raise InvalidRequest("url", f"has port {port}; it must be {only}")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Destination(_checked_host(parts.hostname or ""), port, target)

    def check_addresses(self, addresses: Sequence[str]) -> list[str]:
        """The addresses of a name, if every one of them may be connected to. One that may not is enough to refuse all:
        who has such a name plays with it.

        Raises:
            RefusedDestination.
        """
        if not addresses:
            raise RefusedDestination("its name has no address")
        for text in addresses:
            if not self._may_be(text):
                raise RefusedDestination("its name leads to an address that is not public")
        return list(addresses)

    def _may_be(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        return is_public(address) or any(
            address.version == network.version and address in network for network in self.private
        )


def url_state(url: str) -> dict[str, str]:
    """What the audit trail says of a URL: where it leads, and whether it is another one. Paths hold secrets."""
    parts = urlsplit(url)
    return {"url_origin": f"{parts.scheme}://{parts.netloc}", "url_sha256": hashlib.sha256(url.encode()).hexdigest()}


def is_public(address: Address) -> bool:
    """Whether an address is of the public Internet, unicast, and leads to no other address that it embeds."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _UNICAST or (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
            return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address.version == network.version and address in network for network in _REFUSED)


def _checked_host(host: str) -> str:
    host = host.lower()
    if host.endswith("."):
        host = host[:-1]  # one dot names the root and nothing else
    labels = host.split(".")
    if ":" in host or _NUMBER.fullmatch(labels[-1]):
        raise InvalidRequest("url", "must have a name, not an IP address")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise InvalidRequest("url", "has no valid host name")
    return host
