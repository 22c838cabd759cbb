"""Nested class-balanced subsets: 10k within 30k within 50k within 100k.

The paper takes random videos, as many of each class, each subset within the next (arXiv 2306.06010, 4.2). Here each
class has ONE order; a subset takes the front of every order, so nesting holds by construction: first of each class, in
class order, then second of each class, and so on. Where a class has too few, the shortfall goes round-robin to the
classes that have more, in class order. Where the size is no multiple of the number of classes (30k of the 174 of
SSv2), the same rule gives the first classes one more each.

With keys the order of a class is by a hash of (seed, key) alone: a video that is not there leaves the order of all
others as it is, and whoever holds the same videos gets the same subset, whatever else they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError

STANDARD_SIZES = (10_000, 30_000, 50_000, 100_000)  # those of the paper


def nested_subsets(
    labels: Sequence[int] | np.ndarray, sizes: Iterable[int], seed: int = 0, keys: np.ndarray | None = None
) -> dict[int, np.ndarray]:
    """Subsets of the given sizes.

    Args:
        labels: class of each sample [N]; -1 means none (all such samples form one class).
        sizes: wanted sizes, each between 1 and N.
        keys: uint64 [N], the stable number of each sample (`video_key`). Without them the order of a class is drawn
            from (seed, class) and depends on which samples there are.

    Returns:
        size -> ascending int64 indices. A smaller subset lies within every larger one.
    """
    labels = np.asarray(labels)
    order = nested_order(labels, seed, keys)
    subsets = {}
    for size in sizes:
        if not 1 <= size <= len(labels):
            raise ConfigError(
                f"subset of {size} is not possible: the set has {len(labels)} videos; legal: 1 to {len(labels)}."
            )
        subsets[size] = np.sort(order[:size])
    return subsets


def nested_order(labels: np.ndarray, seed: int = 0, keys: np.ndarray | None = None) -> np.ndarray:
    """One order of all samples, such that every front of it is class-balanced: by rank within the class, then class."""
    labels = np.asarray(labels)
    if keys is not None:
        by_class = np.lexsort((_hashed(keys, seed), labels))
        _, first, count = np.unique(labels[by_class], return_index=True, return_counts=True)
        rank = np.empty(len(labels), np.int64)
        rank[by_class] = np.arange(len(labels)) - np.repeat(first, count)
        return np.lexsort((labels, rank))
    classes = np.unique(labels)
    rank = np.empty(len(labels), np.int64)
    for label in classes:
        members = np.flatnonzero(labels == label)
        generator = np.random.Generator(np.random.Philox(key=[seed, int(label) % 2**64]))
        rank[members[generator.permutation(len(members))]] = np.arange(len(members))
    return np.lexsort((labels, rank))


def _hashed(keys: np.ndarray, seed: int) -> np.ndarray:
    """uint64 [N] of uint64 [N]: the output of SplitMix64 for the state key + (seed + 1) * its increment.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. It is a bijection, so
    different keys never tie.
    """
    state = np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = np.asarray(keys, np.uint64) + state
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def balance(counts: dict[str, int], size: int) -> dict[str, Any]:
    """How a subset came out.

    Args:
        counts: class -> videos of it that the subset holds, of every class that could be in it, in class order.
        size: that was asked for.

    Returns:
        "size" asked for, "videos" and "classes" there are, "short": class -> [videos, its share] where it has less,
        "from_others": what other classes gave beyond their share for it, "text": the same in a line, such as
        "394 classes 125, 6 classes 98 to 124; 80 taken from other classes".
    """
    share, more = divmod(size, len(counts))
    shares = {name: share + (place < more) for place, name in enumerate(counts)}
    short = {name: [have, shares[name]] for name, have in counts.items() if have < shares[name]}
    given = sum(max(0, have - shares[name]) for name, have in counts.items())
    parts = [have for name, have in counts.items() if name not in short], [have for have, _ in short.values()]
    text = ", ".join(_span(part) for part in parts if part)
    text += f"; {given:,} taken from other classes" if given else ""
    held = {"size": size, "videos": sum(counts.values()), "classes": len(counts)}
    return {**held, "short": short, "from_others": given, "text": text}


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    noun = "class" if len(counts) == 1 else "classes"
    return f"{len(counts)} {noun} {low:,}" + (f" to {high:,}" if high > low else "")


def parse_size(text: str) -> int:
    """ "50k" -> 50000, "84" -> 84."""
    digits = text.strip().lower()
    scale = 1000 if digits.endswith("k") else 1
    try:
        value = float(digits.removesuffix("k")) * scale
        whole = value == int(value)
    except (ValueError, OverflowError):  # no number, "nan", "inf"
        value, whole = 0, False
    if value < 1 or not whole:
        raise ConfigError(f"subset {text!r} is no number of videos; legal: a whole number like 84 or 50k.")
    return int(value)


def size_name(size: int) -> str:
    """50000 -> "50k", 84 -> "84"."""
    return f"{size // 1000}k" if size % 1000 == 0 else str(size)
