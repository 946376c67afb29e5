"""Whether the answer kept for one question may be replayed for another that resembles it.

In the manner of vCache (Schroeder et al., arXiv 2502.03771): nobody sets a threshold. Each kept answer learns its own
from comparisons. A lookup that resembles it is either *explored* (it goes to the source, and the fresh answer tells
whether the kept one would have been right) or replayed. The probability of exploring is the one that the user's bound
on errors asks for.

Two judges have to agree on a replay:

* The paper's: a logistic fit of "right" against similarity, ``p(s) = 1 / (1 + exp(-gamma (s - t)))``, with a confidence
  region around it, gives a lower bound of ``p`` and from it the probability of exploring.
* A proof that does not believe in any curve, only that closer questions are not worse: without it, everything is
  explored. It holds however often it is asked (Ville's inequality), which the paper's region does not. The fit in turn
  notices where closer questions are worse.

What is promised, and under which assumptions, stands in ADR 0038.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

STEPS = 512
"""Similarity is kept in steps of 1/512. A comparison counts at the step above it and a question at the step below, so
that rounding never lends trust."""
LEAST_SIMILARITY = 0.6
"""Below it two questions are taken for different ones, and nothing is compared."""
MOST_ERROR = 0.5
"""A looser bound counts as this one: what is more often wrong than right is not replayed to anyone."""
AUDIT = 0.02
"""The probability of exploring where the bound asks for none: sources change, and only comparisons can tell."""

_DOUBT_SHARE = 1 / 8
"""The part of the bound that is spent on the proof being wrong. Fixed beforehand: chosen after looking at the
comparisons, it would promise nothing. An eighth needs about the fewest comparisons for bounds of 1 to 10%."""
_HYPOTHESES = ((0.0, 0.5), (1 / 16, 0.125), (1 / 8, 0.125), (1 / 4, 0.125), (1 / 2, 0.125))
"""What the proof bets on: that the error is this part of the bound's, and the share of the stake on it."""
_WINDOWS = ((0, 0.5), (352, 0.1), (384, 0.1), (416, 0.1), (448, 0.1), (480, 0.1))
"""Comparisons from which step on the proof looks at, and the share of the stake: what resembled it from afar and was
wrong says little about what resembles it closely."""

