"""What is looked at during a pre-training, against plain computations on small cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vidssl.evals.watch import TEMPERATURE, is_due, knn_votes, rankme, spread


def test_votes_by_hand():
    gallery = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    votes = knn_votes(np.array([[5.0, 0.0]]), gallery, np.array([0, 1, 1]), 2)
    assert votes[0] == pytest.approx([1.0, math.exp(-1 / TEMPERATURE) + math.exp(-2 / TEMPERATURE)])


def test_only_the_twenty_nearest_vote():
    angles = np.linspace(0, 1, 40)
    gallery = np.stack([np.cos(angles), np.sin(angles)], 1)
    votes = knn_votes(np.array([[1.0, 0.0]]), gallery, np.arange(40), 40)
    assert (votes[0] > 0).tolist() == [True] * 20 + [False] * 20


def test_rankme_counts_equal_directions():
    rng = np.random.default_rng(0)
    orthogonal, _ = np.linalg.qr(rng.normal(size=(32, 32)))
    for rank in (1, 3, 32):
        assert rankme(orthogonal[:, :rank] @ orthogonal[:rank]) == pytest.approx(rank, rel=1e-4)
    values = np.array([0.7, 0.2, 0.1])
    shares = values / values.sum()
    assert rankme(np.diag(values)) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    assert rankme(np.zeros((4, 3))) == 0.0


def test_spread_is_zero_for_equal_clips_and_one_for_uniform_directions():
    rng = np.random.default_rng(0)
    assert spread(np.tile(rng.normal(size=(1, 64)), (10, 1)) * np.arange(1, 11)[:, None]) == pytest.approx(0, abs=1e-7)
    assert spread(rng.normal(size=(4000, 64))) == pytest.approx(1, rel=0.01)


def test_looks_are_at_multiples_and_at_the_end():
    def looks(every, last):
        return [epochs for epochs in range(last + 1) if is_due(every, epochs, last)]

    assert looks(20, 50) == [0, 20, 40, 50]
    assert looks(2, 4) == [0, 2, 4]
    assert looks(20, 10) == [0, 10]
    assert looks(20, 0) == [0]
    assert looks(0, 10) == []
