"""A receiver of webhooks on this machine, over HTTPS with an authority of its own."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook

LOOPBACK = ["127.0.0.0/8", "::1/128"]
"""For the setting that allows networks which are not public."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    def verified(self, secret: str) -> Any:
        """Its JSON. Raises WebhookVerificationError unless it was signed with the secret."""
        return Webhook(secret).verify(self.body, self.headers)


Reply = Callable[[Received], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Receiver:
    """Answers each path as told, 204 by default, and keeps what came."""

    port: int
    ca_file: Path
    replies: dict[str, Reply] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    def url(self, path: str = "/hook", host: str = "localhost") -> str:
        """Where it listens."""
        return f"https://{host}:{self.port}{path}"

    def at(self, path: str) -> list[Received]:
        """What came to a path."""
        return [request for request in self.received if request.path == path]

    async def until(self, count: int, path: str = "/hook") -> list[Received]:
        """Waits until so many requests have come to a path."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.at(path)) >= count)
        return self.at(path)

    def answering(self, path: str, *statuses: int, headers: dict[str, str] | None = None) -> None:
        """Has a path answer with these, the last for good."""
        left = list(statuses)

        async def reply(_: Received) -> web.StreamResponse:
            status = left.pop(0) if len(left) > 1 else left[0]
            return web.Response(status=status, headers=headers)

        self.replies[path] = reply

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Keeps a request, and answers it."""
        got = Received(request.path, dict(request.headers), await request.read())
        async with self._came:
            self.received.append(got)
            self._came.notify_all()
        reply = self.replies.get(request.path)
        return web.Response(status=204) if reply is None else await reply(got)


@asynccontextmanager
async def receiver(folder: Path) -> AsyncIterator[Receiver]:
    """Listens on 127.0.0.1 as localhost, inside the block; its authority is in a file of ``folder``."""
    ca_file, chain = _certificates(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    made = Receiver(0, ca_file)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        made.port = runner.addresses[0][1]
        yield made
    finally:
        await runner.cleanup()


def _certificates(folder: Path) -> tuple[Path, Path]:
    """An authority's certificate, and a chain with the key for localhost; as PEM files."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of the tests")])
    root = _builder(issuer, issuer, authority.public_key()).add_extension(x509.BasicConstraints(True, 0), True)
    root_certificate = root.sign(authority, SHA256())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    leaf = _builder(subject, issuer, key.public_key()).add_extension(names, False).sign(authority, SHA256())
    ca_file, chain = folder / "ca.pem", folder / "receiver.pem"
    ca_file.write_bytes(root_certificate.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain.write_bytes(private + leaf.public_bytes(Encoding.PEM))
    return ca_file, chain


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )
