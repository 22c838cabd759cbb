"""The fused colour map against its four steps in NumPy, and against kornia where the two define the same."""

import numpy as np
import pytest
import torch

from vidssl.transforms.colour import colour_matrix, jitter

LUMA = np.array([0.299, 0.587, 0.114])


def four_steps(x_CN, brightness, contrast, saturation, hue):
    """One clip, step by step, float64: x is [3, N] in [0, 1]."""
    x = x_CN * brightness
    x = contrast * x + (1 - contrast) * (LUMA @ x).mean()
    x = saturation * x + (1 - saturation) * (LUMA @ x)
    yiq = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
    y, i, q = yiq @ x
    a = 2 * np.pi * hue
    i, q = np.cos(a) * i + np.sin(a) * q, np.cos(a) * q - np.sin(a) * i
    return np.clip(np.linalg.inv(yiq) @ np.stack([y, i, q]), 0, 1)


def test_fused_map_is_the_four_steps():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 3, 4, 5, 6))
    factors = np.array([[0.6, 1.4, 0.8, 0.3], [1.5, 0.5, 1.25, -0.5], [1.1, 1.0, 1.0, 0.0]])
    got = jitter(torch.from_numpy(x).float(), torch.from_numpy(factors), scale=1 / 255).numpy()
    for b in range(3):
        want = four_steps(x[b].reshape(3, -1) / 255, *factors[b]).reshape(3, 4, 5, 6)
        assert np.abs(got[b] - want).max() < 1e-5


def test_factors_of_one_change_nothing():
    x = torch.rand(2, 3, 2, 4, 4)
    assert torch.allclose(jitter(x, torch.tensor([[1.0, 1.0, 1.0, 0.0]] * 2)), x, atol=1e-6)


def test_grey_stays_grey_and_luma_stays():
    matrix = colour_matrix(torch.tensor([0.7, 1.3]).double(), torch.tensor([0.2, -0.4]).double())
    assert torch.allclose(matrix.sum(2), torch.ones(2, 3).double(), atol=1e-12)
    luma = torch.from_numpy(LUMA)
    # YIQ's first row is the luma, so that turning hue and saturating leave it
    assert torch.allclose(luma @ matrix, luma.expand(2, 3), atol=1e-12)


def test_one_set_for_all_frames_of_a_clip():
    frame = torch.rand(1, 3, 1, 4, 4)
    clip = jitter(frame.expand(1, 3, 5, 4, 4), torch.tensor([[1.2, 0.7, 1.2, 0.1]]))
    assert torch.equal(clip, clip[:, :, :1].expand_as(clip))


def test_kornia_defines_the_linear_steps_alike():
    enhance = pytest.importorskip("kornia.enhance")
    x = 0.4 + 0.2 * torch.rand(1, 3, 1, 8, 8)
    image = x[:, :, 0]

    def ours(*factors):
        return jitter(x, torch.tensor([factors]))[:, :, 0]

    assert torch.allclose(ours(1.2, 1.0, 1.0, 0.0), enhance.adjust_brightness_accumulative(image, 1.2), atol=1e-6)
    assert torch.allclose(
        ours(1.0, 0.8, 1.0, 0.0), enhance.adjust_contrast_with_mean_subtraction(image, 0.8), atol=1e-5
    )
    assert torch.allclose(
        ours(1.0, 1.0, 0.7, 0.0), enhance.adjust_saturation_with_gray_subtraction(image, 0.7), atol=1e-5
    )


def test_half_a_turn_of_hue_goes_the_way_of_kornias():
    # another colour space, so the colours are not the same, but blue turns yellowish and red turns cyan in both
    red = torch.tensor([0.7, 0.3, 0.3]).view(1, 3, 1, 1, 1)
    turned = jitter(red, torch.tensor([[1.0, 1.0, 1.0, 0.5]])).flatten()
    assert turned[0] < turned[1]
    assert turned[0] < turned[2]
    third = jitter(red, torch.tensor([[1.0, 1.0, 1.0, 1 / 3]])).flatten()
    assert int(third.argmax()) == 1  # red + 1/3 turn is green, as in HSV
