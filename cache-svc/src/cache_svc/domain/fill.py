"""Single flight: of identical requests without a stored answer one calls, and the others follow it.

    nobody -> led -> ended (with an answer, or without one)
                     lapsed -> led by another

Whatever of this is lost costs a second call and nothing else: who is charged what is the ledger's, and an answer is
only ever given to the request that it is to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALONE = "-"
"""Stands where the leader's token would: nobody is to wait, as the answers to this request can't be shared."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The wish to lead, for ``lease_s`` seconds unless renewed."""

    token: str
    lease_s: float


@dataclass(frozen=True, slots=True)
class Lead:
    """The lead of one flight; see FillLead."""

    name: bytes
    token: str


def fill_name(address: bytes, epochs: Sequence[int]) -> bytes:
    """The name of the flight of a request, under the purge epochs in force: what is begun before a purge is followed by
    nobody who comes after it.
    """
    return b"|".join((address, *(b"%d" % epoch for epoch in epochs)))
