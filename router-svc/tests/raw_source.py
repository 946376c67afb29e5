"""A source at the level of bytes: a server on loopback whose every connection runs a script."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Request:
    """``line``: the first; ``headers``: names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Peer:
    """One connection, as its server sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    source: RawSource

    async def request(self) -> Request | None:
        """The next request; None where the client has gone."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        line, *fields = head.decode().removesuffix("\r\n\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        request = Request(line, headers, body)
        self.source.requests.append(request)
        return request

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the client has closed."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            return

    def reset(self) -> None:
        """Break the connection off, with an RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()

    def half_close(self) -> None:
        self.writer.write_eof()


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class RawSource:
    url: str = ""
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    errors: list[BaseException] = field(default_factory=list)


@asynccontextmanager
async def raw_source(
    *scripts: Script, host: str = "127.0.0.1", name: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawSource]:
    """Each connection runs the next script, the last one for ever; it is closed where the script ends."""
    source = RawSource()
    running: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        script = scripts[min(source.connections, len(scripts) - 1)]
        source.connections += 1
        try:
            await script(Peer(reader, writer, source))
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - shown by the test
            source.errors.append(error)
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, host, 0, ssl=tls, limit=2**24)
    source.port = server.sockets[0].getsockname()[1]
    shown = name or (f"[{host}]" if ":" in host else host)
    source.url = f"{'https' if tls else 'http'}://{shown}:{source.port}/v1/chat/completions"
    try:
        yield source
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()
        assert not source.errors, source.errors


def fixed(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """An answer with its length; ``headers``: their names with underscores for hyphens."""
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{fields}content-length: {len(body)}\r\n\r\n".encode() + body


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailers + b"\r\n"


def always(answer: bytes) -> Script:
    """Every request is answered so, on a connection that is kept."""

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(answer)

    return script


@dataclass(frozen=True)
class Certificates:
    """``trusted``: the file that a client is to trust; ``server``: for a server named ``localhost``."""

    trusted: Path
    server: ssl.SSLContext


def make_certificates(folder: Path) -> Certificates:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a source")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, secret = folder / "certificate.pem", folder / "key.pem"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(trusted, secret)
    return Certificates(trusted, server)
