"""Sends messages to endpoints that customers name, and to nothing else: HTTPS to an address that was looked at.

The addresses of a name are resolved once and checked, and the connection is made to those, so a name that leads
elsewhere the next time (DNS rebinding) is of no use. TLS is verified against the name. Redirects and proxies are not
followed; time and size are bounded.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ledger_svc.domain.deliveries import Answer
from ledger_svc.domain.destinations import Allowed, Destination, RefusedDestination
from ledger_svc.domain.errors import InvalidRequest

MAX_ANSWER_BYTES = 16 * 1024
_RESOLVE_TIMEOUT_S = 3.0
"""Shorter than a caller waits for a webhook to be made."""
_REST_TIMEOUT_S = 2.0
"""For the body, once the status is known."""
_USER_AGENT = "Tallygate-Webhooks/1"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name, for a port; OSError: it has none."""


class WebhookClient:
    """Implements ``webhook_ports.Carrier``. ``timeout_s``: of an attempt in all."""

    def __init__(self, allowed: Allowed, tls: ssl.SSLContext, resolve: Resolve, *, timeout_s: float = 10.0) -> None:
        self._allowed = allowed
        self._tls = tls
        self._resolve = resolve
        self._timeout_s = timeout_s

    def check_url(self, url: str) -> Destination:
        """See ``webhook_ports.Carrier``."""
        return self._allowed.check_url(url)

    async def check_reachable(self, destination: Destination) -> None:
        """See ``webhook_ports.Carrier``."""
        await self._addresses(destination)

    async def carry(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """See ``webhook_ports.Carrier``."""
        try:
            async with asyncio.timeout(self._timeout_s):
                destination = self._allowed.check_url(url)
                addresses = await self._addresses(destination)
                return await self._post(destination, addresses, headers, body)
        except _EXPECTED as error:
            return Answer(0, _why(error))

    async def _addresses(self, destination: Destination) -> list[str]:
        try:
            async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
                found = await self._resolve(destination.host, destination.port)
        except TimeoutError:
            raise RefusedDestination("its name could not be resolved in time") from None
        except (OSError, UnicodeError):
            raise RefusedDestination("its name can't be resolved") from None
        return self._allowed.check_addresses(found)

    async def _post(
        self, destination: Destination, addresses: Sequence[str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        url = URL(destination.url, encoded=True)
        assert (url.raw_host, url.port) == (destination.host, destination.port), "both read the URL alike"
        connector = aiohttp.TCPConnector(
            resolver=_Fixed(destination.host, addresses), use_dns_cache=False, force_close=True, limit=1, ssl=self._tls
        )
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            read_bufsize=MAX_ANSWER_BYTES,
            max_line_size=4_096,
            max_field_size=8_190,
            max_headers=64,
        ) as session:
            content = {"content-type": "application/json", "user-agent": _USER_AGENT}
            async with session.post(url, data=body, headers={**headers, **content}, allow_redirects=False) as response:
                await _discard(response)
                return _judged(response.status)


class SystemResolver:
    """Resolves as the machine does, in threads of its own: a name server that hangs holds up nothing else."""

    def __init__(self, *, threads: int = 16) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="webhook-dns")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a name; each once.

        Raises:
            OSError: it has none.
        """

        def resolve() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(entry[4][0]) for entry in found))

        return await asyncio.get_running_loop().run_in_executor(self._threads, resolve)

    def close(self) -> None:
        """Waits for no thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """What TLS is verified with: the machine's authorities and, if named, those of a file (PEM)."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


_EXPECTED = (TimeoutError, RefusedDestination, InvalidRequest, aiohttp.ClientError, OSError, ValueError)


def _why(error: Exception) -> str:
    """What the owner of the endpoint is told: nothing of our network."""
    if isinstance(error, RefusedDestination):
        return str(error)
    if isinstance(error, InvalidRequest):
        return f"the URL is not allowed any more: {error}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not valid for it: {_reason(error.certificate_error)}"
    texts: Sequence[tuple[type[Exception], str]] = (
        (TimeoutError, "no answer in time"),
        (aiohttp.ClientSSLError, "no TLS connection could be made"),
        (aiohttp.ClientConnectorError, "no connection could be made"),
    )
    return next((text for kind, text in texts if isinstance(error, kind)), "the connection ended without an answer")


class _Fixed(AbstractResolver):
    """Knows one name."""

    def __init__(self, host: str, addresses: Sequence[str]) -> None:
        self._host = host
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses that were looked at."""
        del family  # whichever they are of
        if host != self._host:
            raise OSError(f"not the name that was looked at: {host}")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def _discard(response: aiohttp.ClientResponse) -> None:
    """Reads an answer, as far as it may go; what it says does not matter."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_REST_TIMEOUT_S):
            left = MAX_ANSWER_BYTES
            while left > 0 and (chunk := await response.content.read(left)):
                left -= len(chunk)


def _judged(status: int) -> Answer:
    if 200 <= status < 300:
        return Answer(status)
    if 300 <= status < 400:
        return Answer(status, f"it answered {status}: redirects are not followed")
    return Answer(status, f"it answered {status}")


def _reason(error: Exception) -> str:
    return str(getattr(error, "verify_message", "") or "verification failed")[:100]
