"""The rule of a limit by the minute, against what it says of itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from edge.limits.window import GRAIN_US, MAX_ENTRIES, WINDOW_US, Mark, Verdict, Window

START_US = 1_750_000_000_000_000
S = 1_000_000

limits = st.one_of(st.integers(1, MAX_ENTRIES), st.integers(MAX_ENTRIES + 1, 100_000))
pauses_us = st.one_of(
    st.just(0),
    st.integers(1, 2 * S),
    st.integers(0, WINDOW_US),
    st.sampled_from([GRAIN_US, WINDOW_US - 1, WINDOW_US, WINDOW_US + 1]),
)


@dataclass
class Watched:
    """A window, and beside it all that was let through."""

    limit: int
    now_us: int = START_US
    window: Window = field(default_factory=Window)
    passed: list[tuple[int, int]] = field(default_factory=list)

    def take(self, weight: int) -> Verdict:
        verdict = self.window.take(self.now_us, self.limit, weight)
        if verdict.passed:
            self.passed.append((self.now_us, weight))
        return verdict

    def within(self, window_us: int) -> int:
        """What was let through in so long, now included."""
        return sum(weight for at_us, weight in self.passed if at_us > self.now_us - window_us)


def weights(limit: int) -> st.SearchStrategy[int]:
    return st.one_of(st.just(1), st.integers(1, limit), st.integers(1, limit + 5))


@given(st.data(), limits)
def test_never_more_than_the_limit_in_any_minute_and_none_refused_in_vain(data: st.DataObject, limit: int) -> None:
    watched = Watched(limit)
    exact = limit <= MAX_ENTRIES
    for pause_us in data.draw(st.lists(pauses_us, max_size=60)):
        watched.now_us += pause_us
        weight = data.draw(weights(limit))
        there = watched.within(WINDOW_US)
        there_longer = watched.within(WINDOW_US + (0 if exact else GRAIN_US))
        verdict = watched.take(weight)
        assert watched.within(WINDOW_US) <= limit
        assert verdict.passed or there_longer + weight > limit
        if exact:
            assert verdict.passed == (there + weight <= limit)


@given(st.data(), limits)
def test_what_is_told_is_true(data: st.DataObject, limit: int) -> None:
    watched = Watched(limit)
    for pause_us in data.draw(st.lists(pauses_us, min_size=1, max_size=40)):
        watched.now_us += pause_us
        weight = data.draw(weights(limit))
        verdict = watched.take(weight)
        window, now_us = watched.window, watched.now_us
        left = verdict.remaining
        assert left == 0 or window.ask(now_us, limit, left).passed
        assert not window.ask(now_us, limit, left + 1).passed
        assert (verdict.reset_us == 0) == (left == limit)
    later = copy.deepcopy(window)  # a window does not go back in time
    if verdict.retry_after_us:
        assert not window.ask(now_us + verdict.retry_after_us - 1, limit, weight).passed
        assert window.ask(now_us + verdict.retry_after_us, limit, weight).passed
    elif verdict.retry_after_us is None:
        assert weight > limit
    if verdict.reset_us:
        assert later.ask(now_us + verdict.reset_us - 1, limit, limit).remaining < limit
    whole = later.ask(now_us + verdict.reset_us, limit, limit)
    assert (whole.passed, whole.remaining, later.is_whole(now_us + verdict.reset_us)) == (True, limit, True)


@given(st.data(), limits)
def test_corrected_to_what_was_used_it_counts_as_if_that_had_been_taken(data: st.DataObject, limit: int) -> None:
    """No admission brings what was used, and what is still estimated, above the limit."""
    window, now_us = Window(), START_US
    counted: list[tuple[int, int]] = []
    open_: list[tuple[int, Mark, int]] = []

    def in_a_minute() -> int:
        return sum(weight for at_us, weight in counted if at_us > now_us - WINDOW_US)

    for pause_us in data.draw(st.lists(pauses_us, max_size=40)):
        now_us += pause_us
        weight = data.draw(st.integers(1, limit))
        verdict = window.take(now_us, limit, weight)
        if verdict.passed:
            open_.append((len(counted), verdict.marks[0], weight))
            counted.append((now_us, weight))
            assert in_a_minute() <= limit
        if data.draw(st.booleans()) and open_:
            index, mark, taken = open_.pop(data.draw(st.integers(0, len(open_) - 1)))
            used = data.draw(st.integers(0, 2 * taken))
            if used > taken:
                window.add(now_us, limit, used - taken)
                counted.append((now_us, used - taken))
            else:
                window.give_back(now_us, mark, taken - used)
                counted[index] = (counted[index][0], used)
        assert window.ask(now_us, limit, 1).remaining <= max(0, limit - in_a_minute())


def test_a_new_key_may_send_its_whole_minute_at_once_and_then_waits_for_the_first_to_leave() -> None:
    watched = Watched(60)
    verdicts = [watched.take(1) for _ in range(61)]
    assert [verdict.remaining for verdict in verdicts] == [*range(59, -1, -1), 0]
    assert [verdict.passed for verdict in verdicts] == [True] * 60 + [False]
    assert verdicts[-1].retry_after_us == verdicts[-1].reset_us == 60 * S
    watched.now_us += 60 * S - 1
    assert not watched.take(1).passed
    watched.now_us += 1
    assert watched.take(1).passed


def test_whoever_keeps_to_the_pace_is_never_refused() -> None:
    watched = Watched(60)
    for _ in range(600):
        assert watched.take(1).passed
        watched.now_us += S


def test_what_is_above_the_limit_never_passes_and_no_wait_is_promised() -> None:
    verdict = Window().take(START_US, 10, 11)
    assert (verdict.passed, verdict.retry_after_us, verdict.remaining) == (False, None, 10)


def test_a_lower_limit_holds_at_once_and_a_higher_one_too() -> None:
    window = Window()
    assert all(window.take(START_US, 60, 1).passed for _ in range(50))
    lowered = window.take(START_US, 20, 1)
    assert (lowered.passed, lowered.remaining, lowered.retry_after_us) == (False, 0, WINDOW_US)
    assert window.take(START_US, 600, 550).passed


def test_a_clock_that_goes_back_neither_frees_nor_blocks_for_long() -> None:
    window = Window()
    for second in range(10):
        window.take(START_US + second * S, 10, 1)
    back_us = START_US - 3_600 * S
    verdict = window.take(back_us, 10, 1)
    assert (verdict.passed, verdict.retry_after_us) == (False, WINDOW_US)
    assert window.take(back_us + WINDOW_US, 10, 10).passed


def test_a_log_stays_short_however_high_the_limit() -> None:
    watched = Watched(10**9)
    for _ in range(5_000):
        watched.take(1)
        watched.now_us += 30_000
    assert len(watched.window._entries) <= MAX_ENTRIES + 1
