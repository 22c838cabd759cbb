"""Retrieval against brute force, ties, chance, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidssl import create_backbone
from vidssl.errors import ConfigError
from vidssl.evals import retrieval
from vidssl.evals.features import feature
from vidssl.evals.retrieval import chance_hits, nearest, topk_hits
from vidssl.evals.suite import check_ks


def brute_force(q, ql, g, gl, k):
    hits = 0
    for query, label in zip(q, ql, strict=True):
        cosine = [float(query @ other / (np.linalg.norm(query) * np.linalg.norm(other))) for other in g]
        ranked = sorted(range(len(g)), key=lambda i: (-cosine[i], i))[:k]
        hits += any(gl[i] == label for i in ranked)
    return hits / len(q)


def test_equals_brute_force():
    rng = np.random.default_rng(0)
    q, g = rng.normal(size=(40, 7)), rng.normal(size=(90, 7))
    ql, gl = rng.integers(0, 9, 40), rng.integers(0, 9, 90)
    result = topk_hits(q, ql, g, gl, (1, 5, 20))
    assert result == {k: brute_force(q, ql, g, gl, k) for k in (1, 5, 20)}
    assert result[1] < result[5] < result[20]


def test_ties_go_to_the_earlier_gallery_item():
    gallery = np.array([[1.0, 0], [2.0, 0], [0, 1.0]])
    assert topk_hits(np.array([[3.0, 0]]), np.array([7]), gallery, np.array([5, 7, 7]), (1, 2)) == {1: 0.0, 2: 1.0}


def test_length_of_a_feature_does_not_matter():
    gallery = np.array([[100.0, 100.0], [0.1, 0.0]])
    assert topk_hits(np.array([[1.0, 0.05]]), np.array([1]), gallery, np.array([0, 1]), (1,)) == {1: 1.0}


def test_chance_equals_random_features_on_average():
    rng = np.random.default_rng(1)
    ql, gl = rng.integers(0, 4, 60), rng.integers(0, 5, 50)
    expected = chance_hits(ql, gl, (1, 5))
    runs = [topk_hits(rng.normal(size=(60, 3)), ql, rng.normal(size=(50, 3)), gl, (1, 5)) for _ in range(150)]
    for k in (1, 5):
        assert np.mean([run[k] for run in runs]) == pytest.approx(expected[k], abs=0.02)


def test_k_beyond_the_gallery_is_refused():
    with pytest.raises(ConfigError, match="1 to 3"):
        topk_hits(np.eye(3), np.arange(3), np.eye(3), np.arange(3), (1, 5))


def test_many_equal_videos_are_ranked_by_their_place_in_the_gallery():
    """More of them than candidates are looked at, in a gallery larger than a block of the product."""
    rng = np.random.default_rng(3)
    distinct = rng.normal(size=(7, 33)).astype(np.float32)
    copies = rng.integers(0, 7, 900)
    gallery, queries = distinct[copies] * 2.0 ** rng.integers(-2, 3, (900, 1)), distinct
    found = nearest(queries, gallery, 50)
    for q in range(7):
        assert found.rows[q].tolist() == np.flatnonzero(copies == q)[:50].tolist()
    np.testing.assert_allclose(found.similarity, 1, atol=1e-6)


def test_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(4)
    q, g = rng.normal(size=(23, 9)), rng.normal(size=(70, 9))
    g[40:60] = g[:20]
    whole = nearest(q, g, 30)
    monkeypatch.setattr(retrieval, "_PRODUCTS", 150)
    monkeypatch.setattr(retrieval, "_CHUNK", 3)
    parts = nearest(q, g, 30)
    assert np.array_equal(whole.rows, parts.rows)
    exact = (q / np.linalg.norm(q, axis=1)[:, None]) @ (g / np.linalg.norm(g, axis=1)[:, None]).T
    for row, similarity, expected in zip(whole.rows, whole.similarity, exact.round(9), strict=True):
        assert row.tolist() == sorted(range(70), key=lambda i: (-expected[i], i))[:30]
        np.testing.assert_allclose(similarity, expected[row], atol=1e-6)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ConfigError, match="run away"):
        nearest(np.array([[np.nan, 1.0]]), np.eye(2), 1)


def test_ks_of_a_small_gallery():
    assert check_ks([1, 5, 10, 20, 50], 12) == [1, 5, 10]
    assert check_ks([5, 1], 5) == [1, 5]
    with pytest.raises(ConfigError, match="k = 13 is outside 1 to 12"):
        check_ks([1, 13], 12)


@pytest.mark.parametrize(("name", "width"), [("r21d", 9216), ("shufflenet", 960 * 2 * 2 * 2)])
def test_the_map_is_vcops_feature(name, width):
    """R(2+1)D: 512 channels on 2x7x7 places; ShuffleNet: 960 on 2x4x4."""
    backbone = create_backbone(name).eval()
    with torch.inference_mode():
        flat = feature(backbone, "map")(torch.rand(1, 3, 16, 112, 112))
    assert flat.shape == (1, width)
