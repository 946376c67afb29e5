"""A server that speaks the OpenAI wire and does what its script says, to test what a real model can't be made to do.

`async with scripted_upstream() as upstream:` serves in the running loop on a free port. The model that a request names
chooses the behaviour (`behaviour.BEHAVIOURS`); `upstream.script` changes one. Requests under `/scripted/v1` and
`/scripted2/v1` are those of two sources. `upstream.calls` holds every request. Tests may use it from another thread.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from tests.upstream.answer import Answer, answer_to
from tests.upstream.behaviour import BEHAVIOURS, Behaviour
from tests.upstream.call import Call
from tests.upstream.overlay import SOURCES, overlay_yaml

POLL_S = 0.01
UNKNOWN_MODEL = {
    "error": {
        "message": "The model does not exist.",
        "type": "invalid_request_error",
        "param": None,
        "code": "model_not_found",
    }
}
ERROR_EVENT = {"error": {"message": "The server broke off.", "type": "server_error", "param": None, "code": None}}


class ScriptedUpstream:
    """The server's state: scripts, what was asked, and the gate."""

    def __init__(self) -> None:
        self.url = ""
        """Where it listens: "http://127.0.0.1:PORT"."""
        self.down_url = ""
        """Where connections are refused for as long as this serves."""
        self._loop = asyncio.get_running_loop()
        self._scripts: dict[str, Behaviour] = {}
        self._calls: list[Call] = []
        self._attempts: Counter[str] = Counter()
        self._gate = asyncio.Event()
        self.on_call: Callable[[], object] | None = None
        """Called when a source has a request, before it answers."""

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call since the last reset, in the order of their arrival."""
        return tuple(self._calls)

    def calls_of(self, model: str) -> tuple[Call, ...]:
        """Those for one model."""
        return tuple(call for call in self._calls if call.model == model)

    def base_url(self, source: str = SOURCES[0]) -> str:
        """The base URL of a source: "http://127.0.0.1:PORT/SOURCE/v1"."""
        return f"{self.url}/{source}/v1"

    def script(self, model: str, behaviour: Behaviour) -> None:
        """Let ``model`` behave otherwise until the next reset. A model that the catalog lacks can't be routed to."""
        self._scripts[model] = behaviour

    def release(self) -> None:
        """Open the gate: answers that wait there go on, and later ones pass, until the next reset."""
        self._loop.call_soon_threadsafe(self._gate.set)

    def reset(self) -> None:
        """Forget calls, counts and changed scripts, and shut the gate."""
        self._calls.clear()
        self._attempts.clear()
        self._scripts.clear()
        self._loop.call_soon_threadsafe(self._gate.clear)

    async def wait_until(self, holds: Callable[[tuple[Call, ...]], bool], timeout_s: float = 10.0) -> tuple[Call, ...]:
        """The calls, once ``holds`` is true of them.

        Raises:
            TimeoutError: it did not become true.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                if holds(self.calls):
                    return self.calls
                await asyncio.sleep(POLL_S)

    def wait_until_blocking(
        self, holds: Callable[[tuple[Call, ...]], bool], timeout_s: float = 10.0
    ) -> tuple[Call, ...]:
        """As ``wait_until``, for a test without a loop; the server runs in another thread."""
        give_up_at = time.monotonic() + timeout_s
        while not holds(self.calls):
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"not so after {timeout_s} s: {self.calls}")
            time.sleep(POLL_S)
        return self.calls

    def write_overlay(self, path: Path) -> Path:
        """Write the catalog overlay that makes both sources and all models known to a gateway; gives ``path``."""
        path.write_text(overlay_yaml(self.url, self.down_url), encoding="utf-8")
        return path

    def behaviour_of(self, model: str) -> Behaviour | None:
        """The script in force; None for a model that there is no script for."""
        return self._scripts.get(model) or BEHAVIOURS.get(model)

    def admit(self, source: str, raw: bytes, headers: dict[str, str]) -> Call:
        """Remember a request."""
        call = Call(source, raw, headers, attempt=0)
        self._attempts[call.model] += 1
        call.attempt = self._attempts[call.model]
        self._calls.append(call)
        if self.on_call is not None:
            self.on_call()
        return call

    async def at_the_gate(self) -> None:
        """Wait until it is open."""
        await self._gate.wait()


class _Exchange:
    """One request and its answer."""

    def __init__(self, upstream: ScriptedUpstream, call: Call, behaviour: Behaviour, request: web.Request) -> None:
        self._upstream = upstream
        self._call = call
        self._script = behaviour
        self._request = request

    async def answer(self) -> web.StreamResponse:
        script, call = self._script, self._call
        await asyncio.sleep(script.first_byte_after_s)
        if script.refusal and (script.refuse_first is None or call.attempt <= script.refuse_first):
            call.status, call.completed = script.refusal.status, True
            return web.json_response(
                script.refusal.body, status=script.refusal.status, headers=dict(script.refusal.headers)
            )
        answer = answer_to(call.body, script, f"chatcmpl-scripted-{call.attempt}")
        return await (self._stream(answer) if call.stream else self._whole(answer))

    async def _whole(self, answer: Answer) -> web.StreamResponse:
        if self._script.gate_after_chunks is not None:
            await self._upstream.at_the_gate()
        self._call.status = 200
        body = json.dumps(ERROR_EVENT if self._script.error_after_chunks is not None else answer.body()).encode()
        if self._script.malformed:
            body = body[:-1]
        if not self._cuts:
            self._call.completed = True
            return web.Response(body=body, content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "application/json"})
        response.content_length = len(body)
        await response.prepare(self._request)
        await response.write(body[: len(body) // 2])
        return self._cut(response)

    async def _stream(self, answer: Answer) -> web.StreamResponse:
        script, call = self._script, self._call
        if script.gate_after_chunks == 0:
            await self._upstream.at_the_gate()
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(self._request)
        call.status = 200
        for event in answer.events():
            if self._cuts and call.chunks_sent == script.cut_after_chunks:
                return self._cut(response)
            if call.chunks_sent == script.error_after_chunks:
                await response.write(_event(ERROR_EVENT))
                call.completed = True
                return response
            if call.chunks_sent == script.gate_after_chunks:
                await self._upstream.at_the_gate()
            if call.chunks_sent:
                await asyncio.sleep(script.chunk_every_s)
            await response.write(b"data: {not json\n\n" if script.malformed else _event(event))
            call.chunks_sent += 1
        usage = answer.usage_event()
        if usage is not None and (call.body.get("stream_options") or {}).get("include_usage"):
            await response.write(_event(usage))
        await response.write(b"data: [DONE]\n\n")
        call.completed = True
        return response

    @property
    def _cuts(self) -> bool:
        script = self._script
        return script.cut_after_chunks is not None and (
            script.cut_first is None or self._call.attempt <= script.cut_first
        )

    def _cut(self, response: web.StreamResponse) -> web.StreamResponse:
        """Close the connection where the answer is not at its end. What was written before is delivered."""
        assert self._request.transport is not None
        self._request.transport.close()
        self._call.completed = True
        return response


def _event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def make_app(upstream: ScriptedUpstream) -> web.Application:
    """The HTTP application."""

    async def chat(request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = upstream.admit(request.match_info["source"], await request.read(), headers)
        behaviour = upstream.behaviour_of(call.model)
        try:
            if behaviour is None:
                call.status, call.completed = 404, True
                return web.json_response(UNKNOWN_MODEL, status=404)
            return await _Exchange(upstream, call, behaviour, request).answer()
        except (asyncio.CancelledError, ConnectionError):
            call.disconnected = not call.completed
            raise
        finally:
            call.ended = True

    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/{source}/v1/chat/completions", chat)
    return app


@asynccontextmanager
async def scripted_upstream(port: int = 0) -> AsyncIterator[ScriptedUpstream]:
    """Serve inside the block, on 127.0.0.1; ``port`` 0 picks a free one."""
    upstream = ScriptedUpstream()
    with socket.socket() as not_listening:
        not_listening.bind(("127.0.0.1", 0))  # taken, so that nobody else can come to listen there
        upstream.down_url = f"http://127.0.0.1:{not_listening.getsockname()[1]}"
        async with _listening(upstream, port):
            yield upstream


@asynccontextmanager
async def _listening(upstream: ScriptedUpstream, port: int) -> AsyncIterator[None]:
    runner = web.AppRunner(make_app(upstream), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
        await site.start()
        host, bound = runner.addresses[0][:2]
        upstream.url = f"http://{host}:{bound}"
        yield
    finally:
        await runner.cleanup()
