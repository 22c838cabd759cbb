"""Frame arithmetic by hand and by plain loops."""

import numpy as np

from vidssl.transforms.time import clip_tuple, dilate, random_start, reverse, shrink_gap, shuffle


def test_a_window_starts_anywhere_that_it_fits_and_at_0_where_it_does_not():
    u = np.linspace(0, 1, 600, endpoint=False)
    assert np.bincount(random_start(u, np.full(600, 20), 15)).tolist() == [100] * 6
    assert random_start(np.array([0.0, 0.99]), np.array([15, 7]), 15).tolist() == [0, 0]
    own = random_start(np.array([0.99, 0.99]), np.array([20, 20]), np.array([18, 20]))
    assert own.tolist() == [2, 0]
    assert random_start(np.array([1 - 2**-53]), np.array([2**40]), 1).tolist() == [2**40 - 1]


def test_dilation_by_hand():
    assert dilate(np.array([5, 0]), 4, 2).tolist() == [[5, 7, 9, 11], [0, 2, 4, 6]]
    assert dilate(np.array([5, 0]), 3, np.array([1, 8])).tolist() == [[5, 6, 7], [0, 8, 16]]
    assert dilate(np.array([[0, 9]]), 2, 4).tolist() == [[[0, 4], [9, 13]]]


def test_clips_of_a_tuple_by_hand():
    clips = clip_tuple(np.array([10, 0]), 3, 2, np.array([8, 0]))
    assert clips.tolist() == [[[10, 11], [20, 21], [30, 31]], [[0, 1], [2, 3], [4, 5]]]
    assert clip_tuple(np.array([1]), 2, 2, 3).tolist() == [[[1, 2], [6, 7]]]


def test_the_gap_is_the_largest_that_fits():
    lengths = np.arange(1, 100)
    for length, gap in zip(lengths, shrink_gap(lengths, 3, 16, 8), strict=True):
        fitting = [g for g in range(9) if 3 * 16 + 2 * g <= length]
        assert gap == max(fitting, default=0)


def test_clips_are_shown_in_the_order_named():
    clips = np.arange(12).reshape(2, 3, 2)
    shown = shuffle(clips, np.array([[2, 0, 1], [0, 1, 2]]))
    assert shown.tolist() == [[[4, 5], [0, 1], [2, 3]], [[6, 7], [8, 9], [10, 11]]]


def test_only_the_chosen_run_backwards():
    assert reverse(np.array([[1, 2, 3], [4, 5, 6]]), np.array([True, False])).tolist() == [[3, 2, 1], [4, 5, 6]]
