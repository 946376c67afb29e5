"""What is counted of the cache, for each organisation's projects and models."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from cache_svc.domain.request import Group

MAX_GROUPS = 10_000
"""Groups whose lookups are counted. Past it those that were looked up longest ago are forgotten."""


@dataclass(slots=True)
class Tally:
    """Lookups and stores since the process began."""

    hits: int = 0
    misses: int = 0
    stores: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """Entries held now, their bytes, and how many were dropped to stay within the bound."""

    entries: int = 0
    held_bytes: int = 0
    evictions: int = 0


class Tallies:
    """One tally for each group, bounded in number."""

    def __init__(self, *, max_groups: int = MAX_GROUPS) -> None:
        self._max_groups = max_groups
        self._tallies: OrderedDict[Group, Tally] = OrderedDict()

    def of(self, group: Group) -> Tally:
        """The tally to count in."""
        tally = self._tallies.get(group)
        if tally is None:
            tally = self._tallies[group] = Tally()
            if len(self._tallies) > self._max_groups:
                self._tallies.popitem(last=False)
        else:
            self._tallies.move_to_end(group)
        return tally

    def of_organization(self, org_id: str) -> dict[Group, Tally]:
        """Those of one organisation."""
        return {group: tally for group, tally in self._tallies.items() if group.org_id == org_id}
