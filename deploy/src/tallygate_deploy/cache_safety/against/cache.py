"""An endpoint's cache under judgement."""

from __future__ import annotations

from dataclasses import dataclass, field

from tallygate_deploy.cache_safety.against.endpoint import Endpoint, EndpointError, NoAnswer
from tallygate_deploy.cache_safety.against.evidence import CREATED_APART_S, Reply, replay_signs
from tallygate_deploy.cache_safety.generate.requests import asked, body_of
from tallygate_deploy.cache_safety.items import Family, Group, Item, Label
from tallygate_deploy.cache_safety.judging import Fresh, NotJudged, Replay

_PROBES = (
    "Which of the planets has the shortest day, and how was that found out?",
    "Write two lines for a birthday card to a friend who keeps bees.",
)
"""Two requests that nobody would answer alike."""


@dataclass(slots=True)
class _Seen:
    """Answers that were given afresh, and the requests that they were given to."""

    by_content: dict[str, set[str]] = field(default_factory=dict)
    by_id: dict[str, set[str]] = field(default_factory=dict)

    def add(self, reply: Reply, *meanings: str) -> None:
        self.by_content.setdefault(reply.content, set()).update(meanings)
        if reply.id:
            self.by_id.setdefault(reply.id, set()).update(meanings)

    def owners(self, reply: Reply) -> set[str]:
        return self.by_content.get(reply.content, set()) | self.by_id.get(reply.id, set())


class EndpointCache:
    """Asked as any client asks, and judged by what it answers. Call ``calibrate`` first."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._kept: dict[str, Reply] = {}
        self._seen = _Seen()
        self._misleading: set[str] = set()

    async def calibrate(self) -> list[str]:
        """Asks what was never asked, to learn which signs of a replay say nothing here. Returns what to tell a reader.

        Raises:
            EndpointError: it does not answer.
        """
        try:
            first, second = [await self._endpoint.ask(asked(body_of(text)), f"probe-{text[:5]}") for text in _PROBES]
        except NoAnswer as refused:
            raise EndpointError(f"the endpoint does not answer a plain request: {refused}") from refused
        # What the headers say of the second proves nothing: a cache may take anything for anything.
        self._misleading = set(replay_signs(None, first, content_differs=True))
        if first.id and first.id == second.id:
            self._misleading.add("same id")
        if 0 < first.created_s == second.created_s < second.sent_at_s - CREATED_APART_S:
            self._misleading.add("same created and content")  # its clock stands still
        if first.content == second.content:
            self._misleading |= {"same content", "same created and content"}
        return [f"{sign!r} is no sign here: it stands on answers that can't be replays" for sign in self._misleading]

    async def keep(self, group: Group) -> str:
        """Asks the old request, which is to be answered afresh."""
        lacking = self._endpoint.why_not(group.old)
        if lacking:
            return lacking
        try:
            reply = await self._endpoint.ask(group.old, group.name)
        except NoAnswer as refused:
            return str(refused)
        if self._signs(None, reply, content_differs=False) and group.old.digest() not in self._seen.owners(reply):
            return "their old request was answered by a replay; is the cache empty, or does it take any for any?"
        self._kept[group.name] = reply
        self._seen.add(reply, group.old.digest())
        return ""

    async def ask(self, group: Group, item: Item) -> Fresh | Replay | NotJudged:
        """Asks the new request."""
        lacking = self._endpoint.why_not(item.old, item.new)
        if lacking:
            return NotJudged(lacking)
        try:
            reply = await self._endpoint.ask(item.new, group.name, as_other=item.new.tenant != item.old.tenant)
        except NoAnswer as refused:
            return NotJudged(str(refused))
        signs = self._signs(self._kept[group.name], reply, content_differs=_content_differs(item))
        if not signs:
            # A rephrasing means what the old one means, so its answer is as good for the next rephrasing.
            meanings = [item.new.digest()] if item.label is Label.TRAP else [item.new.digest(), item.old.digest()]
            self._seen.add(reply, *meanings)
            return Fresh()
        return self._attributed(item, reply, signs[0])

    def _attributed(self, item: Item, reply: Reply, sign: str) -> Replay | NotJudged:
        """A replay is right where the answer was first given to a request of the same meaning."""
        owners = self._seen.owners(reply)
        wanted = {item.new.digest()} if item.label is Label.TRAP else {item.new.digest(), item.old.digest()}
        if item.new.digest() == item.old.digest() and item.label is Label.TRAP:
            return Replay(right=False, evidence=sign)  # the same request, whose answer has changed since
        if not owners and item.label is Label.REUSABLE:
            return NotJudged("a replay of an answer that was not given in this run")
        return Replay(right=bool(owners & wanted), evidence=sign)

    def _signs(self, old: Reply | None, new: Reply, *, content_differs: bool) -> list[str]:
        signs = [*replay_signs(old, new, content_differs=content_differs)]
        if new.id in self._seen.by_id:  # of any other answer
            signs.append("same id")
        return [sign for sign in signs if sign not in self._misleading]


def _content_differs(item: Item) -> bool:
    """Something else is asked, so a fresh answer would be another text. The same question with another seed, or from
    somebody else, may well be answered alike.
    """
    return item.family is Family.MEANING and item.category != "freshness"
