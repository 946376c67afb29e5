"""The prompts that are mutated: questions and orders as people send them, each filled in several ways."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tallygate_deploy.cache_safety.generate.vocabulary import KINDS

FILLINGS = 2
"""How often each template is filled."""

TEMPLATES = (
    "Which night trains go from {city} to {city} on a {weekday}?",
    "Plan a bike tour of {amount} km from {city} to {city}.",
    "What is the best month to visit {country} with small children?",
    "Is it legal to work in {country} with a student visa for {small} months?",
    "What are the advantages of moving from {city} to {city} after retirement?",
    "List {small} museums in {city} that are open on {weekday}.",
    "How much does a flat in {city} cost per month, in euros?",
    "Convert {amount} km to miles and explain the steps.",
    "Convert {amount} °C and show the formula.",
    "Convert {amount} USD into the currency of {country}.",
    "How many seconds are there in {amount} hours?",
    "What is {amount} divided by {small}, to {small} decimal places?",
    "What does {amount} kg of {metal} cost in USD?",
    "How much does {amount} ml of water weigh at {small} °C?",
    "Is it possible to take {drug} before {drug}?",
    "How many mg of {drug} are safe for adults in {small} hours?",
    "Which foods should I eat while I take {drug} for {small} days?",
    "What happens to a patient who takes more {drug} than {drug}?",
    "Does {drug} increase the effect of {drug}?",
    "How do I enable two-factor login for all users of {company}?",
    "How do I lock my {company} account until {weekday}?",
    "How do I subscribe to the {company} newsletter on mobile?",
    "Write an email to {person} that we accept the offer of {company} from {month} {small}.",
    "Write a letter from {person} to {person} about the meeting on {weekday} at {small} pm.",
    "Was {person} paid more than {person} at {company} in {year}?",
    "What did {company} say about {company} in {month} {year}?",
    "Summarise the first paragraph of the {company} report of {year} in {small} sentences.",
    "What is included in the free plan of {company} per user?",
    "How much did the revenue of {company} increase in {year}, in percent?",
    "Draft a contract in which {company} supplies {company}, and which must be signed before {month} {small}.",
    "Translate the menu for {person} into English, with prices in euros.",
    "Book a table for {small} people on {weekday} before {small} pm.",
    "Remind {person} {small} days before the invoice of {month} {small} is due.",
    "How do I import a dump of {amount} MB into {software}?",
    "How do I move rows from {software} to {software} in production?",
    "Is {software} better than {software} for {amount} writes per second?",
    "Which port does {software} listen on, and should it be open in production?",
    "How do I increase the memory of {software} to {amount} MB?",
    "Does {software} allow more than {amount} connections per user?",
    "List the {small} most important settings of {software} for beginners.",
    "How do I upgrade {software} without downtime, and what must be done before?",
    "Sort a list of {amount} numbers in ascending order in {language}.",
    "Write a {language} function that keeps the {small} oldest files.",
    "Rewrite the script from {language} to {language} and keep the comments.",
    "What does `{function}()` return when `{variable}` is {small}?",
    "Rename `{function}` everywhere in this repository and keep `{function}` as it is.",
    "Why does {function} raise an error after {variable} has reached {amount}?",
    "Add a parameter {variable} to {function} with the default {amount}.",
    "Write a test in {language} that {function} must accept a {variable} above {amount}.",
    "Explain how {function} uses {variable} before it calls {function}.",
    "Delete every row where {variable} is higher than {amount} in {software}.",
    "Encrypt the file with {function} and encrypt the backup before {weekday}.",
    "What is the melting point of {metal} in °C?",
    "Does {metal} conduct heat better than {metal} at {amount} °C?",
    "How thick must a sheet of {metal} be to carry {amount} kg per meters of width?",
    "Is {metal} required in a household of {small} people?",
    "How much power, in mW, does a sensor made of {metal} need for {amount} hours?",
    "Who won the election in {country} in {year}, and by how many percent?",
    "What was the population of {country} before {year}?",
    "Are citizens of {country} allowed to stay in {country} for {small} months?",
    "Which taxes must a company pay in {country} per year?",
    "What is the voting age in {country}, and does it include residents?",
    "Plan a week for one person in {city}, with at most {amount} euros per day.",
    "How many days before {month} {small} must I cancel my booking in {city}?",
)

_SLOT = re.compile(r"\{([a-z]+)\}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to ask. ``name`` is unlike any other's."""

    name: str
    text: str


def prompts(fillings: int = FILLINGS) -> Iterator[Prompt]:
    """Each template, filled with other words each time; always the same ones."""
    for number, template in enumerate(TEMPLATES):
        for filling in range(fillings):
            yield Prompt(f"{number:02}-{filling}", _filled(template, number, filling))


def _filled(template: str, number: int, filling: int) -> str:
    used: dict[str, int] = {}

    def word(slot: re.Match[str]) -> str:
        kind = slot[1]
        words = KINDS[kind]
        # Two of a kind in one prompt differ: each next one is the neighbour of the last.
        index = (number * 3 + filling * 2 + used.get(kind, 0)) % len(words)
        used[kind] = used.get(kind, 0) + 1
        return words[index]

    return _SLOT.sub(word, template)
