"""The block structure of hand-made maps, and the file of a map."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vidssl.analysis.cka_map import CKAMap, block_structure
from vidssl.errors import RunError


def blocks(sizes: list[int], inside: float, outside: float) -> np.ndarray:
    values = np.full((sum(sizes), sum(sizes)), outside)
    begin = 0
    for size in sizes:
        values[begin : begin + size, begin : begin + size] = inside
        begin += size
    np.fill_diagonal(values, 1)
    return values


def test_the_largest_square_is_found():
    found = block_structure(blocks([2, 5, 3], 0.95, 0.2))
    assert (found.first, found.last, found.share) == (2, 6, 0.5)
    assert found.mean == pytest.approx((0.95 * (2 + 20 + 6) + 0.2 * (90 - 28)) / 90)


def test_a_band_along_the_diagonal_is_no_large_block():
    """Each layer is like its two neighbours: 18 of 90 pairs are bright, as in a block of almost five layers."""
    distance = np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
    found = block_structure(np.where(distance <= 1, 0.97, 0.3))
    assert (found.first, found.last, found.share) == (0, 1, 0.2)


def test_one_dark_pair_or_a_dead_layer_parts_a_block():
    values = np.ones((6, 6))
    values[1, 4] = values[4, 1] = 0.5
    found = block_structure(values)
    assert (found.first, found.last) == (0, 3)
    values[2] = values[:, 2] = np.nan
    found = block_structure(values)
    assert (found.first, found.last, found.share) == (3, 5, 0.5)
    assert found.mean == pytest.approx((18 + 2 * 0.5) / 20)


def test_no_block_and_all_one_block():
    assert block_structure(np.eye(4)).share == 0
    assert block_structure(np.eye(4)).mean == 0
    assert block_structure(np.full((4, 4), 0.9)).share == 1
    assert block_structure(np.full((4, 4), 0.8)).share == 0
    assert block_structure(np.full((4, 4), 0.8), threshold=0.7).share == 1


def a_map() -> CKAMap:
    values = blocks([2, 1], 0.95, 0.2)
    return CKAMap(list("abc"), list("abc"), values, 4, 128, 5, {"d": "a tuple"}, {}, True)


def test_summary_names_the_block_and_is_json():
    summary = json.loads(json.dumps(a_map().summary(), allow_nan=False))
    assert summary["layers"] == [3, 3]
    assert (summary["block"]["from"], summary["block"]["to"]) == ("a", "b")
    assert summary["block"]["share"] == pytest.approx(2 / 3)
    assert summary["dropped"] == 5
    dead = CKAMap(["a"], ["b"], np.array([[np.nan]]), 1, 4, 0)
    assert json.loads(json.dumps(dead.summary(), allow_nan=False))["undefined"] == ["a", "b"]


def test_a_map_comes_back_from_its_file(tmp_path):
    a_map().save(tmp_path / "cka.npz")
    back = CKAMap.load(tmp_path / "cka.npz")
    np.testing.assert_array_equal(back.values_LL, a_map().values_LL)
    assert back.summary() == a_map().summary()
    assert back.itself is True
    (tmp_path / "cka.npz").write_bytes(b"no")
    with pytest.raises(RunError, match="cannot be read as a CKA map"):
        CKAMap.load(tmp_path / "cka.npz")
