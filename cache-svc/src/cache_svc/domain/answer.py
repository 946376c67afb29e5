"""Which answers are kept: complete ones, that survive being replayed as a body and as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from cache_svc.domain import canonical
from cache_svc.domain.unfold import unfold
from meshkit.answers.fold import fold
from meshkit.answers.joining import NotFoldable
from meshkit.answers.reading import read_stream
from meshkit.answers.shape import BODY_OBJECT, Json

FINISHED = frozenset(
    {"stop", "length", "tool_calls", "function_call", "stop_sequence", "end_turn", "eos", "eos_token", "model_length"}
)
"""Finish reasons of a complete answer. A list of what is let in: sources invent reasons for what broke, such as
DeepSeek's `insufficient_system_resource`, OpenRouter's `error`, and `content_filter`."""

_SPOKEN = ("content", "refusal", "tool_calls", "function_call", "audio", "images", "reasoning", "reasoning_content")


_LOOKED_UP = ("citations", "search_results")
"""Fields of answers of models that search by themselves, which no field of the request tells (Perplexity, Groq's
compound, OpenAI's search previews)."""


class NotStorable(Exception):
    """The answer is not kept; the text says why."""


def read_body(raw: bytes) -> Json:
    """The answer that came as one body.

    Raises:
        NotStorable: it is not complete, or would not survive a replay.
    """
    return _checked(_parse(raw))


def read_chunks(payloads: Sequence[bytes]) -> Json:
    """The answer that came as a stream, the usage chunk among the payloads.

    Raises:
        NotStorable: the stream is broken, not complete, or would not survive a replay.
    """
    try:
        body = fold(read_stream(payloads, _parse))
    except NotFoldable as error:
        raise NotStorable(str(error)) from error
    return _checked(body)


def check_choices(body: Json, request: Json) -> None:
    """Passes an answer with as many choices as its request asked for.

    Raises:
        NotStorable: it has more or fewer. A source that breaks off before a choice began leaves no trace of it.
    """
    asked = 1 if request.get("n") is None else request["n"]
    if len(body["choices"]) != asked:
        raise NotStorable(f"{asked!r} choices were asked for, the answer has {len(body['choices'])}")


_RENEWED = frozenset({"id", "created"})
_BEFORE_REST = b'{"id":"","created":0,'


def stored_form(body: Json) -> bytes:
    """``body`` as it is stored: JSON that begins with a blank id and time, where a replay writes its own without
    reading the rest."""
    return orjson.dumps(
        {"id": "", "created": 0, **{name: value for name, value in body.items() if name not in _RENEWED}}
    )


def render_body(answer: bytes, *, completion_id: str, created_s: int) -> bytes:
    """The stored answer under a new id and time."""
    if not answer.startswith(_BEFORE_REST):  # stored by a build that did not write it so
        return orjson.dumps(_renewed(answer, completion_id, created_s))
    opening = b'{"id":%b,"created":%d,' % (orjson.dumps(completion_id), created_s)
    return opening + memoryview(answer)[len(_BEFORE_REST) :]


def render_chunks(answer: bytes, *, completion_id: str, created_s: int) -> tuple[list[bytes], bytes]:
    """The stored answer as the payloads of a stream under a new id and time, and its usage chunk."""
    chunks, usage_chunk = unfold(_renewed(answer, completion_id, created_s))
    return [orjson.dumps(chunk) for chunk in chunks], orjson.dumps(usage_chunk)


def renew_payload(payload: bytes, *, completion_id: str, created_s: int) -> bytes:
    """One payload of a stream under a new id and time, all else as it was said. What is no JSON object passes."""
    try:
        chunk = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload
    if not isinstance(chunk, dict):
        return payload
    chunk["id"], chunk["created"] = completion_id, created_s
    return orjson.dumps(chunk)


def _renewed(answer: bytes, completion_id: str, created_s: int) -> Json:
    body: Json = orjson.loads(answer)
    body["id"] = completion_id
    body["created"] = created_s
    return body


def _parse(raw: bytes) -> Json:
    try:
        return canonical.parse_object(raw)
    except canonical.NotCanonical as error:
        raise NotStorable(f"the answer is not JSON with one reading: {error}") from error


def _checked(body: Json) -> Json:
    if body.get("error") is not None:
        raise NotStorable("the answer is an error")
    if body.get("object") != BODY_OBJECT:
        raise NotStorable(f"the answer is a {body.get('object')!r}, not a {BODY_OBJECT!r}")
    _check_usage(body.get("usage"))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise NotStorable("the answer has no choices")
    for index, choice in enumerate(choices):
        _check_choice(index, choice)
    if not any(choice["message"].get(name) for choice in choices for name in _SPOKEN):
        raise NotStorable("the answer is blank")
    if any(body.get(name) for name in _LOOKED_UP) or any(_looked_up(choice["message"]) for choice in choices):
        raise NotStorable("the source looked things up for the answer")
    chunks, usage_chunk = unfold(body)
    try:
        replayed = fold([*chunks, usage_chunk])
    except NotFoldable as error:
        raise NotStorable(f"the answer can't be replayed as a stream: {error}") from error
    if canonical.dump(replayed) != canonical.dump(body):
        raise NotStorable("the answer can't be replayed as a stream")
    return body


def _check_usage(usage: Any) -> None:
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    if not counts or not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        raise NotStorable("the answer does not say what it used")


def _check_choice(index: int, choice: Any) -> None:
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict) or choice.get("index") != index:
        raise NotStorable(f"choice {index} of the answer is not a choice, or out of order")
    reason = choice.get("finish_reason")
    if reason not in FINISHED:
        raise NotStorable(f"choice {index} of the answer finished with {reason!r}")
    calls = choice["message"].get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise NotStorable(f"choice {index} of the answer has tool calls that are not a list of objects")
    if _is_filtered(choice.get("content_filter_results")):
        raise NotStorable(f"choice {index} of the answer was filtered")


def _looked_up(message: Json) -> bool:
    annotations = message.get("annotations")
    cited = annotations if isinstance(annotations, list) else ()
    return bool(message.get("executed_tools")) or any(
        isinstance(annotation, dict) and annotation.get("type") == "url_citation" for annotation in cited
    )


def _is_filtered(results: Any) -> bool:
    """Azure OpenAI: {category: {filtered: bool, ...}}."""
    if not isinstance(results, dict):
        return False
    return any(isinstance(result, dict) and result.get("filtered") is True for result in results.values())
