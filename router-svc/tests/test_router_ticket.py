"""The ticket of the cache goes through the router whole: what the cache writes into it is the cache's alone."""

from __future__ import annotations

from router_svc.servicer import _call
from tallygate.cache.v1 import cache_pb2
from tallygate.router.v1 import router_pb2


def test_every_field_of_a_ticket_survives() -> None:
    ticket = cache_pb2.Ticket(key=b"k" * 32, endpoint="chat/completions", up_to=cache_pb2.REPLAY_TIER_CANONICAL)
    ticket.MergeFromString(b"\xfa\x3f\x03new")  # a field that this build does not know
    kept = _call(router_pb2.CompleteRequest(cache_ticket=ticket)).cache_ticket
    assert kept is not None
    assert cache_pb2.Ticket.FromString(kept.whole).SerializeToString() == ticket.SerializeToString()
