"""A fresh answer, plain and streamed: what is asked of the router, what is sent to the client."""

from __future__ import annotations

from typing import Any

import orjson

JSON = dict[str, Any]


async def test_a_plain_answer_is_the_routers_body_to_the_byte(world: Any) -> None:
    body = b'{"id":"x",  "choices" : [] , "odd": 1.50}'
    world.router.answers(body)
    response = await world.chat()
    assert response.status_code == 200
    assert response.content == body
    assert response.headers["content-type"] == "application/json"


async def test_a_plain_answer_says_what_it_cost_and_how_it_was_made(world: Any) -> None:
    world.router.answers()
    headers = (await world.chat()).headers
    assert headers["x-served-mode"] == "fresh"
    assert headers["x-receipt-id"] == "rcpt_fresh"
    assert headers["x-cost-usd"] == "0.000005355"
    assert headers["x-usage-input-tokens"] == "9"
    assert headers["x-usage-output-tokens"] == "6"
    assert headers["cache-status"] == "Tallygate; fwd=miss"
    request_id = world.router.requests[0].request_id
    assert headers["x-request-id"] == request_id
    assert headers["x-generation-id"] == request_id.replace("req_", "gen_")


async def test_the_router_gets_the_body_verbatim_and_who_asks_for_what(world: Any) -> None:
    world.router.answers()
    body = (
        b'{ "model": "tallygate/fast", "messages": [{"role":"user","content":"\\u00e9"}], "new_parameter": {"a": 1} }'
    )
    await world.post(body)
    (sent,) = world.router.requests
    assert sent.openai_body == body
    assert (sent.requested_model, sent.model) == ("tallygate/fast", "gpt-4o-mini")
    assert (sent.principal.org_id, sent.principal.key_id) == ("org_1", "key_1")
    assert sent.endpoint == "chat/completions"
    assert not sent.stream
    assert sent.cache_ticket.key == b"k" * 32
    (asked,) = world.cache.lookups
    assert asked.openai_body == body
    assert (asked.model, asked.policy_epoch) == ("gpt-4o-mini", "epoch1")


async def test_a_stream_is_framed_as_openai_frames_it(world: Any) -> None:
    world.router.streams()
    response = await world.chat(stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.content == (
        b'data: {"choices":[{"delta":{"content":"h"}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":"i"}}]}\n\n'
        b"data: [DONE]\n\n"
    )
    assert response.headers["x-served-mode"] == "fresh"
    assert response.headers["x-generation-id"].startswith("gen_")
    assert "x-receipt-id" not in response.headers


async def test_several_payloads_of_one_read_and_line_breaks_in_them_stay_whole_events(world: Any) -> None:
    router = world.router
    router.script = [router.route(), router.chunk(b'{"a":1}', b'{"b":\r\n2}'), router.final()]
    response = await world.chat(stream=True)
    assert response.text == 'data: {"a":1}\n\ndata: {"b":  2}\n\ndata: [DONE]\n\n'


async def test_usage_is_sent_if_asked_for_with_what_it_cost(world: Any) -> None:
    world.router.streams()
    response = await world.chat(stream=True, stream_options={"include_usage": True})
    *_, last, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunk = orjson.loads(last.removeprefix("data: "))
    assert chunk["usage"] == {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
    assert chunk["tallygate"] == {
        "receipt_id": "rcpt_fresh",
        "cost_usd": "0.000005355",
        "served_mode": "fresh",
        "generation_id": response.headers["x-generation-id"],
        "trace_id": response.headers["x-trace-id"],
    }


async def test_usage_is_not_sent_unasked(world: Any) -> None:
    world.router.streams()
    for options in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False}}):
        assert "usage" not in (await world.chat(stream=True, **options)).text


async def test_a_source_without_a_usage_chunk_is_made_good_for(world: Any) -> None:
    world.router.streams(usage_chunk=b"")
    response = await world.chat(stream=True, stream_options={"include_usage": True})
    chunk = orjson.loads(response.text.split("\n\n")[-3].removeprefix("data: "))
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["choices"] == []
    assert chunk["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 6,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    assert chunk["tallygate"]["receipt_id"] == "rcpt_fresh"


async def test_the_same_routes_answer_under_both_prefixes(world: Any) -> None:
    world.router.answers()
    body: JSON = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    for path in ("/v1/chat/completions", "/api/v1/chat/completions"):
        assert (await world.client.post(path, json=body)).status_code == 200


async def test_content_type_is_not_insisted_on(world: Any) -> None:
    world.router.answers()
    assert (await world.chat(headers={"content-type": "text/plain"})).status_code == 200
