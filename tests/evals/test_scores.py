"""The linear probe, the intervals, and the places of the test clips."""

from __future__ import annotations

import numpy as np
import pytest

from vidssl.evals.features import clip_indices
from vidssl.evals.linear import probe
from vidssl.evals.statistics import clustered_interval, wilson_interval
from vidssl.tasks.base import ClipSpec


def test_probe_reads_what_is_linear_and_nothing_else():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 30)
    centres = rng.normal(size=(3, 12)) * 2

    def clips(seen):
        noise = np.random.default_rng(seen).normal(size=(90, 4, 12))
        return (centres[labels][:, None] + noise).astype(np.float32)

    probabilities = probe(clips(1), labels, clips(2), 3, 1e-3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    assert (probabilities.argmax(1) == labels).mean() > 0.95
    noise = probe(rng.normal(size=(90, 4, 12)), labels, rng.normal(size=(90, 4, 12)), 3, 1e-3)
    assert (noise.argmax(1) == labels).mean() < 0.55


def test_probe_takes_any_scale_of_feature():
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(40, 2, 5)), np.arange(40) % 2
    x[labels == 1] += 1
    scale = np.array([1e-4, 1, 1e4, 1, 1])
    np.testing.assert_allclose(probe(x, labels, x, 2, 1e-2), probe(x * scale, labels, x * scale, 2, 1e-2), atol=1e-3)


def test_wilson_by_the_textbook():
    low, high = wilson_interval(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert wilson_interval(0.0, 10)[0] == 0.0 < wilson_interval(0.0, 10)[1]


def test_clips_of_one_video_are_not_independent():
    videos = np.repeat(np.arange(20), 10)
    per_video = np.arange(20) % 2
    same = per_video[videos].astype(float)  # all clips of a video agree: twenty draws, not two hundred
    low, high = clustered_interval(same, videos)
    independent_low, independent_high = clustered_interval(same, np.arange(200))
    assert high - low > 2.5 * (independent_high - independent_low)
    assert low < 0.5 < high


def test_unanimous_videos_do_not_look_certain():
    low, high = clustered_interval(np.ones(8), np.arange(8))
    assert low < 0.7
    assert high == 1.0


def test_ten_clips_of_sixteen_frames_by_hand():
    indices = clip_indices(np.array([34, 10]), ClipSpec(frames=16, size=112), 10)
    assert indices.shape == (2, 10, 16)
    assert indices[0, :, 0].tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert (np.diff(indices[0], axis=1) == 1).all()
    assert indices[1, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5]


def test_the_interval_is_that_of_the_videos_means_by_hand():
    # means 0.5, 1, 0, 0.5: deviation 0.40825, standard error 0.20412, 1.96 of them 0.40008
    scores, videos = np.array([1.0, 0, 1, 1, 0, 0, 1, 0]), np.repeat(np.arange(4), 2)
    assert clustered_interval(scores, videos) == pytest.approx((0.09992, 0.90008), abs=1e-4)


def test_a_score_below_zero_keeps_its_interval():
    """V-MAE's explained variation can be negative."""
    scores = np.array([-0.1, -0.1, 0.05, 0.05])
    low, high = clustered_interval(scores, np.array([0, 0, 1, 1]))
    assert (low, high) == pytest.approx((-0.025 - 1.96 * 0.075, -0.025 + 1.96 * 0.075))
    assert clustered_interval(np.full(4, -1.0), np.arange(4)) == (-1.0, -1.0)
