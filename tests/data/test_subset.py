"""Subsets: nested, class-balanced, shortfalls shared out."""

from __future__ import annotations

import numpy as np
import pytest

from vidssl.data.subset import nested_subsets, parse_size
from vidssl.errors import ConfigError


def test_nested_and_equal_per_class():
    labels = np.repeat(np.arange(10), 50)
    subsets = nested_subsets(labels, [10, 30, 100, 500])
    for small, large in ((10, 30), (30, 100), (100, 500)):
        assert set(subsets[small]) < set(subsets[large])
    for size, rows in subsets.items():
        assert len(rows) == size == len(set(rows.tolist()))
        assert np.bincount(labels[rows], minlength=10).tolist() == [size // 10] * 10
        assert (np.diff(rows) > 0).all()


def test_what_a_small_class_lacks_goes_round_robin_to_the_others():
    labels = np.array([0] * 3 + [1] * 20 + [2] * 20)
    counts = np.bincount(labels[nested_subsets(labels, [25])[25]], minlength=3)
    assert counts.tolist() == [3, 11, 11]


def test_a_function_of_the_seed():
    labels = np.repeat(np.arange(4), 25)
    one, same, other = (nested_subsets(labels, [20], seed)[20].tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_too_large_says_what_is_legal():
    with pytest.raises(ConfigError, match="1 to 4"):
        nested_subsets([0, 0, 1, 1], [5])


@pytest.mark.parametrize(("text", "size"), [("50k", 50_000), ("84", 84), ("0.5k", 500), (" 10K ", 10_000)])
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "-3", "0", "1.5", "k"])
def test_sizes_that_are_none(text):
    with pytest.raises(ConfigError, match="whole number"):
        parse_size(text)
