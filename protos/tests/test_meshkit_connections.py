"""Dialling, binding, and calls to what is not there (yet, or any more)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from meshkit import addresses
from meshkit.channels import Dialer
from meshkit.local import LocalNetwork
from meshkit.serve import running, serve
from meshkit.telemetry import Telemetry
from meshkit.testing import dialer_on, linked

OFF = Telemetry.off()


def text(value: object = "") -> StringValue:
    return StringValue(value=str(value))


async def echo(request: StringValue, _: Any) -> StringValue:
    return request


def unary(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary("/test.Probe/unary_unary", StringValue.SerializeToString, StringValue.FromString)


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("grpc://127.0.0.1:7003", ("grpc", "127.0.0.1:7003")),
        ("grpc://ledger.mesh.svc:7003", ("grpc", "ledger.mesh.svc:7003")),
        ("grpc://[::1]:0", ("grpc", "[::1]:0")),
        ("unix:///run/ledger.sock", ("unix", "/run/ledger.sock")),
        ("local://ledger", ("local", "ledger")),
    ],
)
def test_addresses(address: str, parsed: tuple[str, str]) -> None:
    assert addresses.parse(address) == parsed


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ledger",
        "127.0.0.1:7003",
        "http://ledger:80",
        "grpc://ledger",
        "grpc://:7003",
        "unix://relative",
        "local://",
    ],
)
def test_what_is_not_an_address(address: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        addresses.parse(address)


async def test_the_same_address_gives_the_same_channel() -> None:
    async with Dialer(OFF, LocalNetwork()) as dial:
        assert dial("local://a") is dial("local://a")
        assert dial("local://a") is not dial("local://b")
        with pytest.raises(ValueError, match="not an address"):
            dial("nowhere")


async def test_local_addresses_need_a_network(registering: Any) -> None:
    async with Dialer(OFF) as dial:
        with pytest.raises(ValueError, match="local network"):
            dial("local://a")
    with pytest.raises(ValueError, match="local network"):
        async with running(registering(unary_unary=echo), "local://a", OFF):
            pass


async def test_an_address_is_served_once(registering: Any, tmp_path: Path) -> None:
    network, register = LocalNetwork(), registering(unary_unary=echo)
    async with running(register, "local://a", OFF, local=network):
        with pytest.raises(RuntimeError, match="served already"):
            async with running(register, "local://a", OFF, local=network):
                pass
    for free in ("grpc://127.0.0.1:0", f"unix://{tmp_path}/s"):
        async with running(register, free, OFF) as address:
            with pytest.raises(RuntimeError, match="bind"):
                async with running(register, address, OFF):
                    pass
    async with running(register, "local://a", OFF, local=network):
        pass


async def test_the_file_that_a_crashed_server_left_is_taken_over(registering: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(tmp_path / "s"))
    async with running(registering(unary_unary=echo), f"unix://{tmp_path}/s", OFF) as address, Dialer(OFF) as dial:
        assert (await unary(dial(address))(text("here"), timeout=5)).value == "here"


@pytest.fixture
def spot(transport: str, tmp_path_factory: pytest.TempPathFactory, unused_tcp_port: int) -> str:
    """An address where nothing is served yet."""
    folder = tmp_path_factory.mktemp("s")
    return {
        "local": "local://a",
        "unix": f"unix://{folder}/s",
    }.get(transport, f"grpc://127.0.0.1:{unused_tcp_port}")


@pytest.fixture
async def network_and_dial(transport: str) -> AsyncIterator[tuple[LocalNetwork, Dialer]]:
    network = LocalNetwork()
    async with dialer_on(transport, OFF, network) as dial:
        yield network, dial


async def test_a_call_to_nobody_is_unavailable(spot: str, network_and_dial: tuple[LocalNetwork, Dialer]) -> None:
    _, dial = network_and_dial
    call = unary(dial(spot))(text(), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_call_may_wait_for_the_server(
    spot: str, network_and_dial: tuple[LocalNetwork, Dialer], registering: Any
) -> None:
    network, dial = network_and_dial
    call = unary(dial(spot))(text("patient"), timeout=20, wait_for_ready=True)
    ready = asyncio.ensure_future(dial(spot).channel_ready())
    async with running(registering(unary_unary=echo), spot, OFF, local=network):
        assert (await call).value == "patient"
        await ready
        assert dial(spot).get_state() is grpc.ChannelConnectivity.READY
        assert (await unary(dial(spot))(text("now"), timeout=5)).value == "now"


async def test_a_call_does_not_wait_beyond_its_deadline(
    spot: str, network_and_dial: tuple[LocalNetwork, Dialer]
) -> None:
    _, dial = network_and_dial
    call = unary(dial(spot))(text(), timeout=0.2, wait_for_ready=True)
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_server_that_comes_back_is_found_again(
    spot: str, network_and_dial: tuple[LocalNetwork, Dialer], registering: Any
) -> None:
    network, dial = network_and_dial
    register = registering(unary_unary=echo)
    for value in ("first life", "second life"):
        async with running(register, spot, OFF, local=network):
            answer = await unary(dial(spot))(text(value), timeout=20, wait_for_ready=True)
            assert answer.value == value


async def test_closing_a_channel_cancels_its_calls(transport: str, registering: Any) -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: StringValue, _: Any) -> StringValue:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return request

    async with linked(registering(unary_unary=handler), transport) as channel:
        call = unary(channel)(text(), timeout=30)
        await entered.wait()
        await channel.close()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await ended.wait()
        with pytest.raises(grpc.aio.UsageError, match="closed"):
            await unary(channel)(text(), timeout=5)
        await channel.close()


async def test_closing_a_channel_with_grace_lets_its_calls_finish(transport: str, registering: Any) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def handler(request: StringValue, _: Any) -> StringValue:
        entered.set()
        await go_on.wait()
        return request

    async with linked(registering(unary_unary=handler), transport) as channel:
        call = unary(channel)(text("done"), timeout=30)
        await entered.wait()
        closing = asyncio.create_task(channel.close(10))
        go_on.set()
        await closing
        assert (await call).value == "done"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_serving(number: signal.Signals, tmp_path: Path, registering: Any) -> None:
    address = f"unix://{tmp_path}/s"
    serving = asyncio.create_task(serve(registering(unary_unary=echo), address, OFF, drain_s=5))
    async with Dialer(OFF) as dial:
        assert (await unary(dial(address))(text("up"), timeout=20, wait_for_ready=True)).value == "up"
        os.kill(os.getpid(), number)
        await serving
        assert await unary(dial(address))(text(), timeout=0.5).code() is grpc.StatusCode.UNAVAILABLE
