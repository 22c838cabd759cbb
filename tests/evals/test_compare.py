"""Two runs on the same test videos: counts, McNemar's test and the paired interval."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from vidssl.errors import ConfigError, RunError
from vidssl.evals.compare import Comparison, bootstrap_interval, clearly_best, compare, compare_answers, mcnemar
from vidssl.evals.predictions import Predictions


def predictions(ids: list[str], labels: list[int], answers: list[int], classes: tuple[str, ...] = ("x", "y", "z")):
    probabilities = np.full((len(ids), len(classes)), 0.1)
    probabilities[np.arange(len(ids)), answers] = 0.8
    return Predictions(ids, np.array(labels), probabilities, list(classes))


def test_videos_are_matched_by_id_and_counted():
    a = predictions(["v1", "v2", "v3", "v4", "v5"], [0, 1, 2, 0, 1], [0, 1, 2, 1, 0])  # right: v1 v2 v3
    b = predictions(["v5", "v4", "v3", "v2", "v1"], [1, 0, 2, 1, 0], [1, 2, 2, 0, 1])  # right: v5 v3
    found = compare(a, b)
    assert (found.both, found.only_a, found.only_b, found.none, found.videos) == (1, 2, 1, 1, 5)
    assert found.difference == pytest.approx(3 / 5 - 2 / 5)
    assert (found.p_value, found.mid_p) == (1.0, 0.625)  # of 3 videos: 2 (1 + 3) / 8, and 3 / 8 less


@pytest.mark.parametrize(
    ("only_a", "only_b", "exact", "mid_p"),
    [
        (1, 7, Fraction(18, 256), Fraction(10, 256)),  # Fagerland et al. 2013, table 1: 0.0703 and 0.0391
        (5, 0, Fraction(2, 32), Fraction(1, 32)),
        (2, 2, Fraction(1), 1 - Fraction(6, 32)),  # equal: 1 and 1 - half of C(4, 2) / 16
        (0, 0, Fraction(1), Fraction(1)),
    ],
)
def test_mcnemar_by_hand(only_a, only_b, exact, mid_p):
    assert mcnemar(only_a, only_b) == (float(exact), float(mid_p))
    assert mcnemar(only_b, only_a) == (float(exact), float(mid_p))


def test_mcnemar_of_many_videos_is_the_sum_of_the_binomial():
    n, fewer = 1300, 610
    point = [
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)) for k in range(n)
    ]
    exact, mid_p = mcnemar(fewer, n - fewer)
    assert exact == pytest.approx(2 * math.fsum(point[: fewer + 1]), rel=1e-9)
    assert mid_p == pytest.approx(exact - point[fewer], rel=1e-9)
    assert mcnemar(100, 19_900)[0] == 0.0  # too small for a float, and no error


def test_interval_is_that_of_drawing_the_videos():
    rng = np.random.default_rng(5)
    scores = np.array([1] * 30 + [-1] * 12 + [0] * 58)
    drawn = rng.choice(scores, size=(20_000, 100)).mean(axis=1)
    low, high = bootstrap_interval(30, 12, 100)
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.011)  # two steps of 1 / 200
    deviation = math.sqrt((0.42 - 0.18**2) / 100)  # of the mean of scores -1, 0, 1
    assert high - low == pytest.approx(2 * 1.96 * deviation, abs=0.02)
    assert bootstrap_interval(30, 12, 100) == (low, high)
    assert bootstrap_interval(0, 0, 7) == (0.0, 0.0)


def test_swapped_runs_are_mirrored():
    right = np.random.default_rng(0).random((2, 400)) < [[0.7], [0.6]]
    there, back = compare_answers(*right), compare_answers(*right[::-1])
    assert (there.only_a, there.only_b, there.p_value) == (back.only_b, back.only_a, back.p_value)
    assert there.difference == -back.difference
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=0.01)


def test_other_videos_labels_or_classes_are_named():
    a = predictions(["v1", "v2", "v3"], [0, 1, 2], [0, 1, 2])
    with pytest.raises(RunError, match=r"1 only in the first \(v3\), 2 only in the second \(v8, v9\), 2 in both"):
        compare(a, predictions(["v1", "v2", "v8", "v9"], [0, 1, 2, 2], [0, 1, 2, 2]))
    with pytest.raises(RunError, match=r"2 of 3 test videos have another label in the second run \(v2, v3\)"):
        compare(a, predictions(["v3", "v2", "v1"], [1, 2, 0], [2, 1, 0]))
    with pytest.raises(RunError, match=r"different classes \(3 and 3; the first that differs: 'y' and 'w'\)"):
        compare(a, predictions(["v1", "v2", "v3"], [0, 1, 2], [0, 1, 2], ("x", "w", "z")))
    with pytest.raises(RunError, match=r"different classes \(3 and 4\)"):
        compare(a, predictions(["v1", "v2", "v3"], [0, 1, 2], [0, 1, 2], ("x", "y", "z", "more")))
    with pytest.raises(RunError, match=r"1 test videos stand twice \(v1\)"):
        compare(a, predictions(["v1", "v2", "v1"], [0, 1, 0], [0, 1, 2]))
    with pytest.raises(ConfigError, match="at least one test video"):
        compare(predictions([], [], []), predictions([], [], []))


def test_best_only_where_it_beats_every_other_one():
    def by(low: float, high: float, ahead: int) -> Comparison:
        return Comparison(10, 20 + ahead, 20, 5, (low, high), 0.5, 0.5)

    ahead, even, behind = by(0.1, 0.3, 9), by(-0.1, 0.3, 3), by(-0.3, -0.1, -9)
    assert clearly_best([0.5, 0.8, 0.6], {(0, 1): behind, (1, 2): ahead, (0, 2): even}) == 1
    assert clearly_best([0.5, 0.8, 0.6], {(0, 1): behind, (1, 2): even, (0, 2): even}) is None
    assert clearly_best([0.5, 0.8, 0.6], {(0, 1): behind, (0, 2): even}) is None  # 1 and 2 could not be compared
    # top-1 of repetitions may say one thing and the averaged answers another
    assert clearly_best([0.8, 0.5], {(0, 1): behind}) is None
