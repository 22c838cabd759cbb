"""Nested class-balanced subsets: 10k within 30k within 50k within 100k.

The paper takes random videos, as many of each class, each subset within the next (arXiv 2306.06010, 4.2). Here each
class has ONE order, drawn from (seed, class); a subset takes the front of every order, so nesting holds by
construction. Where a class has too few, the shortfall goes round-robin to the classes that have more, in class order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import ConfigError


def nested_subsets(labels: Sequence[int] | np.ndarray, sizes: Iterable[int], seed: int = 0) -> dict[int, np.ndarray]:
    """Subsets of the given sizes.

    Args:
        labels: class of each sample [N]; -1 means none (all such samples form one class).
        sizes: wanted sizes, each between 1 and N.

    Returns:
        size -> ascending int64 indices. A smaller subset lies within every larger one.
    """
    labels = np.asarray(labels)
    order = _nested_order(labels, seed)
    subsets = {}
    for size in sizes:
        if not 1 <= size <= len(labels):
            raise ConfigError(
                f"subset of {size} is not possible: the set has {len(labels)} videos; legal: 1 to {len(labels)}."
            )
        subsets[size] = np.sort(order[:size])
    return subsets


def _nested_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """One order of all samples, such that every front of it is class-balanced: by rank within the class, then class."""
    classes = np.unique(labels)
    rank = np.empty(len(labels), np.int64)
    for label in classes:
        members = np.flatnonzero(labels == label)
        generator = np.random.Generator(np.random.Philox(key=[seed, int(label) % 2**64]))
        rank[members[generator.permutation(len(members))]] = np.arange(len(members))
    return np.lexsort((labels, rank))


def parse_size(text: str) -> int:
    """ "50k" -> 50000, "84" -> 84."""
    digits = text.strip().lower()
    scale = 1000 if digits.endswith("k") else 1
    try:
        value = float(digits.removesuffix("k")) * scale
    except ValueError:
        value = 0
    if value < 1 or value != int(value):
        raise ConfigError(f"subset {text!r} is no number of videos; legal: a whole number like 84 or 50k.")
    return int(value)
