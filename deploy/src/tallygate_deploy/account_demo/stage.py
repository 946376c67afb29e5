"""Where the story is told: a running gateway, clients of it, and the steps that were shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx

MODEL = "local/smollm2-135m-instruct"
_TIMEOUT_S = 120.0

Json = dict[str, Any]


class NotShownError(Exception):
    """A step did not show what it promises."""


def _refuse_float(text: str) -> None:
    raise NotShownError(f"an amount came as a number: {text}")


@dataclass(slots=True)
class Client:
    """A client with a key of its own. Its parser of JSON refuses numbers that are no integers."""

    http: httpx.AsyncClient

    async def ask(self, method: str, path: str, *, expect: int = 200, **content: Any) -> Json:
        """The JSON of an answer whose status is as expected.

        Raises:
            NotShownError: it has another status.
        """
        answer = await self.http.request(method, path, **content)
        if answer.status_code != expect:
            raise NotShownError(f"{method} {path}: {answer.status_code} instead of {expect}: {answer.text[:300]}")
        found: Json = json.loads(answer.content, parse_float=_refuse_float) if answer.content else {}
        return found

    async def chat(self, text: str, *, tags: str = "", expect: int = 200) -> tuple[httpx.Headers, Json]:
        """One completion, and its headers. The answer to the same text is replayed."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 12}
        headers = {"x-tallygate-tags": tags} if tags else {}
        answer = await self.http.post("/chat/completions", json=body, headers=headers)
        if answer.status_code != expect:
            raise NotShownError(f"a completion: {answer.status_code} instead of {expect}: {answer.text[:300]}")
        return answer.headers, answer.json()


@dataclass(slots=True)
class Stage:
    """One telling. ``say`` prints a line."""

    base_url: str
    stack: AsyncExitStack
    say: Callable[[str], None]
    passed: int = 0
    steps: list[str] = field(default_factory=list)

    async def client(self, secret: str) -> Client:
        """A client with a key."""
        http = httpx.AsyncClient(
            base_url=self.base_url, headers={"authorization": f"Bearer {secret}"}, timeout=_TIMEOUT_S
        )
        return Client(await self.stack.enter_async_context(http))

    def show(self, step: str, *, holds: bool, seen: object = "") -> None:
        """Counts a step.

        Raises:
            NotShownError: it does not hold.
        """
        self.steps.append(step)
        if not holds:
            raise NotShownError(f"not shown: {step}; seen: {seen}")
        self.passed += 1
        self.say(f"   [green]ok[/] {step}")
