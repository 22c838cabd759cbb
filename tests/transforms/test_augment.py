"""The shared augmentation: drawn purely, applied alike to all frames, each piece can be turned off."""

import numpy as np
import pytest
import torch

from vidssl.data.plan import uniforms
from vidssl.errors import ConfigError
from vidssl.transforms.augment import CENTRE_ONLY, AugmentationArgs, SharedAugmentation


def drawn(augmentation, count=500, seed=0):
    return augmentation.draw(uniforms(seed, 0, np.arange(count, dtype=np.uint64), augmentation.num_uniforms))


def tensors(params, rows=slice(None)):
    return {name: torch.from_numpy(values[rows]) for name, values in params.items()}


def test_ranges_and_purity():
    params = drawn(SharedAugmentation())
    for name, values in drawn(SharedAugmentation()).items():
        assert np.array_equal(values, params[name])
    assert -10 <= params["degrees"].min() < -9.5
    assert 9.5 < params["degrees"].max() <= 10
    assert 0.4 < params["flip"].mean() < 0.6
    low, high = params["jitter"].min(0), params["jitter"].max(0)
    assert np.allclose(low, [0.5, 0.5, 0.75, -0.5], atol=0.02)
    assert np.allclose(high, [1.5, 1.5, 1.25, 0.5], atol=0.02)
    assert params["crop"].max() < 1


def test_the_largest_uniform_stays_in_the_room(moving_frames):
    augmentation = SharedAugmentation(AugmentationArgs(rotation_degrees=0, jitter=(0, 0, 0, 0)), size=35)
    params = tensors(augmentation.draw(np.full((1, 8), 1 - 2**-53)))
    frames = moving_frames(batch=1)
    assert torch.equal(augmentation.apply(frames, params)[0, 0, 0] * 255, frames[0, 0, 5:40, 18:53, 0].float())


def test_all_off_is_the_centre_crop_exactly(moving_frames):
    frames = moving_frames(height=128, width=171)
    centre = SharedAugmentation(CENTRE_ONLY, size=112)
    x = centre.apply(frames, tensors(drawn(centre, 2)))
    assert torch.equal((x * 255).round().to(torch.uint8), frames[:, :, 8:120, 30:142].permute(0, 4, 1, 2, 3))


@pytest.mark.parametrize("size", [35, 24])
def test_frames_of_a_clip_are_treated_alike(moving_frames, size):
    frames = moving_frames(batch=3, frames=1).expand(3, 4, -1, -1, -1)
    x = SharedAugmentation(size=size).apply(frames, tensors(drawn(SharedAugmentation(), 3)))
    assert x.shape == (3, 3, 4, size, size)
    assert torch.equal(x, x[:, :, :1].expand_as(x))
    assert not torch.allclose(x[0], x[1], atol=0.05)
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


def test_turning_a_piece_off_leaves_the_others():
    everything = drawn(SharedAugmentation())
    still = drawn(SharedAugmentation(AugmentationArgs(rotation_degrees=0)))
    assert np.array_equal(everything["crop"], still["crop"])
    assert np.array_equal(everything["jitter"], still["jitter"])
    assert not still["degrees"].any()


@pytest.mark.parametrize(
    "options",
    [{"crop": "corner"}, {"flip": 2}, {"rotation_degrees": -1}, {"jitter": (1, 1, 1)}, {"jitter": (0, 0, 0, 0.6)}],
)
def test_wrong_options(options):
    with pytest.raises(ConfigError):
        AugmentationArgs(**options)
