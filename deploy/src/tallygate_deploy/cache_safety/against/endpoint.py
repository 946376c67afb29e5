"""The requests of the bench, sent to an endpoint, and its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import orjson

from meshkit.answers.fold import fold
from meshkit.answers.joining import NotFoldable
from meshkit.clock import Clock
from tallygate_deploy.cache_safety.against.evidence import Reply
from tallygate_deploy.cache_safety.generate.requests import OTHER_MODEL
from tallygate_deploy.cache_safety.items import Asked
from tallygate_deploy.cache_safety.options import Target
from tallygate_deploy.cache_safety.reading import DEFAULT_MODEL

_SHOWN = 200
_TRIES = 5
_MOST_WAIT_S, _USUAL_WAIT_S = 60.0, 5.0


class EndpointError(Exception):
    """The endpoint can't be judged at all; the text says why and what to do."""


class NoAnswer(Exception):
    """One request has no answer that says anything; the text says why."""


class Endpoint:
    """Sends what is asked. ``nonce``: in a system message of every request, so that no answer of another run is met."""

    def __init__(self, http: httpx.AsyncClient, target: Target, clock: Clock, nonce: str) -> None:
        self._http, self._target, self._clock, self._nonce = http, target, clock, nonce

    def why_not(self, *requests: Asked) -> str:
        """What the target lacks for requests that belong together; empty: nothing."""
        models = {_model(asked) for asked in requests}
        if OTHER_MODEL in models and not self._target.other_model:
            return "they ask another model: name it with --other-model"
        if len({asked.tenant for asked in requests}) > 1 and not self._target.other_api_key:
            return "they are another tenant's: give its key with --other-api-key"
        return ""

    async def ask(self, asked: Asked, world: str, *, as_other: bool = False) -> Reply:
        """The answer to a request, among those of one ``world``. ``as_other``: another tenant asks.

        Raises:
            NoAnswer: nobody is there, it was refused, or the answer is not a chat completion.
        """
        body, headers = self._body(asked, world), self._headers(asked, as_other=as_other)
        for _ in range(_TRIES):
            sent_at_s = self._clock.now_ms() / 1_000
            response = await self._post(body, headers)
            if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
            await asyncio.sleep(_wait_s(response))
        if response.status_code != httpx.codes.OK:
            raise NoAnswer(f"HTTP {response.status_code}: {response.text[:_SHOWN]}")
        return _reply(response, sent_at_s)

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        url = f"{self._target.base_url.rstrip('/')}/chat/completions"
        try:
            return await self._http.post(url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoAnswer(f"{self._target.base_url}: {type(error).__name__}: {error}") from error

    def _body(self, asked: Asked, world: str) -> bytes:
        body = orjson.loads(asked.body)
        body["model"] = {DEFAULT_MODEL: self._target.model, OTHER_MODEL: self._target.other_model}.get(
            body["model"], body["model"]
        )
        marker = {"role": "system", "content": f"Bench {self._nonce}-{world}."}
        body["messages"] = [marker, *_messages(body)]
        # An item may differ from another in how it is laid out, and in nothing else.
        return orjson.dumps(body, option=orjson.OPT_INDENT_2 if asked.body.startswith(b"{\n") else 0)

    def _headers(self, asked: Asked, *, as_other: bool) -> dict[str, str]:
        key = self._target.other_api_key if as_other else self._target.api_key
        headers = {**self._target.headers, "Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if asked.max_age_s is not None:
            headers["Cache-Control"] = f"max-age={asked.max_age_s}"
        if asked.allow_sampled:
            headers["X-Tallygate-Cache"] = "sampled"
        return headers


def _messages(body: Mapping[str, Any]) -> Sequence[Any]:
    messages = body["messages"]
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def _wait_s(response: httpx.Response) -> float:
    """For how long a rate limit asks to wait, in seconds; a date, or nothing, is taken for a few."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), _MOST_WAIT_S) if asked.isdecimal() else _USUAL_WAIT_S


def _model(asked: Asked) -> str:
    return str(orjson.loads(asked.body)["model"])


def _reply(response: httpx.Response, sent_at_s: float) -> Reply:
    try:
        body = (
            _streamed(response.text) if "event-stream" in response.headers.get("content-type", "") else response.json()
        )
        message = body["choices"][0]["message"]
        content = message.get("content") or orjson.dumps(message.get("tool_calls") or "").decode()
        created = body.get("created")
        return Reply(
            headers={name.lower(): value for name, value in response.headers.items()},
            id=str(body.get("id") or ""),
            created_s=created if isinstance(created, int) else 0,
            content=str(content),
            sent_at_s=sent_at_s,
        )
    except (ValueError, LookupError, TypeError, AttributeError, NotFoldable) as error:
        raise NoAnswer(f"its answer is not a chat completion: {response.text[:_SHOWN]!r}") from error


def _streamed(text: str) -> Any:
    events = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    return fold([orjson.loads(event) for event in events if event != "[DONE]"])
