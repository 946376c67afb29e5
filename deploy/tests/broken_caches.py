"""Gateways with a cache, right or broken in one way, for the bench to judge over HTTP."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Body = dict[str, Any]
Key = Callable[[str, Body], str]
_NOT_IN_KEY = ("stream", "stream_options", "metadata", "prompt_cache_key")
_CLOSE = 0.8


def right(tenant: str, body: Body) -> str:
    """All that matters."""
    return json.dumps(
        [tenant, {name: value for name, value in body.items() if name not in _NOT_IN_KEY}], sort_keys=True
    ) + _orders(body)


def without_temperature(tenant: str, body: Body) -> str:
    """As gateways do that take a list of what matters."""
    return right(tenant, {name: value for name, value in body.items() if name != "temperature"})


def without_tenant(tenant: str, body: Body) -> str:
    """As gateways do that have one cache for all."""
    return right("", body)


def in_small_letters(tenant: str, body: Body) -> str:
    """As a normal form that goes too far."""
    return right(tenant, body).lower()


def _orders(body: Body) -> str:
    """The order of the properties in a schema is content."""
    return json.dumps([re.findall(r'"(\w+)":\s*\{"type"', json.dumps(body.get("response_format")))])


@dataclass
class Gateway:
    """Answers afresh, or replays what lies under the same key. ``cosine``: by the likeness of the last message instead.
    ``says``: what stands on a replay; without, it has the body of then, and only that tells. ``constant``: all fresh
    answers have the same text and id. ``always``: what stands on all answers. ``limited_every``: each such
    request is one too many. ``drops_seed``: a request with it loses its connection.
    """

    key: Key = right
    cosine: bool = False
    says: Mapping[str, str] = field(default_factory=dict)
    constant: bool = False
    always: Mapping[str, str] = field(default_factory=dict)
    kept: dict[str, Body] = field(default_factory=dict)
    texts: list[tuple[str, Body]] = field(default_factory=list)
    limited_every: int = 1_000_000
    drops_seed: int | None = -1
    requests: int = 0
    seen: list[tuple[Mapping[str, str], Body]] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        self.requests += 1
        body = await request.json()
        self.seen.append((dict(request.headers), body))
        tenant = request.headers.get("Authorization", "")
        if body.get("logit_bias"):
            return web.json_response({"error": {"message": "logit_bias is not supported"}}, status=400)
        if self.requests % self.limited_every == 0:
            return web.json_response({"error": {"message": "slowly"}}, status=429, headers={"Retry-After": "0"})
        if body.get("seed") == self.drops_seed:
            assert request.transport is not None
            request.transport.abort()
        readable, storable = self._may(request, body)
        found = self._find(tenant, body) if readable else None
        if found is not None:
            renewed = {**found, "id": f"replay-{next(self._numbers)}"} if self.says else found
            return self._send(renewed, body, {**self.always, **self.says})
        fresh = self._answer()
        if storable:
            self.kept[self.key(tenant, body)] = fresh
            self.texts.append((_last(body), fresh))
        return self._send(fresh, body, self.always)

    def _may(self, request: web.Request, body: Body) -> tuple[bool, bool]:
        if self.cosine:
            return True, True
        hosted = "web_search_options" in body or any(tool["type"] != "function" for tool in body.get("tools", ()))
        remote = "https://" in json.dumps(body["messages"])
        sampled = body.get("temperature") != 0 and request.headers.get("X-Tallygate-Cache") != "sampled"
        eligible = not (hosted or remote or sampled)
        return eligible and request.headers.get("Cache-Control") != "max-age=0", eligible

    def _find(self, tenant: str, body: Body) -> Body | None:
        if not self.cosine:
            return self.kept.get(self.key(tenant, body))
        text = _last(body)
        close = [(likeness(text, other), place) for place, (other, _) in enumerate(self.texts)]
        best = max(close, default=(0.0, 0))
        return self.texts[best[1]][1] if best[0] > _CLOSE else None

    def _answer(self) -> Body:
        number = 0 if self.constant else next(self._numbers)
        text = f"Answer {number}, and enough words beside it that nobody would say the very same by chance: {number}."
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1_700_000_000 + number,
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    def _send(self, answer: Body, body: Body, headers: Mapping[str, str]) -> web.StreamResponse:
        if not body.get("stream"):
            return web.json_response(answer, headers=headers)
        choice = answer["choices"][0]
        delta = {"index": 0, "delta": choice["message"], "finish_reason": "stop"}
        chunk = {**answer, "object": "chat.completion.chunk", "choices": [delta]}
        del chunk["usage"]
        lines = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        return web.Response(text=lines, content_type="text/event-stream", headers=headers)


@asynccontextmanager
async def serving(gateway: Gateway) -> AsyncIterator[str]:
    """The base URL of a gateway that runs."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", gateway.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1"
    finally:
        await runner.cleanup()


def likeness(one: str, other: str) -> float:
    """The cosine of two texts as bags of words."""
    a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (one, other))
    dot = sum(count * b[word] for word, count in a.items())
    norm = math.sqrt(sum(n * n for n in a.values())) * math.sqrt(sum(n * n for n in b.values()))
    return dot / norm if norm else 0.0


def _last(body: Body) -> str:
    return json.dumps(body["messages"][-1]["content"])
