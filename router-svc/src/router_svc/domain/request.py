"""A chat completion request, read once for what planning needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from router_svc.domain.errors import InvalidRequest
from router_svc.domain.images import Image, read_image
from router_svc.domain.unpriced import unpriced_in

MAX_CHOICES = 128
TEMPLATE_TOKENS = 1_024
"""What a source may add to a prompt beyond the bytes of its JSON: its chat template, a preamble of its own."""
TOOLS_TEMPLATE_TOKENS = 1_024
"""The same for a request with tools: Anthropic's system prompt for them alone is 300 to 530 tokens."""
_OTHER_LIMITS = ("n_predict", "max_new_tokens", "num_predict", "max_output_tokens", "max_length", "max_gen_len")
_READ_FIELDS = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "n", "best_of", "max_tokens", "max_completion_tokens"),
        *("tools", "functions", "response_format", "prediction", "service_tier", "modalities", "provider"),
        *_OTHER_LIMITS,
    }
)
_TEXT_PARTS = frozenset({"text", "refusal"})


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request needs of a model."""

    tools: bool = False
    vision: bool = False
    json_object: bool = False
    json_schema: bool = False


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request, read.

    ``text_bound_tokens``: no tokenizer makes more of the prompt without its ``images``; None where only the model's
    context bounds it (files, audio). ``answer_bound_tokens``: what the client asked for at most, for one choice; None:
    nothing. ``choices``: answers asked for. ``unpriced``: what the request asks for that sources bill apart from text
    tokens, at prices that no offer states; such a request is refused, never served below its price.
    ``limits_otherwise``: it sets the limit of the answer by a name that only some sources obey, so only the context
    bounds it.
    """

    body: bytes
    fields: Mapping[str, Any]
    needs: Needs
    text_bound_tokens: int | None
    answer_bound_tokens: int | None
    choices: int
    unpriced: tuple[str, ...] = ()
    limits_otherwise: bool = False
    images: tuple[Image, ...] = ()

    def least_prompt_tokens(self) -> int:
        """Fewer tokens than any tokenizer makes of the prompt's words: ten bytes of words a token."""
        return sum(len(word) for text in prompt_texts(self.fields) for word in text.split()) // 10


def read_chat_request(body: bytes) -> ChatRequest:
    """Parse the body once.

    Raises:
        InvalidRequest: not a JSON object, or a field that the router reads is not of its type.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object")
    _refuse_lookalikes(fields)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list with at least one message", "messages")
    parts = list(content_parts(messages))
    format_type = _format_type(fields.get("response_format"))
    return ChatRequest(
        body=body,
        fields=fields,
        needs=Needs(
            tools=bool(fields.get("tools") or fields.get("functions")),
            vision=any(part.get("type") == "image_url" for part in parts),
            json_object=format_type == "json_object",
            json_schema=format_type == "json_schema",
        ),
        text_bound_tokens=_text_bound_tokens(fields, len(body), parts),
        answer_bound_tokens=_answer_bound_tokens(fields, len(body)),
        choices=max(_choices("n", fields.get("n")), _choices("best_of", fields.get("best_of"))),
        unpriced=tuple(unpriced_in(fields, parts)),
        limits_otherwise=any(fields.get(name) is not None for name in _OTHER_LIMITS),
        images=tuple(read_image(part, measure=False) for part in parts if part.get("type") == "image_url"),
    )


def prompt_texts(fields: Mapping[str, Any]) -> Iterator[str]:
    """Every text of the request that becomes prompt tokens: messages, their tool calls, tools, the answer's schema."""
    for message in fields.get("messages") or ():
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        if isinstance(content, str):
            yield content
        if message.get("tool_calls"):
            yield orjson.dumps(message["tool_calls"]).decode()
    for part in content_parts(fields.get("messages") or []):
        if isinstance(part.get("text"), str):
            yield part["text"]
    for name in ("tools", "functions", "response_format"):
        if fields.get(name):
            yield orjson.dumps(fields[name]).decode()


def content_parts(messages: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The parts of all messages whose content is in parts."""
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))


def _format_type(response_format: Any) -> str:
    return str(response_format.get("type", "")) if isinstance(response_format, dict) else ""


def _text_bound_tokens(fields: Mapping[str, Any], body_bytes: int, parts: list[dict[str, Any]]) -> int | None:
    bound = body_bytes + TEMPLATE_TOKENS
    if fields.get("tools") or fields.get("functions"):
        bound += TOOLS_TEMPLATE_TOKENS
    for part in parts:
        kind = part.get("type")
        if kind == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if isinstance(url, str) and url.startswith("data:"):
                bound -= len(url)  # it is a picture, not text; the plan adds what a picture counts as at the offer
        elif not isinstance(kind, str) or kind not in _TEXT_PARTS:
            return None
    return bound


def _answer_bound_tokens(fields: Mapping[str, Any], body_bytes: int) -> int | None:
    asked: int | None = None
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidRequest(f"{name} must be an integer of at least 1", name)
        asked = max(asked or 0, value)
    if asked is not None and fields.get("prediction") is not None:
        asked += body_bytes  # rejected tokens of a prediction are billed as answer tokens
    return asked


def _choices(name: str, value: Any) -> int:
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_CHOICES:
        raise InvalidRequest(f"{name} must be an integer from 1 to {MAX_CHOICES}", name)
    return value


def _refuse_lookalikes(fields: Mapping[str, Any]) -> None:
    """A source that reads names without regard to case would obey a field that we did not read."""
    for name in fields:
        if name not in _READ_FIELDS and name.casefold() in _READ_FIELDS:
            raise InvalidRequest(f"unknown field {name!r}: did you mean {name.casefold()!r}?", name)
