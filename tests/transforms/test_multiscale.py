"""VideoMAE's crop: its tables, and its pixels against cutting out and resizing one clip at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vidssl.data.plan import uniforms
from vidssl.transforms.geometry import to_clip
from vidssl.transforms.multiscale import PLACES, SCALES, SHAPES, MultiScaleCrop

# what MCG-NJU/VideoMAE's own class offers a picture of 171x128 (crop_w, crop_h) and, for one of 102x70, (left, top)
SIZES = {
    *((128, 128), (112, 128), (128, 112), (112, 112), (96, 112), (112, 96), (96, 96), (84, 96), (96, 84), (84, 84)),
}
CORNERS = {
    *((0, 0), (68, 0), (0, 56), (68, 56), (34, 28), (0, 28), (68, 28), (34, 56), (34, 0)),
    *((17, 14), (51, 14), (17, 42), (51, 42)),
}


def test_tables_are_the_originals():
    sides = [int(128 * scale) for scale in SCALES]
    assert {(sides[wide], sides[tall]) for tall, wide in SHAPES} == SIZES
    steps = (171 - 102) // 4, (128 - 70) // 4
    assert {(right * steps[0], down * steps[1]) for down, right in PLACES} == CORNERS
    assert (len(SHAPES), len(PLACES)) == (10, 13)


@pytest.mark.parametrize("size", [16, 40, 64])
def test_a_crop_is_the_resized_slice(moving_frames, size):
    frames = moving_frames(height=40, width=53)
    shape, place = torch.tensor([9, 1]), torch.tensor([12, 2])
    got = MultiScaleCrop(size).apply(frames, {"shape": shape, "place": place})
    assert got.shape == (2, 3, 3, size, size)
    sides = [int(40 * scale) for scale in SCALES]
    for b in range(2):
        tall, wide = (sides[scale] for scale in SHAPES[shape[b]])
        down, right = PLACES[place[b]]
        top, left = down * ((40 - tall) // 4), right * ((53 - wide) // 4)
        piece = to_clip(frames[b : b + 1, :, top : top + tall, left : left + wide])[0].flatten(0, 1)[None]
        want = F.interpolate(piece, (size, size), mode="bilinear", align_corners=False, antialias=True) / 255
        assert torch.allclose(got[b].flatten(0, 1), want[0], atol=1e-5)


def test_a_crop_of_the_networks_size_is_the_exact_slice(moving_frames):
    frames = moving_frames(height=40, width=53)
    whole, centre = torch.tensor([0, 0]), torch.tensor([4, 4])
    got = MultiScaleCrop(40).apply(frames, {"shape": whole, "place": centre})
    assert torch.allclose(got, to_clip(frames[:, :, :, 6:46]) / 255, atol=1e-6)


def test_draws_are_pure_and_every_crop_is_as_likely():
    crop = MultiScaleCrop(16)
    u = uniforms(0, 0, np.arange(13000, dtype=np.uint64), crop.num_uniforms)
    drawn, alone = crop.draw(u), crop.draw(u[7:8])
    assert [int(drawn[key][7]) for key in drawn] == [int(alone[key][0]) for key in alone]
    counts = np.bincount(drawn["shape"] * 13 + drawn["place"], minlength=130)
    assert ((counts - 100) ** 2 / 100).sum() < 184.0  # chi-square, 129 degrees of freedom, 1 in 1000