_MIDDLE = 0.8
_LOGITS_AT_MIDDLE = np.linspace(-8, 8, 49)
_GAMMAS = np.concatenate(([-48.0, -16.0, -4.0, 0.0], np.geomspace(1, 128, 8)))
"""Falling curves too: where the closest questions are the wrong ones, which no curve that rises can say."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """How often the kept answer was right and wrong, by step of similarity."""

    right: Mapping[int, int] = field(default_factory=dict)
    wrong: Mapping[int, int] = field(default_factory=dict)

    def with_one(self, step: int, *, right: bool) -> Comparisons:
        """One more."""
        counts = dict(self.right if right else self.wrong)
        counts[step] = counts.get(step, 0) + 1
        return Comparisons(counts, self.wrong) if right else Comparisons(self.right, counts)

    def steps(self) -> list[int]:
        """The steps that have any, ascending."""
        return sorted({*self.right, *self.wrong})


def step_of_comparison(similarity: float) -> int:
    """The step at which a comparison at ``similarity`` (a cosine) counts."""
    return min(STEPS, max(0, math.ceil(similarity * STEPS)))


def exploring_probability(comparisons: Comparisons, similarity: float, max_error: float) -> float:
    """How likely a lookup at ``similarity`` has to be explored so that replays err in ``max_error`` of cases at most.

    1 until the comparisons prove that a replay would be right often enough; ``AUDIT`` at least afterwards.

    Raises:
        ValueError: ``max_error`` is not above 0 and below or at 1.
    """
    if not 0 < max_error <= 1:
        raise ValueError(f"max_error is {max_error}, not above 0 and at most 1")
    max_error = min(max_error, MOST_ERROR)
    step = min(STEPS, math.floor(similarity * STEPS))
    if similarity < LEAST_SIMILARITY or not is_proven(comparisons, step, max_error):
        return 1.0
    right = lower_bound(comparisons, step)
    # Pr(right) = Pr(explored) + (1 - Pr(explored)) * right >= 1 - max_error, solved for Pr(explored).
    asked = 1 - max_error / (1 - right) if right < 1 - max_error else 0.0
    return max(asked, AUDIT)


def is_proven(comparisons: Comparisons, step: int, max_error: float) -> bool:
    """A replay at ``step`` is right often enough, unless something happened that happens to one answer in
    ``1 / (max_error * _DOUBT_SHARE)`` at any time while its comparisons are kept.

    Against the claim "at this step it is right in fewer than ``enough`` of cases" a stake of 1 is bet, comparison by
    comparison, on better odds. Were the claim true, the stake would not grow in expectation, and so reach
    ``1 / doubt`` with probability ``doubt`` at most, whenever one looks. What is claimed of a step is claimed of
    those above it, where closer is not worse; so it must be refuted for each of them.
    """
    doubt = max_error * _DOUBT_SHARE
    enough = (1 - max_error) / (1 - doubt)
    most = sum(count for at, count in comparisons.right.items() if at <= step)
    if -most * math.log(enough) < -math.log(doubt):
        return False  # too few even if none had been wrong: the common case, and it costs next to nothing
    above = [at for at in comparisons.steps() if at > step]
    return bool(np.all(_stakes(comparisons, np.array([step, *above]), enough) >= 1 / doubt))


def lower_bound(comparisons: Comparisons, step: int) -> float:
    """``max over e of (1 - e) * min p(step)``, the minimum over the logistic curves in the ``1 - e`` confidence region.

    The region of two parameters is what the likelihood-ratio test does not reject: log-likelihoods within ``ln(1 / e)``
    of the best one's (Wilks: half of a chi-square with two degrees of freedom, whose tail is exponential).
    """
    steps = comparisons.steps()
    right = np.array([comparisons.right.get(at, 0) for at in steps], dtype=np.float64)
    wrong = np.array([comparisons.wrong.get(at, 0) for at in steps], dtype=np.float64)
    likelihoods = _LOG_RIGHT[:, steps] @ right + _LOG_WRONG[:, steps] @ wrong
    behind = likelihoods.max() - likelihoods
    nearest_first = np.argsort(behind, kind="stable")
    # The region that ends just before a curve: its confidence, and the least that a curve in it says.
    least = np.minimum.accumulate(np.exp(_LOG_RIGHT[nearest_first, step]))
    confidence = 1 - np.exp(-behind[nearest_first])
    return float(np.max(confidence[1:] * least[:-1]))


def _stakes(comparisons: Comparisons, upto: npt.NDArray[np.int64], enough: float) -> npt.NDArray[np.float64]:
    """What a stake of 1 has become, over the comparisons up to each step of ``upto``.

    Each share of it was bet on one window and one hypothesis, and has become the likelihood of that hypothesis over
    that of being right in exactly ``enough`` of cases.
    """
    rights = _in_windows(comparisons.right, upto)
    wrongs = _in_windows(comparisons.wrong, upto)
    by_right = np.log1p(-_PARTS * (1 - enough)) - np.log(enough)
    log_odds = rights[..., np.newaxis] * by_right + wrongs[..., np.newaxis] * _LOG_PARTS
    stakes: npt.NDArray[np.float64] = _WINDOW_SHARES @ (np.exp(np.minimum(log_odds, _MOST)) @ _PART_SHARES)
    return stakes


def _in_windows(counts: Mapping[int, int], upto: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many, by window and step."""
    below = np.zeros(STEPS + 2, dtype=np.int64)
    for at, count in counts.items():
        below[at + 1] = count
    below = np.cumsum(below)
    within: npt.NDArray[np.int64] = np.maximum(below[upto + 1] - below[_WINDOW_STARTS][:, np.newaxis], 0)
    return within


_WINDOW_STARTS = np.array([start for start, _ in _WINDOWS])
_WINDOW_SHARES = np.array([share for _, share in _WINDOWS])
_PARTS = np.array([part for part, _ in _HYPOTHESES])
_PART_SHARES = np.array([share for _, share in _HYPOTHESES])
_LOG_PARTS = np.array([math.log(part) if part else -1e9 for part, _ in _HYPOTHESES])
_MOST = 500.0
"""The greatest logarithm that is worth telling from a greater one."""


def _curves() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """``ln p`` and ``ln(1 - p)`` at every step, for a grid of curves.

    By the logit at a similarity amid those that occur, rather than by t: a flat curve has its t far away.
    """
    offsets, gammas = (axis.reshape(-1, 1) for axis in np.meshgrid(_LOGITS_AT_MIDDLE, _GAMMAS))
    logits = offsets + gammas * (np.arange(STEPS + 1) / STEPS - _MIDDLE)
    return -np.logaddexp(0, -logits), -np.logaddexp(0, logits)


_LOG_RIGHT, _LOG_WRONG = _curves()
