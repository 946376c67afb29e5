"""The real openai SDK for Python: what is answered."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from tests.conformance.conftest import MakeClient
from tests.harness.gateway import Gateway


class GetWeather(BaseModel):
    city: str
    days: int


class Order(BaseModel):
    dish: Literal["soup", "salad"]
    portions: int
    notes: list[str]


WEATHER = openai.pydantic_function_tool(GetWeather, name="get_weather")
CALLED = GetWeather(city="scripted", days=7)


def asked(content: str, **more: Any) -> Any:
    return {"model": "test/ok", "messages": [{"role": "user", "content": content}], **more}


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_plain(client: openai.OpenAI, gateway: Gateway) -> None:
    completion = client.chat.completions.create(**asked("plain from python"))
    assert completion.object == "chat.completion"
    assert completion.choices[0].message.content == "You said: plain from python"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (4, 5)
    (call,) = gateway.upstream.calls
    assert call.api_key == "sk-scripted-one"


def test_a_stream_says_what_the_body_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**asked("one text twice"))
    chunks = list(client.chat.completions.create(**asked("one text twice", stream=True)))
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_has_no_usage_unless_asked(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**asked("no usage asked", stream=True)))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("model", ["test/ok", "test/usage-with-last-choice"])
def test_a_stream_ends_with_its_usage_and_cost(client: openai.OpenAI, gateway: Gateway, model: str) -> None:
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(**asked("usage asked", model=model, stream=True, stream_options=options))
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7
    assert all(chunk.usage is None for chunk in chunks[:-1])
    extension = chunks[-1].model_extra
    assert extension is not None
    settled = extension["tallygate"]
    assert settled["receipt_id"].startswith("rcpt_")
    assert Decimal(settled["cost_usd"]) == Decimal("0.00001155")
    assert settled["trace_id"] == gateway.upstream.calls[0].trace_id


def test_headers_say_what_it_cost_and_where_it_is_proven(client: openai.OpenAI, gateway: Gateway) -> None:
    raw = client.chat.completions.with_raw_response.create(**asked("headers please"))
    headers = raw.headers
    assert headers["x-trace-id"] == gateway.upstream.calls[0].trace_id
    assert headers["x-receipt-id"].startswith("rcpt_")
    assert headers["x-generation-id"].startswith("gen_")
    assert headers["x-served-mode"] == "fresh"
    assert (headers["x-usage-input-tokens"], headers["x-usage-output-tokens"]) == ("3", "4")
    # 3 tokens at $1 and 4 at $2 a million, and 5 %.
    assert Decimal(headers["x-cost-usd"]) == Decimal("0.00001155")
    assert raw.parse().choices[0].message.content == "You said: headers please"


def test_a_trace_that_the_client_began_goes_on(client: openai.OpenAI, gateway: Gateway) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    raw = client.chat.completions.with_raw_response.create(**asked("traced"), extra_headers=headers)
    assert raw.headers["x-trace-id"] == trace_id
    assert gateway.upstream.calls[0].trace_id == trace_id
    assert gateway.upstream.calls[0].parent_span_id != "b7ad6b7169203331"


def test_every_parameter_reaches_the_source(client: openai.OpenAI, gateway: Gateway) -> None:
    given: dict[str, Any] = {
        "temperature": 0.25,
        "top_p": 0.5,
        "stop": ["\n\n"],
        "seed": 11,
        "max_completion_tokens": 50,
        "logit_bias": {"42": -100},
        "user": "user-7",
        "metadata": {"order": "17"},
    }
    invented = {"invented_tomorrow": {"deep": [1, 2.50, None]}}
    client.chat.completions.create(**asked("parameters"), **given, extra_body=invented)
    body = gateway.upstream.calls[0].body
    assert {name: body[name] for name in given} == given
    assert body["invented_tomorrow"] == invented["invented_tomorrow"]
    assert body["model"] == "test/ok"


def test_content_may_have_parts(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "in"}, {"type": "text", "text": "parts"}]
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    completion = client.chat.completions.create(model="test/ok", messages=messages)
    assert completion.choices[0].message.content == "You said: in parts"


def test_an_alias_is_a_model(client: openai.OpenAI, gateway: Gateway) -> None:
    completion = client.chat.completions.create(**asked("by another name", model="test-alias"))
    assert completion.choices[0].message.content == "You said: by another name"
    assert gateway.upstream.calls[0].model == "test/ok"


def test_an_identical_request_is_replayed_for_a_quarter_of_the_price(client: openai.OpenAI, gateway: Gateway) -> None:
    request = asked("replay for python", temperature=0)
    first = client.chat.completions.with_raw_response.create(**request)
    again = client.chat.completions.with_raw_response.create(**request)
    assert (first.headers["x-served-mode"], again.headers["x-served-mode"]) == ("fresh", "exact")
    assert Decimal(again.headers["x-cost-usd"]) * 4 == Decimal(first.headers["x-cost-usd"])
    assert again.headers["x-receipt-id"] != first.headers["x-receipt-id"]
    fresh, replayed = first.parse(), again.parse()
    assert (replayed.choices, replayed.usage) == (fresh.choices, fresh.usage)
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert text_of(chunks) == fresh.choices[0].message.content
    assert len(gateway.upstream.calls) == 1


def test_tools_plain(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(**asked("weather, plain", tools=[WEATHER]))
    choice = completion.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    assert [call.function.name for call in choice.message.tool_calls] == ["get_weather"]
    assert choice.message.tool_calls[0].function.parsed_arguments == CALLED


def test_tool_deltas_are_put_together_by_the_sdk(client: openai.OpenAI) -> None:
    pieces: list[str] = []
    with client.chat.completions.stream(**asked("weather, streamed", tools=[WEATHER])) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                pieces.append(event.arguments_delta)
        completion = stream.get_final_completion()
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    assert len(pieces) > 2
    assert "".join(pieces) == calls[0].function.arguments
    assert calls[0].function.parsed_arguments == CALLED


def test_two_tools_are_called_at_once(client: openai.OpenAI) -> None:
    second = openai.pydantic_function_tool(Order, name="order_lunch")
    with client.chat.completions.stream(**asked("weather and lunch", tools=[WEATHER, second])) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls] == ["get_weather", "order_lunch"]
    assert calls[1].function.parsed_arguments == Order(dish="soup", portions=7, notes=["scripted"])


def test_the_result_of_a_tool_goes_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(**asked("weather, then words", tools=[WEATHER]))
    message = first.choices[0].message
    assert message.tool_calls is not None
    messages: list[Any] = [
        {"role": "user", "content": "weather, then words"},
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny all week"},
    ]
    completion = client.chat.completions.create(model="test/ok", messages=messages, tools=[WEATHER])
    assert completion.choices[0].message.content == "You said: sunny all week"


def test_json_object(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_object"}
    completion = client.chat.completions.create(**asked("json please", response_format=form))
    assert completion.choices[0].message.content == '{"echo": "json please"}'


def test_json_schema_is_parsed(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(**asked("order, plain"), response_format=Order)
    assert completion.choices[0].message.parsed == Order(dish="soup", portions=7, notes=["scripted"])


def test_json_schema_is_parsed_from_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**asked("order, streamed"), response_format=Order) as stream:
        completion = stream.get_final_completion()
    assert completion.choices[0].message.parsed == Order(dish="soup", portions=7, notes=["scripted"])


def test_reasoning_passes_through(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(**asked("think", model="test/reasoning-usage"))
    assert (completion.choices[0].message.model_extra or {})["reasoning_content"] == "Let me think about that."
    assert completion.usage is not None
    assert completion.usage.completion_tokens_details is not None
    assert completion.usage.completion_tokens_details.reasoning_tokens == 40


async def test_the_async_client(async_client: openai.AsyncOpenAI) -> None:
    whole = await async_client.chat.completions.create(**asked("asynchronously"))
    stream = await async_client.chat.completions.create(**asked("asynchronously", stream=True))
    chunks = [chunk async for chunk in stream]
    assert text_of(chunks) == whole.choices[0].message.content == "You said: asynchronously"


async def test_a_stream_that_is_left_half_way(async_client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    stream = await async_client.chat.completions.create(**asked("leave me", model="test/gated", stream=True))
    await anext(aiter(stream))
    await stream.close()
    (call,) = await gateway.upstream.wait_until(lambda calls: bool(calls) and calls[0].ended)
    assert call.disconnected
    next_one = await async_client.chat.completions.create(**asked("still there"))
    assert next_one.choices[0].message.content == "You said: still there"


def test_models_are_listed(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert {"test/ok", "gpt-4o-mini", "local/smollm2-135m-instruct"} <= set(ids)
    assert len(ids) == len(set(ids))


def test_a_model_is_found_by_its_id(client: openai.OpenAI) -> None:
    model = client.models.retrieve("test/ok")
    assert (model.id, model.object, model.owned_by) == ("test/ok", "model", "tallygate-tests")
    assert model.created == 1767225600


def test_the_same_under_api_v1(gateway: Gateway, client_for: MakeClient) -> None:
    client = client_for(gateway.api_key).with_options(base_url=gateway.base_url.removesuffix("/v1") + "/api/v1")
    assert client.models.retrieve("test/ok").id == "test/ok"
    completion = client.chat.completions.create(**asked("another path"))
    assert completion.choices[0].message.content == "You said: another path"
