"""What a history of the ledger is drawn from."""

from __future__ import annotations

from hypothesis import strategies as st
from ledger_model_caps import DAY_MS
from ledger_model_operations import (
    KEYS,
    LIMITED_TO,
    AddCredit,
    Charge,
    Correct,
    Expire,
    ExpireCredit,
    Extend,
    Operation,
    Refund,
    Release,
    Reserve,
    SetCap,
    Settle,
)

ORGS = 2
AN_ORG = st.integers(0, ORGS - 1)
REQUESTS = st.sampled_from([f"req-{n}" for n in range(8)])
A_KEY = st.sampled_from([0, 0, 0, *range(1, KEYS)])
TOKENS = st.integers(0, 6)
AMOUNTS = st.integers(0, 60_000)
HOLD_MS = st.one_of(st.integers(1, 2_000), st.just(DAY_MS))
NAMES = st.sampled_from(["one", "two", "three"])
SCOPES = st.sampled_from([("organization", 0), ("project", 0), ("key", 0), ("key", 0), ("key", 1), ("project", 1)])
PERIODS = st.sampled_from(["day", "month"])
LIMITS_USD = st.sampled_from([-1, 0, 15_000, 40_000, 80_000])
CAPS = st.one_of(
    st.builds(
        SetCap,
        org=AN_ORG,
        scope=SCOPES,
        period=PERIODS,
        unit=st.just("usd"),
        limit=LIMITS_USD,
    ),
    st.builds(
        SetCap,
        org=AN_ORG,
        scope=SCOPES,
        period=PERIODS,
        unit=st.just("tokens"),
        limit=st.sampled_from([-1, 5, 15, 30]),
    ),
)

OF_HOLDS: list[st.SearchStrategy[Operation]] = [
    st.builds(
        Reserve,
        org=AN_ORG,
        request=REQUESTS,
        key=A_KEY,
        amount=AMOUNTS,
        tokens=st.integers(0, 12),
        ttl_ms=HOLD_MS,
        model=st.sampled_from([LIMITED_TO, LIMITED_TO, LIMITED_TO, "gpt-y"]),
    ),
    st.builds(Settle, org=AN_ORG, request=REQUESTS, prompt=TOKENS, answer=TOKENS, interrupted=st.booleans()),
    st.builds(Charge, org=AN_ORG, request=REQUESTS, key=A_KEY, prompt=TOKENS, answer=TOKENS),
    st.builds(Release, org=AN_ORG, request=REQUESTS, reason=st.sampled_from(["", "gave up"])),
    st.builds(Extend, org=AN_ORG, request=REQUESTS, ttl_ms=HOLD_MS),
    st.builds(Expire, org=AN_ORG, request=REQUESTS),
]
GIVEN: st.SearchStrategy[Operation] = st.builds(
    AddCredit,
    org=AN_ORG,
    name=st.sampled_from(["given one", "given two", "given three"]),
    amount=st.integers(1, 60_000),
    promotional=st.just(True),
    priority=st.sampled_from([0, 100, 101]),
    expires_ms=st.sampled_from([500, 0, 1_000, 2_000, DAY_MS]),
)
OF_CREDIT: list[st.SearchStrategy[Operation]] = [
    st.builds(AddCredit, org=AN_ORG, name=NAMES, amount=st.integers(1, 100_000), promotional=st.just(False)),
    GIVEN,
    st.builds(Refund, org=AN_ORG, name=NAMES, amount=st.integers(1, 30_000), reason=st.sampled_from(["", "asked"])),
    st.builds(Correct, org=AN_ORG, name=NAMES, request=REQUESTS, amount=st.integers(1, 30_000)),
    st.builds(ExpireCredit, org=AN_ORG),
]
AIMS = st.sampled_from([0, 1, 1, 2, 3])
"""0 leaves an operation as it is. Else what begins something has a name of its own, and what goes on with something
goes on with one of the last open holds (1, 2) or of all holds (3), or with one of the last receipts: what means nothing
to anybody is not worth most of the time.
"""
ANY_STATE = 3
SPENDING = st.lists(st.tuples(st.one_of(*OF_HOLDS), AIMS), min_size=3, max_size=9)
BATCHES = st.lists(st.tuples(st.one_of(*OF_HOLDS, *OF_CREDIT, CAPS), AIMS), min_size=1, max_size=7)
Drawn = list[tuple[Operation, int]]
CHOICES = st.lists(st.integers(0, 10**6), min_size=1, max_size=5)
