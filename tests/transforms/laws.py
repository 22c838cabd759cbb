"""What tests of a law need: Kolmogorov-Smirnov and a count's distance from its probability, both at 1 in 1000."""

import math

import numpy as np


def same_law(a, b):
    """Two samples of one law? Two-sample Kolmogorov-Smirnov."""
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    gap = np.abs(np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)).max()
    return gap < 1.95 * math.sqrt((len(a) + len(b)) / (len(a) * len(b)))


def uniform_between(values, low, high):
    """Kolmogorov-Smirnov against the uniform law."""
    share = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    return max(np.abs(share - steps[1:]).max(), np.abs(share - steps[:-1]).max()) < 1.95 / math.sqrt(len(values))


def as_likely_as(hits, probability):
    """Chi-square with one degree of freedom of a bool array against a probability."""
    expected = len(hits) * probability
    return (hits.sum() - expected) ** 2 / (expected * (1 - probability)) < 10.8
