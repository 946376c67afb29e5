"""One stored answer as the stream that folds to it.

For each choice: a delta with the role and all that is not text, then one delta each for reasoning, content, refusal and
every tool call, then the finish. One delta for a whole field: a replay has no pace of its own, and every client
concatenates. The law, which `Store` checks for each answer before it keeps it: ``fold([*chunks, usage_chunk]) ==
body``, every field.
"""

from __future__ import annotations

from meshkit.answers.shape import CHUNK_OBJECT, REPEATED_FIELDS, Json

TEXT_FIELDS = ("reasoning", "reasoning_content", "reasoning_details", "content", "refusal")
"""Fields of a message that get a delta of their own, in the order in which sources send them."""


def unfold(body: Json) -> tuple[list[Json], Json]:
    """The chunks of the stream, and its usage chunk.

    ``body`` is one that ``storable`` accepted; another may raise KeyError, TypeError or AttributeError.
    """
    repeated = {"object": CHUNK_OBJECT, **{name: body[name] for name in REPEATED_FIELDS if name in body}}
    rest = {name: value for name, value in body.items() if name not in _PLACED_FIELDS}
    choices = [choice for whole in body["choices"] for choice in _choice_deltas(whole)]
    chunks = [{**repeated, "choices": [choice]} for choice in choices]
    chunks[0] = {**repeated, **rest, "choices": [choices[0]]}
    return chunks, {**repeated, "choices": [], "usage": body["usage"]}


_PLACED_FIELDS = frozenset({"object", "choices", "usage", *REPEATED_FIELDS})


def _choice_deltas(choice: Json) -> list[Json]:
    message: Json = choice["message"]
    logprobs = {"logprobs": choice["logprobs"]} if "logprobs" in choice else {}
    rest = {name: value for name, value in choice.items() if name not in _PLACED_IN_CHOICE}
    texts = [name for name in TEXT_FIELDS if message.get(name) is not None]
    calls = message.get("tool_calls") or []
    opening = {
        name: value for name, value in message.items() if name not in texts and not (name == "tool_calls" and calls)
    }
    deltas: list[Json] = [{"index": choice["index"], "delta": opening, **rest, "finish_reason": None}]
    deltas += [{"index": choice["index"], "delta": {name: message[name]}, "finish_reason": None} for name in texts]
    for position, call in enumerate(calls):
        delta = {"tool_calls": _call_deltas(position, call)}
        deltas.append({"index": choice["index"], "delta": delta, "finish_reason": None})
    deltas.append({"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]})
    # With the content, which the tokens are of; an answer without any has them with its opening.
    spoken = 1 + texts.index("content") if "content" in texts else 0
    deltas[spoken] = {**deltas[spoken], **logprobs}
    return deltas


_PLACED_IN_CHOICE = frozenset({"index", "message", "finish_reason", "logprobs"})


def _call_deltas(position: int, call: Json) -> list[Json]:
    """In a stream each call has an `index`; a call that has one outside streams too (Mistral, DeepSeek) says so by a
    second delta with nothing else in it, which changes nothing for a client that concatenates.
    """
    if call.get("index") == position:
        return [{**call, "index": position}, {"index": position}]
    return [{"index": position, **call}]
