"""Is one run better than another? Both were tested on the same videos, so they are compared video by video.

Two intervals that overlap say little: most videos are easy or hard for both runs. What tells them apart are the videos
that one gets right and the other wrong.

Test: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
Psychometrika 1947, in its exact form and with the mid-p value of Fagerland, Lydersen, Laake, "The McNemar test for
binary matched-pairs data: mid-p and asymptotic are better than exact conditional", BMC Medical Research Methodology
2013. Interval: percentile bootstrap over videos (Efron, "Bootstrap Methods: Another Look at the Jackknife", The Annals
of Statistics 1979). Videos are taken as independent draws; clips of one source video (UCF101's groups) are not, and
then both are too sure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, RunError
from .predictions import Predictions

DRAWS = 10_000
"""Bootstrap samples: an end of the interval then varies over seeds by less than a hundredth of its length."""


@dataclass(frozen=True)
class Comparison:
    """Of two runs, A and B, on V test videos.

    Args:
        both, only_a, only_b, none: videos that are right in both, in A alone, in B alone, in none.
        interval: 95 % bootstrap interval of `difference`.
        p_value: of McNemar's exact test, two-sided: how likely so uneven a split of the videos that tell the runs apart
            is where both runs are equally good. Holds its level always, and is cautious where these videos are few.
        mid_p: the same without that caution.
    """

    both: int
    only_a: int
    only_b: int
    none: int
    interval: tuple[float, float]
    p_value: float
    mid_p: float

    @property
    def videos(self) -> int:
        return self.both + self.only_a + self.only_b + self.none

    @property
    def difference(self) -> float:
        """Top-1 of A minus top-1 of B, a fraction."""
        return (self.only_a - self.only_b) / self.videos

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval[0] > 0 or self.interval[1] < 0


def compare(a: Predictions, b: Predictions, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Compares the top-1 answers of two classifiers; B's videos may come in another order.

    The answers are those of one training each: chance in training is not part of the interval.

    Raises RunError where the videos, their labels or the classes are not the same.
    """
    if a.classes != b.classes:
        differ = [pair for pair in zip(a.classes, b.classes, strict=False) if pair[0] != pair[1]]
        shown = f"; the first that differs: {differ[0][0]!r} and {differ[0][1]!r}" if differ else ""
        raise RunError(
            f"the two runs know different classes ({len(a.classes)} and {len(b.classes)}{shown}), so their answers "
            "cannot be compared. Evaluate both with the same --on DATA."
        )
    order = match(a.ids, a.labels, b.ids, b.labels)
    return compare_answers(a.predicted == a.labels, (b.predicted == b.labels)[order], draws, seed)


def match(ids_a: Sequence[str], labels_a: np.ndarray, ids_b: Sequence[str], labels_b: np.ndarray) -> np.ndarray:
    """Rows of B in the order of A, int64 [V].

    Raises RunError where the videos or their labels are not the same, with how many differ and the first of them.
    """
    for ids in (ids_a, ids_b):
        if len(set(ids)) != len(ids):
            twice = sorted(video for video, times in Counter(ids).items() if times > 1)
            raise RunError(f"{len(twice)} test videos stand twice ({_first(twice)}). Evaluate that run again.")
    row = {video: k for k, video in enumerate(ids_b)}
    only_a, only_b = sorted(set(ids_a) - set(row)), sorted(set(row) - set(ids_a))
    if only_a or only_b:
        raise RunError(
            f"the two runs were tested on different videos: {len(only_a)} only in the first ({_first(only_a)}), "
            f"{len(only_b)} only in the second ({_first(only_b)}), {len(set(ids_a) & set(row))} in both. "
            "Evaluate both with the same --on DATA."
        )
    order = np.array([row[video] for video in ids_a], np.int64)
    differ = np.flatnonzero(np.asarray(labels_a) != np.asarray(labels_b)[order])
    if len(differ):
        raise RunError(
            f"{len(differ)} of {len(ids_a)} test videos have another label in the second run "
            f"({_first([ids_a[int(k)] for k in differ])}). Evaluate both with the same --on DATA."
        )
    return order


def compare_answers(right_a_V: np.ndarray, right_b_V: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """The comparison from what is right, bool [V] each, the same video at the same place."""
    if not len(right_a_V):
        raise ConfigError("a comparison needs at least one test video.")
    right_a_V, right_b_V = np.asarray(right_a_V, bool), np.asarray(right_b_V, bool)
    only_a, only_b = int((right_a_V & ~right_b_V).sum()), int((right_b_V & ~right_a_V).sum())
    both = int((right_a_V & right_b_V).sum())
    p_value, mid_p = mcnemar(only_a, only_b)
    interval = bootstrap_interval(only_a, only_b, len(right_a_V), draws, seed)
    return Comparison(both, only_a, only_b, len(right_a_V) - both - only_a - only_b, interval, p_value, mid_p)


def mcnemar(only_a: int, only_b: int) -> tuple[float, float]:
    """Two-sided p-value of McNemar's exact test, and its mid-p value.

    Under the null hypothesis each of the n videos that tell the runs apart is A's with probability 1/2. The exact value
    is the probability of a split at least as uneven as the one seen; for the mid-p value splits exactly as uneven count
    half. Both are 1 where no video tells the runs apart. Integers to the last division, so n may be any size.
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0, 1.0
    ways, tail = 1, 0  # binomial coefficient (n, k), and the sum of those below `fewer`
    for k in range(fewer):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    more_uneven = 2 * tail
    as_uneven = ways if only_a == only_b else 2 * ways
    return (more_uneven + as_uneven) / 2**n, (2 * more_uneven + as_uneven) / 2 ** (n + 1)


def bootstrap_interval(only_a: int, only_b: int, videos: int, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of (only_a - only_b) / videos when the videos are drawn anew with replacement.

    The difference depends on a sample only through its counts of the three kinds of video (for A, for B, for neither),
    and these are multinomial: drawing the counts is drawing the videos, in memory for `draws` numbers whatever V is.
    """
    shares = [only_a / videos, only_b / videos, 1 - (only_a + only_b) / videos]
    counts_N3 = np.random.default_rng(seed).multinomial(videos, shares, size=draws)
    low, high = np.quantile((counts_N3[:, 0] - counts_N3[:, 1]) / videos, [0.025, 0.975])
    return float(low), float(high)


def clearly_best(top1: Sequence[float], comparisons: dict[tuple[int, int], Comparison]) -> int | None:
    """Which of several runs is above every other one with an interval that excludes 0; None where there is none.

    Args:
        top1: one a run.
        comparisons: (i, j) with i < j -> run i as A against run j as B. A pair that could not be compared is missing,
            and nothing is clearly better then.
    """
    best = int(np.argmax(top1))
    for other in range(len(top1)):
        if other == best:
            continue
        found = comparisons.get((min(best, other), max(best, other)))
        ahead = found is not None and found.clear and (found.difference > 0) == (best < other)
        if not ahead:
            return None
    return best


def _first(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "") if ids else "none"
