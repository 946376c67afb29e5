"""What takes messages to endpoints: over TLS, to an address that was looked at, within bounds, and nowhere else."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest
from aiohttp import web

from ledger_svc.clients.webhooks import MAX_ANSWER_BYTES, SystemResolver, WebhookClient, tls_context
from ledger_svc.domain.deliveries import Answer
from ledger_svc.domain.destinations import Allowed, RefusedDestination
from ledger_svc.domain.webhooks import shown_secret, signature_headers
from meshkit.clock import SystemClock
from tests.webhooks.receiver import LOOPBACK, Received, Receiver, receiver

LOCAL = Allowed(private=tuple(map(ip_network, LOOPBACK)))


class Names:
    """A name server: each name's answers in turn, the last for good."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = answers
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        left = self.answers[host]
        return left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Receiver]:
    async with receiver(tmp_path) as running:
        yield running


def client(
    there: Receiver, names: Names | None = None, *, allowed: Allowed = LOCAL, timeout_s: float = 10.0
) -> WebhookClient:
    return WebhookClient(
        allowed, tls_context(there.ca_file), names or Names(localhost=[["127.0.0.1"]]), timeout_s=timeout_s
    )


async def carry(sender: WebhookClient, url: str, body: bytes = b"{}") -> Answer:
    return await sender.carry(url, {"webhook-id": "evt_1"}, body)


async def test_a_message_arrives_as_it_was_signed(there: Receiver) -> None:
    secret, body, now_ms = b"s" * 32, b'{"type":"webhook.test"}', SystemClock().now_ms()
    answer = await client(there).carry(
        there.url("/a?b=c%20d"), signature_headers([secret], "evt_1", now_ms, body), body
    )
    assert answer == Answer(204)
    (got,) = there.received
    assert got.verified(shown_secret(secret)) == {"type": "webhook.test"}
    assert got.path == "/a"
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["Host"] == f"localhost:{there.port}"
    assert not {"Cookie", "Authorization"} & got.headers.keys()


async def test_a_name_is_looked_at_each_time_and_connected_to_where_it_was_looked_at(there: Receiver) -> None:
    """DNS rebinding: the first answer is public, the next leads inside."""
    names = Names(localhost=[["8.8.8.8"], ["127.0.0.1"]])
    sender = client(there, names, allowed=Allowed())
    await sender.check_reachable(sender.check_url(there.url()))
    answer = await carry(sender, there.url())
    assert (answer.http_status, "not public" in answer.error) == (0, True)
    assert there.received == []
    # And in one attempt the name is asked for once: what was looked at is what is connected to.
    once = Names(localhost=[["127.0.0.1"], ["10.0.0.1"]])
    assert (await carry(client(there, once), there.url())).http_status == 204
    assert once.asked == 1


async def test_one_address_that_is_not_public_is_enough(there: Receiver) -> None:
    sender = client(there, Names(localhost=[["8.8.8.8", "127.0.0.1"]]), allowed=Allowed())
    with pytest.raises(RefusedDestination):
        await sender.check_reachable(sender.check_url(there.url()))
    assert "not public" in (await carry(sender, there.url())).error


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::1]"])
async def test_an_address_in_a_stored_url_is_not_followed(there: Receiver, host: str) -> None:
    answer = await carry(client(there), there.url(host=host))
    assert "not an IP address" in answer.error
    assert there.received == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure(there: Receiver, status: int) -> None:
    there.answering("/hook", status, headers={"location": there.url("/inside")})
    answer = await carry(client(there), there.url())
    assert answer == Answer(status, f"it answered {status}: redirects are not followed")
    assert [got.path for got in there.received] == ["/hook"]


async def test_tls_is_verified_against_the_name(there: Receiver, tmp_path: Path) -> None:
    names = Names(localhost=[["127.0.0.1"]], **{"other.example.com": [["127.0.0.1"]]})
    other = await carry(client(there, names), there.url(host="other.example.com"))
    assert other.error.startswith("its certificate is not valid")
    strangers = WebhookClient(LOCAL, ssl.create_default_context(), names)
    assert (await carry(strangers, there.url())).error.startswith("its certificate is not valid")
    assert there.received == []


async def test_no_proxy_of_the_environment_is_used(there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await carry(client(there), there.url())).http_status == 204


async def test_time_is_bounded(there: Receiver) -> None:
    async def hang(_: Received) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError("it is not waited for")

    there.replies["/hook"] = hang
    assert await carry(client(there, timeout_s=0.3), there.url()) == Answer(0, "no answer in time")


async def test_an_answer_is_read_up_to_its_bound(there: Receiver) -> None:
    async def large(_: Received) -> web.StreamResponse:
        return web.Response(status=200, body=b"x" * (500 * MAX_ANSWER_BYTES))

    there.replies["/hook"] = large
    assert await carry(client(there), there.url()) == Answer(200)


async def test_headers_are_bounded(there: Receiver) -> None:
    there.answering("/hook", 200, headers={"x-long": "x" * 20_000})
    answer = await carry(client(there), there.url())
    assert (answer.http_status, answer.error) == (0, "the connection ended without an answer")


async def test_what_does_not_listen_or_has_no_name_is_said(there: Receiver) -> None:
    class Unknown(Names):
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            raise OSError(f"no such name, asked of 10.0.0.53 for {host}")

    assert await carry(client(there, Unknown()), there.url()) == Answer(0, "its name can't be resolved")
    gone = Receiver(1_025, there.ca_file)
    assert await carry(client(there), gone.url()) == Answer(0, "no connection could be made")


async def test_the_machines_resolver_finds_names() -> None:
    resolve = SystemResolver(threads=1)
    try:
        assert set(await resolve("localhost", 443)) & {"127.0.0.1", "::1"}
        with pytest.raises(socket.gaierror):
            await resolve("no-such-name.invalid", 443)
    finally:
        resolve.close()
