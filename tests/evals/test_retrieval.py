"""Retrieval against brute force, ties, chance, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from vidssl.errors import ConfigError
from vidssl.evals.retrieval import chance_hits, topk_hits


def brute_force(q, ql, g, gl, k):
    hits = 0
    for feature, label in zip(q, ql, strict=True):
        cosine = [float(feature @ other / (np.linalg.norm(feature) * np.linalg.norm(other))) for other in g]
        nearest = sorted(range(len(g)), key=lambda i: (-cosine[i], i))[:k]
        hits += any(gl[i] == label for i in nearest)
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
