"""How the commands of an account reach the REST API."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

DEFAULT_URL = "http://127.0.0.1:8080/v1"
_TIMEOUT_S = 30.0

Json = dict[str, Any]
Params = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Api:
    """The REST API at ``url``, asked with an account key. A refusal is printed in one line and ends the command."""

    url: str
    api_key: str

    def get(self, path: str, params: Params | None = None) -> Json:
        """The JSON at a path. Parameters that are None are left out."""
        return self._ask("GET", path, params=_given(params or {}))

    def post(self, path: str, body: Json | None = None) -> Json:
        """The JSON of what was made."""
        return self._ask("POST", path, json=body)

    def patch(self, path: str, body: Json) -> Json:
        """The JSON of what was changed."""
        return self._ask("PATCH", path, json=body)

    def delete(self, path: str) -> Json:
        """The JSON of what was ended."""
        return self._ask("DELETE", path)

    def pages(self, path: str, params: Params | None = None, *, at_most: int) -> Iterator[Json]:
        """The items of a list, page after page, ``at_most`` so many."""
        left, cursor = at_most, ""
        while left > 0:
            page = self.get(path, {**(params or {}), "limit": min(left, 100), "cursor": cursor or None})
            yield from page["data"][:left]
            left -= len(page["data"])
            cursor = page["next_cursor"] or ""
            if not cursor:
                return

    def save(self, path: str, params: Params, to: Path | None) -> None:
        """Streams an export into a file, or to standard output, without holding it in memory."""
        try:
            with (
                httpx.Client(timeout=_TIMEOUT_S) as client,
                client.stream("GET", self.url + path, params=_given(params), headers=self._headers) as answer,
            ):
                if answer.is_error:
                    answer.read()
                    _refuse(answer)
                with to.open("wb") if to else _standard_output() as file:
                    for piece in answer.iter_bytes():
                        file.write(piece)
        except httpx.HTTPError as error:
            _unreachable(self.url, error)

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"}

    def _ask(self, method: str, path: str, **content: Any) -> Json:
        try:
            answer = httpx.request(method, self.url + path, headers=self._headers, timeout=_TIMEOUT_S, **content)
        except httpx.HTTPError as error:
            _unreachable(self.url, error)
        if answer.is_error:
            _refuse(answer)
        found: Json = answer.json() if answer.content else {}
        return found


class _standard_output:
    """Standard output as a file that is not closed."""

    def __enter__(self) -> Any:
        return sys.stdout.buffer

    def __exit__(self, *_: object) -> None:
        sys.stdout.buffer.flush()


def _given(params: Params) -> dict[str, str | int]:
    return {name: value for name, value in params.items() if value is not None}


def _refuse(answer: httpx.Response) -> None:
    try:
        error = answer.json()["error"]
        said = f"{error['message']} ({answer.status_code} {error['code']})"
    except (ValueError, KeyError, TypeError):
        said = f"the gateway answered {answer.status_code}: {answer.text[:200]}"
    typer.echo(f"tallygate: {said}", err=True)
    raise typer.Exit(1)


def _unreachable(url: str, error: httpx.HTTPError) -> None:
    typer.echo(f"tallygate: nothing answers at {url} ({error}): start a gateway, or name its --url", err=True)
    raise typer.Exit(1) from None


UrlOption = Annotated[
    str, typer.Option("--url", envvar="TALLYGATE_URL", help="The gateway's base URL, with its /v1.", show_default=True)
]
KeyOption = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="TALLYGATE_ACCOUNT_KEY",
        help="An account key (`tallygate key create NAME --scope account`).",
    ),
]


def api_of(context: typer.Context) -> Api:
    """The API that the options of `tallygate account` name."""
    api = context.obj
    assert isinstance(api, Api)
    if not api.api_key:
        raise typer.BadParameter("give an account key, before the command as --api-key or in TALLYGATE_ACCOUNT_KEY")
    return api


def opened(context: typer.Context, url: UrlOption = DEFAULT_URL, api_key: KeyOption = "") -> None:
    """Manage an account over the REST API: keys, projects, caps, usage, billing, webhooks, provider keys, audit log."""
    context.obj = Api(url.rstrip("/"), api_key)
