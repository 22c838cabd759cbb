"""What happens past the end of a video, and where test clips lie; all by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vidssl.data.sampling import extend, uniform_starts
from vidssl.errors import ConfigError


def test_policies_by_hand():
    indices, length = np.arange(9)[None], np.array([4])
    assert extend(indices, length, "reflect")[0].tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert extend(indices, length, "loop")[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert extend(indices, length, "clamp")[0].tolist() == [0, 1, 2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("policy", ["reflect", "loop", "clamp"])
def test_a_single_frame_and_enough_frames(policy):
    assert extend(np.arange(5)[None], np.array([1]), policy)[0].tolist() == [0] * 5
    assert extend(np.arange(5)[None], np.array([5]), policy)[0].tolist() == [0, 1, 2, 3, 4]


def test_unknown_policy():
    with pytest.raises(ConfigError, match="Did you mean 'reflect'"):
        extend(np.arange(3)[None], np.array([2]), "reflects")


def test_ten_starts_reach_from_the_first_to_the_last_frame():
    starts = uniform_starts(np.array([106, 16, 9]), span=16, clips=10)
    assert starts[0].tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert starts[1].tolist() == [0] * 10
    assert starts[2].tolist() == [0] * 10
    assert uniform_starts(np.array([26]), span=16, clips=1)[0].tolist() == [5]


def test_skip_takes_no_frame_past_the_end():
    inside = np.array([[0, 4]])
    assert extend(inside, np.array([5]), "skip").tolist() == [[0, 4]]
    with pytest.raises(ValueError, match="left out"):
        extend(inside, np.array([4]), "skip")
