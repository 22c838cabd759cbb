"""Intervals around measured fractions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def clustered_interval(scores: np.ndarray, clusters: np.ndarray, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a mean whose scores come in clusters (several clips of one video are no independent draws).

    The mean over clusters and its standard error; with one score a cluster this is the usual normal interval. Where
    all clusters agree (standard error 0) the Wilson interval over clusters is given instead, so that a handful of
    lucky videos does not look certain. Scores are at most 1; where none is below 0 the interval is not
    either.
    """
    ids = np.unique(clusters)
    means = np.array([scores[clusters == i].mean() for i in ids])
    count, centre = len(means), means.mean()
    error = means.std(ddof=1) / np.sqrt(count) if count > 1 else 0.0
    fractions = bool(scores.min() >= 0)
    if error == 0.0 and fractions:
        return wilson_interval(centre, count, z)
    low, high = float(centre - z * error), min(1.0, float(centre + z * error))
    return (max(0.0, low) if fractions else low), high


def wilson_interval(fraction: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of `fraction` seen in `count` independent trials (E. B. Wilson, JASA 1927)."""
    centre = (fraction + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(fraction * (1 - fraction) / count + z * z / (4 * count * count))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of two or more independent values by Student's t (Biometrika 1908)."""
    count = len(values)
    half = _student_quantile(count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def _student_quantile(freedom: int) -> float:
    """Where Student's t with so many degrees of freedom has 97.5 % of its mass below.

    With x = sqrt(freedom) * tan(angle) the density is proportional to cos(angle) ** (freedom - 1) on a finite range,
    which the midpoint rule integrates.
    """
    steps = 200_000
    angle = (np.arange(steps) + 0.5) * (np.pi / 2 / steps)
    mass = np.cumsum(np.cos(angle) ** (freedom - 1))
    return float(np.sqrt(freedom) * np.tan(np.interp(0.95, mass / mass[-1], angle + np.pi / 4 / steps)))
