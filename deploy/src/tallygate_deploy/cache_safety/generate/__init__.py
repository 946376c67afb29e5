"""Items made by rules, always the same ones: each mutator and each rephrasing on each prompt that it takes hold of."""

from __future__ import annotations

from collections.abc import Iterator

from tallygate_deploy.cache_safety.generate import frequent, meaning, requests
from tallygate_deploy.cache_safety.generate.prompts import FILLINGS, Prompt, prompts
from tallygate_deploy.cache_safety.generate.rephrasing import REPHRASINGS
from tallygate_deploy.cache_safety.items import Asked, Item, Label, made_up_answer

_MUTATED_ONE_IN = 600


def generated_items(fillings: int = FILLINGS) -> list[Item]:
    """The items of every template, filled ``fillings`` times. No two of them ask the same after the same."""
    seen: set[tuple[str, str]] = set()
    items: list[Item] = []
    for turn, prompt in enumerate(prompts(fillings)):
        # What keeps the meaning first: where a mutator makes the very same request, it has made no trap.
        for item in (*_reusable(prompt, turn), *_traps(prompt, turn)):
            pair = (item.old.digest(), item.new.digest())
            if pair not in seen:
                seen.add(pair)
                items.append(item)
    return items


def frequent_items() -> list[Item]:
    """Those of the questions that are asked again and again."""
    items: list[Item] = []
    for question in frequent.QUESTIONS:
        old = requests.asked(requests.body_of(question.text))
        rephrasings = list(question.rephrasings())
        # A few of them with what a rule on words can see, too.
        made = [("paraphrase", Label.REUSABLE, text) for text in rephrasings]
        made += [("entity", Label.TRAP, text) for text in question.traps()]
        for text in rephrasings[::_MUTATED_ONE_IN]:
            made += [(category, Label.TRAP, new) for category, (old_text, new) in mutated(text) if old_text == text]
        for number, (category, label, text) in enumerate(made):
            name = f"{question.name}/{category}-{number}"
            items.append(_item(name, category, label, old, requests.asked(requests.body_of(text))))
    return items


def mutated(text: str) -> Iterator[tuple[str, meaning.Pair]]:
    """Every trap that the mutators of meaning make of a text, with its category."""
    for category, mutator in meaning.MUTATORS.items():
        for old, new in mutator(text):
            if new != old:
                yield category, (old, new)


def _reusable(prompt: Prompt, turn: int) -> Iterator[Item]:
    body = requests.body_of(prompt.text)
    old = requests.asked(body)
    number = 0
    for category, new in requests.repeats(body, turn):
        number += 1
        yield _item(f"{prompt.name}/{category}-{number}", category, Label.REUSABLE, old, new)
    for category, rephrase in REPHRASINGS.items():
        for text in rephrase(prompt.text):
            number += 1
            new = requests.asked(requests.body_of(text))
            yield _item(f"{prompt.name}/{category}-{number}", category, Label.REUSABLE, old, new)


def _traps(prompt: Prompt, turn: int) -> Iterator[Item]:
    number = 0
    for category, (before, after) in mutated(prompt.text):
        number += 1
        old, new = (requests.asked(requests.body_of(text)) for text in (before, after))
        yield _item(f"{prompt.name}/{category}-{number}", category, Label.TRAP, old, new)
    body = requests.body_of(prompt.text)
    for category, mutator in requests.MUTATORS:
        for old, new in mutator(body, turn):
            number += 1
            yield _item(f"{prompt.name}/{category}-{number}", category, Label.TRAP, old, new)


def _item(name: str, category: str, label: Label, old: Asked, new: Asked) -> Item:
    # Where a trap's two requests are the same bytes, the world has changed between them, and with it the answer.
    changed = f"Since then: {made_up_answer(new)}" if label is Label.TRAP else ""
    return Item(f"generated/{name}", category, label, old, made_up_answer(old), new, changed)
