"""Gamma, solarise, dropped channels and erased rectangles, against kornia and by counting."""

import numpy as np
import pytest
import torch

from vidssl.transforms.pointwise import power, seen, solarise


def clips(batch=3, size=8):
    return torch.rand(batch, 3, 2, size, size, generator=torch.Generator().manual_seed(0))


def test_gamma_is_kornias_and_a_power():
    enhance = pytest.importorskip("kornia.enhance")
    x, gamma = clips(), torch.tensor([0.75, 1.0, 1.25])
    x[0, 0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    got = power(x.clone(), gamma)
    assert torch.equal(got[1], x[1])
    for b in range(3):
        want = enhance.adjust_gamma(x[b].transpose(0, 1), float(gamma[b])).transpose(0, 1)
        assert torch.allclose(got[b], want, atol=1e-6)
        assert np.allclose(got[b].numpy(), x[b].double().numpy() ** float(gamma[b]), atol=1e-6)


def test_solarise_is_kornias_for_the_chosen_and_nothing_for_the_others():
    enhance = pytest.importorskip("kornia.enhance")
    x = clips()
    x[:, 0, 0, 0, :4] = torch.tensor([0.0, 0.5, 0.50001, 1.0])
    got = solarise(x.clone(), torch.tensor([True, False, True]))
    assert torch.equal(got[1], x[1])
    for b in (0, 2):
        assert torch.equal(got[b], enhance.solarize(x[b].transpose(0, 1), 0.5).transpose(0, 1))


def test_a_dropped_channel_is_black_and_the_others_are_not():
    none = torch.zeros(4, 4)
    mask = seen(torch.tensor([-1, 0, 1, 2]), none, 5)
    assert mask.shape == (4, 3, 1, 5, 5)
    want = torch.ones(4, 3)
    want[[1, 2, 3], [0, 1, 2]] = 0
    assert torch.equal(mask, want[:, :, None, None, None].expand_as(mask))


def test_a_rectangle_has_its_size_and_place():
    top_left, bottom_right = [0.1, 0.2, 0.0, 0.0], [0.25, 0.05, 1 - 2**-24, 1 - 2**-24]
    mask = seen(torch.tensor([-1, -1, 1]), torch.tensor([top_left, bottom_right, bottom_right]), 20)
    want = torch.ones(3, 3, 20, 20)
    want[0, :, :2, :4] = 0
    want[1:, :, 15:, 19:] = 0
    want[2, 1] = 0
    assert torch.equal(mask[:, :, 0], want)


def test_a_rectangle_lies_anywhere_in_the_picture():
    place = torch.cartesian_prod(torch.arange(8) / 8, torch.arange(8) / 8)
    mask = seen(torch.full((64,), -1), torch.cat([torch.full((64, 2), 0.3), place], 1), 10)
    corners = [tuple((clip[0, 0] == 0).nonzero()[0].tolist()) for clip in mask]
    assert sorted(set(corners)) == [(y, x) for y in range(8) for x in range(8)]
    assert ((mask[:, 0, 0] == 0).sum((1, 2)) == 9).all()
