"""Subsets: nested, class-balanced, shortfalls shared out."""

from __future__ import annotations

import numpy as np
import pytest

from vidssl.data.subset import _hashed as hashed
from vidssl.data.subset import balance, nested_order, nested_subsets, parse_size, size_name
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


@pytest.mark.parametrize("text", ["", "many", "-3", "0", "1.5", "k", "inf", "nan", "1e400"])
def test_sizes_that_are_none(text):
    with pytest.raises(ConfigError, match="whole number"):
        parse_size(text)


# ---- by stable keys


def test_without_keys_the_order_is_what_it_always_was():
    """Written down before keys came: subsets that runs were made with stay."""
    labels = np.array([0, 1, 2, 7] * 6)
    assert nested_subsets(labels, [7], seed=3)[7].tolist() == [1, 5, 6, 11, 16, 20, 22]


def test_with_keys_others_do_not_matter():
    """A video that goes away leaves the order of the others as it is; where they stand does not matter either."""
    rng = np.random.default_rng(0)
    labels, keys = rng.integers(0, 5, 200), rng.integers(0, 2**64, 200, np.uint64)
    order = [int(keys[row]) for row in nested_order(labels, 1, keys)]
    moved = rng.permutation(200)
    assert [int(keys[moved][row]) for row in nested_order(labels[moved], 1, keys[moved])] == order
    kept = np.arange(200) % 7 != 0
    of_class = {int(key): int(label) for key, label in zip(keys, labels, strict=True)}
    fewer = [int(keys[kept][row]) for row in nested_order(labels[kept], 1, keys[kept])]
    for label in range(5):
        left = [key for key in order if of_class[key] == label and key in set(fewer)]
        assert left == [key for key in fewer if of_class[key] == label]


def test_with_keys_nested_and_balanced_where_classes_do_not_divide_the_size():
    rng = np.random.default_rng(1)
    labels, keys = np.repeat(np.arange(174), 20), rng.integers(0, 2**64, 174 * 20, np.uint64)
    subsets = nested_subsets(labels, [300, 1000, 3000], keys=keys)
    assert set(subsets[300]) < set(subsets[1000]) < set(subsets[3000])
    for size, rows in subsets.items():
        share, more = divmod(size, 174)
        assert np.bincount(labels[rows], minlength=174).tolist() == [share + 1] * more + [share] * (174 - more)
    assert nested_subsets(labels, [300], 1, keys)[300].tolist() != subsets[300].tolist()


def test_the_hash_is_splitmix64():
    """Output of the generator that starts from 0: 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F.

    They stand in java.util.SplittableRandom's tests and everywhere that seeds xoshiro. Key 0 and seed n give the
    (n + 1)th.
    """
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(hashed(np.zeros(1, np.uint64), seed)[0]) for seed in range(3)] == known


@pytest.mark.parametrize(
    ("counts", "size", "text", "from_others"),
    [
        ([125] * 400, 50_000, "400 classes 125", 0),
        ([173] * 72 + [172] * 102, 30_000, "174 classes 172 to 173", 0),
        ([127] * 40 + [125] * 354 + [98, 124, 110, 110, 110, 118], 50_000,
         "394 classes 125 to 127, 6 classes 98 to 124; 80 taken from other classes", 80),
        ([0, 4], 4, "1 class 4, 1 class 0; 2 taken from other classes", 2),
        ([1000, 2000], 4000, "1 class 2,000, 1 class 1,000", 0),
    ],
)  # fmt: skip
def test_how_a_subset_came_out(counts, size, text, from_others):
    report = balance({f"class {n}": count for n, count in enumerate(counts)}, size)
    assert (report["text"], report["from_others"]) == (text, from_others)


@pytest.mark.parametrize(("size", "name"), [(50_000, "50k"), (84, "84"), (1500, "1500"), (1000, "1k")])
def test_names_of_sizes(size, name):
    assert size_name(size) == name
    assert parse_size(name) == size
