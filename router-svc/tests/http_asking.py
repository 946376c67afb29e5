"""Asking a source at the level of bytes, shortly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from raw_source import RawSource

from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.sources.http.port import HttpAnswer, SourceHttp

Open = Callable[..., AbstractAsyncContextManager[SourceHttp]]

BODY = b'{"model":"m"}'


async def post(http: SourceHttp, source: RawSource | str, body: bytes = BODY, **fields: Any) -> HttpAnswer:
    url = source if isinstance(source, str) else source.url
    headers = fields.pop("headers", {"accept": "application/json"})
    return await http.post(url, headers, body, **{"connect_s": 5.0, "head_s": 5.0, "read_s": 5.0, **fields})


async def whole(answer: HttpAnswer) -> bytes:
    parts: list[bytes] = []
    while part := await answer.read():
        parts.append(part)
    answer.close()
    return b"".join(parts)


async def ask(http: SourceHttp, source: RawSource | str, body: bytes = BODY, **fields: Any) -> bytes:
    return await whole(await post(http, source, body, **fields))


@asynccontextmanager
async def failing(*kinds: FailureKind) -> AsyncIterator[None]:
    with pytest.raises(SourceFailure) as raised:
        yield
    assert raised.value.kind in kinds
