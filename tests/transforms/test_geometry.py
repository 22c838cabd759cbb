"""Crop, flip, rotation and resize against plain NumPy loops and torchvision."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vidssl.transforms.geometry import (
    Crop,
    _gather_crop,
    centre_clip,
    crop_flip,
    crop_side,
    offsets,
    quarter_turns,
    resize,
    to_clip,
    warp,
)


def slow_warp(image_HW, corner, flip, degrees, side, size):
    """Bilinear sampling of one channel by the definition, float64; black outside."""
    height, width = image_HW.shape
    top, left = corner
    a = math.radians(degrees)
    out = np.zeros((size, size))

    def pixel(y, x):
        return float(image_HW[y, x]) if 0 <= y < height and 0 <= x < width else 0.0

    for i in range(size):
        for j in range(size):
            u = (j + 0.5) * side / size
            x = left + (side - u if flip else u) - width / 2
            y = top + (i + 0.5) * side / size - height / 2
            px = x * math.cos(a) - y * math.sin(a) + width / 2 - 0.5
            py = x * math.sin(a) + y * math.cos(a) + height / 2 - 0.5
            x0, y0 = math.floor(px), math.floor(py)
            fx, fy = px - x0, py - y0
            out[i, j] = (1 - fy) * ((1 - fx) * pixel(y0, x0) + fx * pixel(y0, x0 + 1))
            out[i, j] += fy * ((1 - fx) * pixel(y0 + 1, x0) + fx * pixel(y0 + 1, x0 + 1))
    return out


@pytest.mark.parametrize("size", [35, 32, 40])
def test_warp_is_bilinear_sampling(moving_frames, size):
    frames = moving_frames()
    degrees, top, left = torch.tensor([9.0, -7.5]), torch.tensor([0, 4]), torch.tensor([18, 3])
    flip = torch.tensor([False, True])
    got = warp(frames, Crop(top, left, flip, 35), degrees, size)
    assert got.shape == (2, 3, 3, size, size)
    for b in range(2):
        for c, t in ((0, 0), (2, 1)):
            corner = int(top[b]), int(left[b])
            want = slow_warp(frames[b, t, :, :, c].numpy(), corner, bool(flip[b]), float(degrees[b]), 35, size)
            assert np.abs(got[b, c, t].numpy() - want).max() < 0.02  # of 255


def test_warp_turns_the_way_torchvision_does(moving_frames):
    transforms = pytest.importorskip("torchvision.transforms.v2")
    rotate, bilinear = transforms.functional.rotate, transforms.InterpolationMode.BILINEAR
    frames = moving_frames()
    want = rotate(to_clip(frames).flatten(1, 2), 8.0, interpolation=bilinear)[:, :, 2:37, 5:40].unflatten(1, (3, 3))
    crop = Crop(torch.full((2,), 2), torch.full((2,), 5), torch.zeros(2, dtype=torch.bool), 35)
    got = warp(frames, crop, torch.full((2,), 8.0), 35)
    # torchvision's grid is off by less than a hundredth of a pixel, and differs where black begins
    inside = slice(6, -6)
    assert (got - want)[..., inside, inside].abs().max() < 1.0


def test_warp_without_rotation_is_the_slice(moving_frames):
    frames = moving_frames()
    crop = Crop(torch.tensor([5, 1]), torch.tensor([0, 18]), torch.tensor([True, False]), 35)
    exact = to_clip(crop_flip(frames, crop))
    assert torch.allclose(warp(frames, crop, torch.zeros(2), 35), exact, atol=1e-2)


def test_warp_keeps_its_precision_under_autocast(moving_frames):
    frames, zero = moving_frames(), torch.zeros(2, dtype=torch.int64)
    arguments = (frames, Crop(zero, zero, zero.bool(), 35), torch.tensor([9.0, -7.5]), 35)
    plain = warp(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(warp(*arguments), plain)


def test_warp_does_not_alias_when_it_shrinks():
    # a chessboard of single pixels, 4 times smaller, is grey; bare bilinear sampling would still show black and white
    board = (torch.arange(80)[:, None] + torch.arange(107)).remainder(2).mul(255).to(torch.uint8)
    frames = board[None, None, :, :, None].expand(1, 2, 80, 107, 3)
    zero = torch.zeros(1, dtype=torch.int64)
    small = warp(frames, Crop(zero + 5, zero + 20, zero.bool(), 70), torch.tensor([10.0]), 17)[..., 2:-2, 2:-2]
    assert (small - 127.5).abs().max() < 20


def test_crop_flip_is_exact_and_both_ways_agree(moving_frames):
    frames = moving_frames()
    crop = Crop(torch.tensor([5, 0]), torch.tensor([2, 18]), torch.tensor([False, True]), 35)
    got = crop_flip(frames, crop)
    assert torch.equal(got[0], frames[0, :, 5:40, 2:37])
    assert torch.equal(got[1], frames[1, :, 0:35, 18:53].flip(2))
    assert torch.equal(got, _gather_crop(frames, crop))


def test_crop_side_is_112_of_128():
    assert [crop_side(h) for h in (128, 80, 240)] == [112, 70, 210]
    assert crop_side(128, 100) == 100


def test_offsets_cover_the_room():
    u = torch.tensor([0.0, 0.49, 0.5, 1 - 2**-24])
    assert offsets(u, 1).tolist() == [0, 0, 1, 1]
    assert offsets(u, 16).tolist() == [0, 8, 8, 16]
    assert offsets(u, 0).tolist() == [0, 0, 0, 0]


def test_centre_clip(moving_frames):
    frames = moving_frames(height=128, width=171)
    x = centre_clip(frames, 112)
    assert x.shape == (2, 3, 3, 112, 112)
    assert torch.equal(x[1, 2, 0] * 255, frames[1, 0, 8:120, 30:142, 2].float())
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    small = centre_clip(frames, 56)
    mean_of_four = F.avg_pool2d(x.flatten(1, 2), 2).unflatten(1, (3, 3))
    assert (small - mean_of_four)[..., 1:-1, 1:-1].abs().max() < 0.02


def test_resize_of_a_ramp_is_a_ramp():
    ramp = torch.arange(40.0).expand(1, 3, 2, 40, 40)
    assert resize(ramp, 40) is ramp
    middle = resize(ramp, 20)[0, 0, 0, 5, 3:-3]
    assert torch.allclose(middle, torch.arange(20)[3:-3] * 2 + 0.5, atol=1e-4)


def test_quarter_turns_by_hand():
    x = torch.arange(4.0).view(1, 1, 1, 2, 2).expand(4, 3, 2, 2, 2)  # 0 1 over 2 3
    got = quarter_turns(x, torch.arange(4))
    assert [clip[2, 1].flatten().tolist() for clip in got] == [[0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1]]


def test_quarter_turns_are_numpys(moving_frames):
    x = to_clip(moving_frames(batch=4, height=9, width=9))
    turns = torch.tensor([3, 0, 2, 1])
    got = quarter_turns(x, turns)
    for clip, before, k in zip(got, x, turns.tolist(), strict=True):
        assert np.array_equal(clip.numpy(), np.rot90(before.numpy(), k, axes=(2, 3)))
