"""A receiver of webhooks, on loopback over HTTPS with a certificate of its own: the other end of the demo's webhook."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(slots=True)
class Receiver:
    """What came in. ``secret``: of the webhook, "whsec_...", once it is known; nothing is believed before."""

    url: str
    ca_file: Path
    secret: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    rejected: int = 0
    """Messages whose signature was not the secret's."""
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: web.Request) -> web.Response:
        """Takes one message, if its signature is right (https://www.standardwebhooks.com)."""
        body = await request.read()
        async with self.arrived:
            if self._is_signed(request, body):
                self.events.append(json.loads(body))
            else:
                self.rejected += 1
            self.arrived.notify_all()
        return web.Response()

    async def until(self, count: int, kind: str, *, within_s: float) -> list[dict[str, Any]]:
        """The events of a kind, once there are so many.

        Raises:
            TimeoutError
        """

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events if event["type"] == kind]

        async with asyncio.timeout(within_s), self.arrived:
            await self.arrived.wait_for(lambda: len(found()) >= count)
        return found()

    def _is_signed(self, request: web.Request, body: bytes) -> bool:
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        name, at = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        expected = base64.b64encode(hmac.digest(key, f"{name}.{at}.".encode() + body, hashlib.sha256)).decode()
        given = request.headers["webhook-signature"].split()
        return any(hmac.compare_digest(signature, f"v1,{expected}") for signature in given)


@asynccontextmanager
async def receiving(folder: Path) -> AsyncIterator[Receiver]:
    """A receiver inside the block; its certificate is written into ``folder``."""
    certificate, key = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    receiver = Receiver("", certificate)
    app = web.Application()
    app.router.add_post("/alerts", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        _, port, *_ = runner.addresses[0]
        receiver.url = f"https://localhost:{port}/alerts"
        yield receiver
    finally:
        await runner.cleanup()


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "receiver.pem", folder / "receiver.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
