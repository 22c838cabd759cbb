"""Tube masks against counts by hand, and the numbering of cells and pixels against plain loops."""

import itertools

import numpy as np
import pytest
import torch

from vidssl.data.plan import uniforms
from vidssl.transforms.masking import cut, join, num_hidden, over_time, pick, to_pixels, tube_places

GRID, TUBELET = (2, 2, 3), (2, 4, 5)


def numbers(count, places, seed=0):
    return uniforms(seed, 0, np.arange(count, dtype=np.uint64), places)


@pytest.mark.parametrize(
    ("places", "ratio", "hidden"), [(49, 0.9, 44), (196, 0.9, 176), (196, 0.75, 147), (16, 0.9, 14), (1, 0.9, 0)]
)
def test_counts_are_videomaes(places, ratio, hidden):
    assert num_hidden(places, ratio) == hidden
    seen_NV, hidden_NM = tube_places(numbers(5, places), ratio)
    assert seen_NV.shape == (5, places - hidden)
    assert hidden_NM.shape == (5, hidden)


def test_every_place_is_either_seen_or_hidden_and_order_is_kept():
    seen_NV, hidden_NM = tube_places(numbers(100, 49), 0.9)
    assert (np.diff(seen_NV) > 0).all()
    assert (np.diff(hidden_NM) > 0).all()
    assert np.array_equal(np.sort(np.concatenate([seen_NV, hidden_NM], 1)), np.tile(np.arange(49), (100, 1)))


def test_each_sample_is_its_own():
    seen_NV, hidden_NM = tube_places(numbers(100, 49), 0.9)
    alone_seen, alone_hidden = tube_places(numbers(100, 49)[7:8], 0.9)
    assert np.array_equal(alone_seen[0], seen_NV[7])
    assert np.array_equal(alone_hidden[0], hidden_NM[7])
    assert len(np.unique(hidden_NM, axis=0)) == 100


def test_every_choice_of_places_is_as_likely():
    choices = {choice: n for n, choice in enumerate(itertools.combinations(range(5), 3))}
    _, hidden_NM = tube_places(numbers(6000, 5), 0.6)
    counts = np.bincount([choices[tuple(row)] for row in hidden_NM.tolist()], minlength=10)
    assert ((counts - 600) ** 2 / 600).sum() < 27.9  # chi-square, 9 degrees of freedom, 1 in 1000


def test_cells_repeat_in_every_time_slot_and_count_along_width_then_height_then_time():
    places_BP = torch.tensor([[1, 3], [0, 5]])
    assert over_time(places_BP, GRID).tolist() == [[1, 3, 7, 9], [0, 5, 6, 11]]


def test_pixels_of_cells():
    cells_BM = torch.tensor([[4, 7], [11, 0]])
    mask = to_pixels(cells_BM, GRID, TUBELET)
    assert mask.shape == (2, 1, 4, 8, 15)
    for b, t, y, x in itertools.product(range(2), range(4), range(8), range(15)):
        cell = (t // 2 * 2 + y // 4) * 3 + x // 5
        assert mask[b, 0, t, y, x] == (cell in cells_BM[b])


def test_cutting_is_a_plain_loop_and_joining_undoes_it():
    x_BCTHW = torch.rand(2, 3, 4, 8, 15)
    cells_BND = cut(x_BCTHW, TUBELET)
    assert cells_BND.shape == (2, 12, 120)
    for n, (slot, row, column) in enumerate(itertools.product(range(2), range(2), range(3))):
        values = [
            x_BCTHW[1, c, slot * 2 + t, row * 4 + h, column * 5 + w]
            for t, h, w, c in itertools.product(range(2), range(4), range(5), range(3))
        ]
        assert cells_BND[1, n].tolist() == torch.stack(values).tolist()
    assert torch.equal(join(cells_BND, GRID, TUBELET), x_BCTHW)


def test_picking_keeps_the_order_that_is_asked_for():
    x_BND = torch.arange(24.0).view(2, 4, 3)
    assert pick(x_BND, torch.tensor([[2, 0], [1, 3]]))[:, :, 0].tolist() == [[6.0, 0.0], [15.0, 21.0]]
