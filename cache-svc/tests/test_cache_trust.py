"""Whether a kept answer is trusted: what the bound promises, on simulated traffic, and what may never lend trust."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_svc.domain.trust import (
    AUDIT,
    LEAST_SIMILARITY,
    STEPS,
    Comparisons,
    exploring_probability,
    is_proven,
    lower_bound,
    step_of_comparison,
)

Curve = Callable[[float, int], float]
"""The true probability that entry n answers a question of similarity s."""

LOOKUPS, ENTRIES = 20_000, 20
SIMILARITIES = (0.76, 0.82, 0.88, 0.93, 0.97, 1.0)


def always(_: float, __: int) -> float:
    return 1.0


def flat(right: float) -> Curve:
    return lambda _, __: right


def logistic(threshold: float, gamma: float) -> Curve:
    return lambda similarity, _: 1 / (1 + math.exp(-gamma * (similarity - threshold)))


def own_threshold(similarity: float, entry: int) -> float:
    """What the paper is about: no threshold fits all entries."""
    return float(similarity > 0.7 + 0.3 * (entry % 10) / 10)


def plateau(similarity: float, _: int) -> float:
    """No logistic curve: nothing below, and never quite right above."""
    return 0.8 if similarity > 0.85 else 0.0


def half_alien(_: float, entry: int) -> float:
    """Every other entry is wrong in a fifth of cases, however close the question."""
    return 1.0 if entry % 2 else 0.8


@dataclass
class Traffic:
    """What came of the lookups."""

    replays: int = 0
    wrong: int = 0


def simulate(curve: Curve, max_error: float, seed: int) -> Traffic:
    """Each entry starts unknown and is asked ``LOOKUPS / ENTRIES`` times, at similarities from 0.76 to 1."""
    dice, traffic = random.Random(seed), Traffic()
    for entry in range(ENTRIES):
        comparisons, known = Comparisons(), dict[int, float]()
        for _ in range(LOOKUPS // ENTRIES):
            similarity = dice.choice(SIMILARITIES)
            step = math.floor(similarity * STEPS)
            if step not in known:
                known[step] = exploring_probability(comparisons, similarity, max_error)
            right = dice.random() < curve(similarity, entry)
            if dice.random() < known[step]:
                comparisons = comparisons.with_one(step_of_comparison(similarity), right=right)
                known.clear()
            else:
                traffic.replays += 1
                traffic.wrong += not right
    return traffic


@pytest.mark.parametrize(
    ("curve", "max_error", "least_replays"),
    [
        (always, 0.1, 13_000),
        (logistic(0.85, 60), 0.1, 2_000),
        (own_threshold, 0.05, 4_000),
        (flat(0.97), 0.1, 6_000),
        (half_alien, 0.1, 6_000),
        (plateau, 0.1, 0),
        (flat(0.89), 0.1, 0),
    ],
)
def test_the_share_of_wrong_replays_is_within_the_bound(curve: Curve, max_error: float, least_replays: int) -> None:
    traffic = simulate(curve, max_error, seed=1)
    assert traffic.replays >= least_replays
    # Three standard deviations: what a true share of exactly the bound exceeds once in a thousand.
    assert traffic.wrong <= LOOKUPS * max_error + 3 * math.sqrt(LOOKUPS * max_error * (1 - max_error))
    if traffic.replays >= 100:
        by_chance = 3 * math.sqrt(traffic.replays * max_error * (1 - max_error))
        assert traffic.wrong <= traffic.replays * max_error + by_chance
    if not least_replays:
        assert traffic.replays <= LOOKUPS * max_error / 8, "where nothing is right often enough, hardly one entry errs"


def test_an_answer_that_is_often_wrong_is_not_believed_however_often_one_looks() -> None:
    """A test at a fixed time would be passed by chance some time: it is looked at after every comparison here."""
    dice, believed = random.Random(2), 0
    for _ in range(150):
        comparisons = Comparisons()
        for _ in range(150):
            comparisons = comparisons.with_one(460, right=dice.random() < 0.88)
            if is_proven(comparisons, 480, 0.1):
                believed += 1
                break
    assert believed <= 150 / 80 + 3 * math.sqrt(150 / 80)


def test_nothing_is_believed_without_comparisons() -> None:
    assert exploring_probability(Comparisons(), 1.0, 0.5) == 1.0
    assert exploring_probability(Comparisons(), 1.0, 1e-6) == 1.0


@pytest.mark.parametrize(("max_error", "enough"), [(0.2, 21), (0.1, 51), (0.05, 121), (0.02, 362), (0.01, 808)])
def test_how_many_comparisons_it_takes(max_error: float, enough: int) -> None:
    """All of them right, all close: the fewest there can be. The documentation has these numbers."""
    proven = [count for count in range(enough - 9, enough + 9) if is_proven(Comparisons({480: count}), 500, max_error)]
    assert proven[0] == enough
    assert exploring_probability(Comparisons({480: proven[0]}), 500 / STEPS, max_error) < 1


def test_what_is_proven_is_audited_all_the_same() -> None:
    assert exploring_probability(Comparisons({480: 100_000}), 1.0, 0.1) == AUDIT


def test_one_failure_costs_trust_and_many_end_it() -> None:
    trusted = Comparisons({480: 70})
    assert exploring_probability(trusted, 1.0, 0.1) < 1
    assert exploring_probability(trusted.with_one(488, right=False), 1.0, 0.1) == 1
    proven_again = Comparisons({480: 300}, {488: 1})
    assert exploring_probability(proven_again, 1.0, 0.1) < 1


def test_where_the_closest_are_the_wrong_ones_the_fit_notices() -> None:
    """The proof assumes that closer is not worse, and would let three failures among 300 pass."""
    falling = Comparisons({448: 300}, {508: 3})
    assert is_proven(falling, STEPS, 0.1)
    assert lower_bound(falling, STEPS) < 0.2
    assert lower_bound(Comparisons({448: 300}), 448) > 0.9
    assert exploring_probability(falling, 1.0, 0.1) > 0.8
    assert exploring_probability(falling, 448 / STEPS, 0.1) == AUDIT


def test_failures_from_afar_do_not_spoil_what_is_close() -> None:
    contrast = Comparisons({496: 120}, {360: 40, 400: 20})
    assert exploring_probability(contrast, 1.0, 0.1) < 1
    assert exploring_probability(contrast, 400 / STEPS, 0.1) == 1


def test_what_was_right_of_closer_questions_says_nothing_of_further_ones() -> None:
    assert exploring_probability(Comparisons({508: 5_000}), 507.9 / STEPS, 0.1) == 1


def test_what_resembles_too_little_is_not_asked() -> None:
    everything = Comparisons(dict.fromkeys(range(STEPS + 1), 1000))
    assert exploring_probability(everything, LEAST_SIMILARITY - 0.001, 0.5) == 1
    assert exploring_probability(everything, LEAST_SIMILARITY + 0.001, 0.5) < 1


def test_what_is_more_often_wrong_than_right_is_replayed_under_no_bound() -> None:
    assert exploring_probability(Comparisons({480: 400}, {480: 600}), 1.0, 1.0) == 1
    assert exploring_probability(Comparisons({480: 900}, {480: 100}), 1.0, 1.0) < 1
    assert exploring_probability(Comparisons(), 1.0, 1.0) == 1


@pytest.mark.parametrize("bound", [0.0, -0.1, 1.1, math.nan])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="max_error"):
        exploring_probability(Comparisons(), 1.0, bound)


def test_the_lower_bound_is_what_the_definition_says() -> None:
    """By brute force over e and a finer grid of curves."""
    comparisons = Comparisons({400: 10, 480: 50}, {360: 5, 440: 2})
    curves = [(logit / 4, gamma) for logit in range(-32, 33) for gamma in (-48, -16, -4, 0, *range(1, 128, 3))]

    def chance(curve: tuple[float, float], step: int) -> float:
        return 1 / (1 + math.exp(-(curve[0] + curve[1] * (step / STEPS - 0.8))))

    def likelihood(curve: tuple[float, float]) -> float:
        right = sum(count * math.log(chance(curve, at)) for at, count in comparisons.right.items())
        return right + sum(count * math.log(1 - chance(curve, at)) for at, count in comparisons.wrong.items())

    by_curve = {curve: likelihood(curve) for curve in curves}
    best = max(by_curve.values())
    expected = max(
        (1 - e) * min(chance(curve, 496) for curve, value in by_curve.items() if best - value <= math.log(1 / e))
        for e in (step / 400 for step in range(1, 200))
    )
    assert lower_bound(comparisons, 496) == pytest.approx(expected, abs=0.01)


counts = st.dictionaries(st.integers(280, STEPS), st.integers(1, 200), max_size=6)
BOUNDS = st.sampled_from([0.5, 0.1, 0.03])


@settings(max_examples=60)
@given(right=counts, wrong=counts, step=st.integers(308, STEPS), at=st.integers(280, STEPS), bound=BOUNDS)
def test_a_failure_never_lends_trust(
    right: dict[int, int], wrong: dict[int, int], step: int, at: int, bound: float
) -> None:
    before = Comparisons(right, wrong)
    if not is_proven(before, step, bound):
        assert not is_proven(before.with_one(at, right=False), step, bound)


@settings(max_examples=60)
@given(right=counts, wrong=counts, step=st.integers(308, STEPS), bound=BOUNDS)
def test_a_tighter_bound_is_never_easier_and_the_probability_is_one(
    right: dict[int, int], wrong: dict[int, int], step: int, bound: float
) -> None:
    comparisons, similarity = Comparisons(right, wrong), step / STEPS
    asked = exploring_probability(comparisons, similarity, bound)
    assert AUDIT <= asked <= 1
    assert exploring_probability(comparisons, similarity, bound / 2) >= asked


@given(similarity=st.floats(0, 1.0001))
def test_rounding_never_lends_trust(similarity: float) -> None:
    """A comparison counts where the question was at most as close, a question where it is at least as close."""
    counted, asked = step_of_comparison(similarity), min(STEPS, math.floor(similarity * STEPS))
    assert counted / STEPS >= min(similarity, 1) >= asked / STEPS
