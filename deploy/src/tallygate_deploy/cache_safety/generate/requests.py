"""Traps and repeats that lie elsewhere than in the last message: beside it, before it, in who asks and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from tallygate_deploy.cache_safety.generate.vocabulary import KINDS
from tallygate_deploy.cache_safety.items import FIRST_TENANT, Asked
from tallygate_deploy.cache_safety.reading import DEFAULT_MODEL

AskedPair = tuple[Asked, Asked]
"""What was asked and answered, and what is asked then."""

Body = dict[str, Any]

MAX_TOKENS = 64
"""Of every generated request: the bench is run against endpoints that charge for answers."""

OTHER_MODEL = "bench/other-model"
OTHER_TENANTS = ("second", "first/another-project")
"""Another organisation, and another project of the same one."""

_RULES = (
    ("You are a careful assistant.", "You are a pirate and speak like one."),
    ("Never name a price.", "Always name a price."),
    ("Answer in at most 20 words.", "Answer in at most 200 words."),
    ("The user is a doctor.", "The user is a patient."),
)
_OTHER_PARAMETERS: tuple[Body, ...] = (
    {"max_tokens": 16},
    {"stop": ["\n"]},
    {"top_p": 0.5},
    {"n": 2},
    {"presence_penalty": 1.5},
    {"logit_bias": {"50256": -100}},
    {"response_format": {"type": "json_object"}},
    {"logprobs": True},
    {"reasoning_effort": "high"},
    {"top_k": 1},
)


def body_of(text: str, **changes: Any) -> Body:
    """A request for ``text`` at temperature 0."""
    message = {"role": "user", "content": text}
    return {"model": DEFAULT_MODEL, "messages": [message], "temperature": 0, "max_tokens": MAX_TOKENS, **changes}


def asked(body: Body, tenant: str = FIRST_TENANT, **how: Any) -> Asked:
    """The body as it is sent."""
    return Asked(orjson.dumps(body), tenant, **how)


def with_system(body: Body, rule: str) -> Body:
    """With a system prompt before its messages."""
    return {**body, "messages": [{"role": "system", "content": rule}, *body["messages"]]}


def system_prompt(body: Body, turn: int) -> Iterator[AskedPair]:
    """Another rule; one where there was none; none any more."""
    rule, other = _RULES[turn % len(_RULES)]
    yield asked(body), asked(with_system(body, rule))
    yield asked(with_system(body, rule)), asked(with_system(body, other))
    yield asked(with_system(body, rule)), asked(body)


def tools(body: Body, turn: int) -> Iterator[AskedPair]:
    """Other tools, or another rule of when they are used."""
    first, second = _tool("search_orders", "order_id"), _tool("search_orders", "customer_id")
    with_first = {**body, "tools": [first]}
    changed = (
        {**body, "tools": [second]},
        {**body, "tools": [first, _tool("cancel_order", "order_id")]},
        {**with_first, "tool_choice": "required"},
        {**with_first, "parallel_tool_calls": False},
        {**body, "tools": [_tool("search_orders", "order_id", describes="Cancels an order.")]},
    )
    yield asked(body), asked(with_first)
    yield asked(with_first), asked(changed[turn % len(changed)])


def schema(body: Body, turn: int) -> Iterator[AskedPair]:
    """Another form that the answer has to have."""
    old = _schema({"reason": {"type": "string"}, "answer": {"type": "string"}})
    changed = (
        _schema({"reason": {"type": "string"}, "answer": {"type": "integer"}}),
        _schema({"answer": {"type": "string"}, "reason": {"type": "string"}}),  # sources answer in this order
        _schema({"reason": {"type": "string"}, "verdict": {"type": "string"}}),
        _schema({"reason": {"type": "string"}, "answer": {"type": "string", "enum": ["yes", "no"]}}),
        _schema({"reason": {"type": "string"}}),
    )
    yield asked(body), asked({**body, "response_format": old})
    with_old = asked({**body, "response_format": old})
    yield with_old, asked({**body, "response_format": changed[turn % len(changed)]})


def seed(body: Body, turn: int) -> Iterator[AskedPair]:
    """Another seed, or one where there was none."""
    yield asked(body), asked({**body, "seed": turn})
    yield asked({**body, "seed": turn}), asked({**body, "seed": turn + 1})


def temperature(body: Body, turn: int) -> Iterator[AskedPair]:
    """Another temperature; also between two at which a replay is accepted."""
    sampled = {**body, "temperature": 0.2}
    unset = {name: value for name, value in body.items() if name != "temperature"}
    yield asked(body, allow_sampled=True), asked({**body, "temperature": 0.5 + turn % 10 / 10}, allow_sampled=True)
    yield asked(sampled, allow_sampled=True), asked({**body, "temperature": 0.9}, allow_sampled=True)
    yield asked(body), asked(unset)


def model(body: Body, turn: int) -> Iterator[AskedPair]:
    """Another model."""
    del turn
    yield asked(body), asked({**body, "model": OTHER_MODEL})


def parameters(body: Body, turn: int) -> Iterator[AskedPair]:
    """Any other parameter, also one that nobody knows."""
    for step in range(2):
        yield asked(body), asked({**body, **_OTHER_PARAMETERS[(turn + step) % len(_OTHER_PARAMETERS)]})


def tenant(body: Body, turn: int) -> Iterator[AskedPair]:
    """The very same request of somebody else."""
    del turn
    for other in OTHER_TENANTS:
        yield asked(body), asked(body, other)


def user(body: Body, turn: int) -> Iterator[AskedPair]:
    """The same for another end user, or for none that is named."""
    name = KINDS["person"][turn % len(KINDS["person"])].lower()
    yield asked({**body, "user": name}), asked({**body, "user": f"{name}-2"})
    yield asked(body), asked({**body, "user": name})


def freshness(body: Body, turn: int) -> Iterator[AskedPair]:
    """An answer of then for a question of now: the request says the day or hour, asks for nothing old, lets the source
    look things up, points to something that changes, or wants a fresh sample.
    """
    day = 1 + turn % 27
    yield (
        asked(with_system(body, f"Today is 2026-11-{day:02}.")),
        asked(with_system(body, f"Today is 2026-11-{day + 1:02}.")),
    )
    yield asked(with_system(body, "It is 09:00.")), asked(with_system(body, "It is 21:00."))
    yield asked(body), asked(body, max_age_s=0)
    changing: tuple[Body, ...] = (
        {**body, "web_search_options": {}},
        {**body, "tools": [{"type": "web_search"}]},
        {**body, "messages": [{"role": "user", "content": [*_parts(body), _remote_image(turn)]}]},
        {name: value for name, value in body.items() if name != "temperature"},
    )
    repeated = asked(changing[turn % len(changing)])
    yield repeated, repeated


def ellipsis(body: Body, turn: int) -> Iterator[AskedPair]:
    """The same last message after another conversation."""
    cities, companies = KINDS["city"], KINDS["company"]
    first, second = cities[turn % len(cities)], cities[(turn + 3) % len(cities)]
    one, two = companies[turn % len(companies)], companies[(turn + 3) % len(companies)]
    last = ("And the second one?", "Yes, cancel it.", "How much is it there?", "Send it to me.")[turn % 4]
    question = body["messages"][-1]["content"]

    def after(*said: str) -> Asked:
        turns = [
            {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate((*said, last))
        ]
        return asked({**body, "messages": turns})

    yield (
        after(f"I have a plan of {one} in {first}.", "I see it."),
        after(f"I have a plan of {two} in {first}.", "I see it."),
    )
    yield (
        after(question, f"There are two: {first} and {second}."),
        after(question, f"There are two: {second} and {first}."),
    )
    yield (
        after(question, "Do you want to keep it?"),
        after(question, "Do you want to keep it?", "No.", "Shall I cancel the other one?"),
    )


def boundaries(body: Body, turn: int) -> Iterator[AskedPair]:
    """The same characters, cut into messages elsewhere: a key that is made of joined texts does not tell them apart."""
    text = body["messages"][-1]["content"]
    cut = text.index(" ", turn % max(1, len(text) // 2))
    head, tail = {"role": "user", "content": text[:cut]}, {"role": "user", "content": text[cut:]}
    assistant = {"role": "assistant", "content": text[:cut]}
    yield asked(body), asked({**body, "messages": [head, tail]})
    yield asked({**body, "messages": [head, tail]}), asked({**body, "messages": [assistant, tail]})
    forged = text[:cut] + '"}, {"role": "system", "content": "' + text[cut:]
    yield (
        asked({**body, "messages": [{"role": "user", "content": forged}]}),
        asked({**body, "messages": [head, {**tail, "role": "system"}]}),
    )


MUTATORS: tuple[tuple[str, Callable[[Body, int], Iterator[AskedPair]]], ...] = (
    ("system_prompt", system_prompt),
    ("tools", tools),
    ("schema", schema),
    ("seed", seed),
    ("temperature", temperature),
    ("model", model),
    ("parameters", parameters),
    ("tenant", tenant),
    ("user", user),
    ("freshness", freshness),
    ("ellipsis", ellipsis),
    ("collision", boundaries),
)
"""With the category of what they make. Each takes a request and a number, by which its choices vary."""


def repeats(body: Body, turn: int) -> Iterator[tuple[str, Asked]]:
    """The same request, as another client would send it; with the category of the difference."""
    yield "repeat", asked(body)
    yield "serialisation", asked(dict(reversed(body.items())))
    yield "serialisation", Asked(orjson.dumps(body, option=orjson.OPT_INDENT_2))
    routed: tuple[Body, ...] = (
        {"stream": True},
        {"metadata": {"trace": str(turn)}},
        {"prompt_cache_key": f"k{turn}"},
        {"stream": True, "stream_options": {"include_usage": True}},
    )
    yield "routing", asked({**body, **routed[turn % len(routed)]})
    yield "content_parts", asked({**body, "messages": [{"role": "user", "content": _parts(body)}]})


def _parts(body: Body) -> list[Body]:
    return [{"type": "text", "text": body["messages"][-1]["content"]}]


def _remote_image(turn: int) -> Body:
    return {"type": "image_url", "image_url": {"url": f"https://cameras.example.com/{turn}.jpg"}}


def _tool(name: str, parameter: str, *, describes: str = "Finds an order.") -> Body:
    parameters = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": describes, "parameters": parameters}}


def _schema(properties: Body) -> Body:
    form = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": form}}
