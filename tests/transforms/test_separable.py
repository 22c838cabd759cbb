"""Random resized crop and blur as matrices: their pixels against torchvision and kornia, their law against theirs."""

import numpy as np
import pytest
import torch

from tests.transforms.laws import same_law, uniform_between
from vidssl.transforms.colour import jitter
from vidssl.transforms.geometry import apply_separable, blur_matrix, resize_matrix, resized_crop, to_clip


def tries(count, area, aspect, seed=0):
    """Areas, shapes and places as a view draws them."""
    u = np.random.default_rng(seed).random((count, 22)).astype(np.float32)
    low, high = np.log(aspect)
    made = area[0] + u[:, :10] * (area[1] - area[0]), np.exp(low + u[:, 10:20] * (high - low)), u[:, 20:]
    return [torch.from_numpy(values.astype(np.float32)) for values in made]


@pytest.mark.parametrize("size", [16, 32, 48])
def test_a_resized_crop_is_torchvisions(moving_frames, size):
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    x = to_clip(moving_frames(batch=4))
    boxes = [(0, 0, 40, 53), (3, 7, 17, 45), (20, 30, 20, 23), (11, 0, 25, 12)]
    top, left, tall, wide = torch.tensor(boxes).unbind(1)
    got = apply_separable(x, resize_matrix(top, tall, 40, size), resize_matrix(left, wide, 53, size))
    assert got.shape == (4, 3, 3, size, size)
    for b, box in enumerate(boxes):
        want = functional.resized_crop(x[b], *box, [size, size], antialias=True)
        assert (got[b] - want).abs().max() < 2e-3  # of 255


@pytest.mark.parametrize(("area", "aspect"), [((0.3, 1.0), (0.5, 2.0)), ((0.08, 1.0), (0.75, 4 / 3))])
def test_the_law_of_a_crop_is_torchvisions(area, aspect):
    transforms = pytest.importorskip("torchvision.transforms")
    picture = torch.empty(3, 128, 171)
    torch.manual_seed(0)
    theirs = [transforms.RandomResizedCrop.get_params(picture, area, aspect) for _ in range(4000)]
    theirs = np.array(theirs, float).T
    ours = [values.double().numpy() for values in resized_crop(*tries(20000, area, aspect), (128, 171), aspect)]
    for name, mine, other in zip(("top", "left", "height", "width"), ours, theirs, strict=True):
        assert same_law(mine, other), name
    # and together: size, shape, and how far the crop lies towards one corner of the room that it has
    assert same_law(ours[2] * ours[3], theirs[2] * theirs[3])
    assert same_law(ours[2] / ours[3], theirs[2] / theirs[3])
    corner = [box[0] / np.maximum(128 - box[2], 1) - box[1] / np.maximum(171 - box[3], 1) for box in (ours, theirs)]
    assert same_law(*corner)


def test_area_and_shape_of_small_crops_are_uniform():
    _, _, tall, wide = resized_crop(*tries(5000, (0.02, 0.2), (0.5, 2.0)), (1280, 1710), (0.5, 2.0))
    assert uniform_between((tall * wide).double().numpy() / (1280 * 1710), 0.02, 0.2)
    assert uniform_between((wide / tall).log().double().numpy(), np.log(0.5), np.log(2.0))


def test_the_first_try_that_fits_is_taken():
    area, aspect, place = tries(300, (0.7, 1.0), (0.5, 2.0))
    boxes = torch.stack(resized_crop(area, aspect, place, (128, 171), (0.5, 2.0)), 1)
    fallen_back = 0
    for n, (top, left, tall, wide) in enumerate(boxes.tolist()):
        for a, r in zip(area[n].tolist(), aspect[n].tolist(), strict=True):
            w, h = round((a * 128 * 171 * r) ** 0.5), round((a * 128 * 171 / r) ** 0.5)
            if w <= 171 and h <= 128:
                assert (tall, wide) == (h, w)
                assert (top, left) == (int(place[n, 0] * (129 - h)), int(place[n, 1] * (172 - w)))
                break
        else:
            fallen_back += 1
            assert (top, left, tall, wide) == (0, 0, 128, 171)
    assert 0 < fallen_back < 300


@pytest.mark.parametrize("aspect", [(0.5, 0.6), (2.0, 3.0)])
def test_where_none_fits_the_crop_is_torchvisions_middle(aspect):
    transforms = pytest.importorskip("torchvision.transforms")
    theirs = transforms.RandomResizedCrop.get_params(torch.empty(3, 128, 171), (1.0, 1.0), aspect)
    boxes = torch.stack(resized_crop(*tries(50, (1.0, 1.0), aspect), (128, 171), aspect), 1)
    assert boxes.unique(dim=0).tolist() == [list(theirs)]


def test_blur_is_kornias(moving_frames):
    filters = pytest.importorskip("kornia.filters")
    x = to_clip(moving_frames(batch=4, frames=2))[..., :40, :40] / 255
    sigma = torch.tensor([0.1, 0.7, 1.3, 2.0])
    blur = blur_matrix(sigma, 40, 2.0)
    got = apply_separable(x, blur, blur)
    for b in range(4):
        image = x[b].transpose(0, 1)
        want = filters.gaussian_blur2d(image, (13, 13), sigma[b].expand(2, 2), border_type="reflect")
        assert (got[b].transpose(0, 1) - want).abs().max() < 1e-5
    assert (got[3] - x[3]).abs().max() > 0.02


def test_no_deviation_is_no_blur_and_weights_sum_to_one():
    blur = blur_matrix(torch.tensor([0.0, 2.0]), 30, 2.0)
    assert torch.equal(blur[0], torch.eye(30))
    assert torch.allclose(blur.sum(2), torch.ones(2, 30), atol=1e-6)
    tiny = blur_matrix(torch.tensor([4.0]), 8, 4.0)  # the mirror image of the whole picture is within reach
    distance = torch.arange(-7, 8).double()
    weight = torch.exp(-0.5 * (distance / 4) ** 2)
    want = torch.zeros(8, dtype=torch.double).index_add(0, distance.abs().long(), weight / weight.sum())
    assert torch.allclose(tiny[0, 0].double(), want, atol=1e-6)


def test_blur_commutes_with_the_colour_map():
    x = 0.4 + 0.2 * torch.rand(2, 3, 2, 24, 24)  # far enough from black and white for nothing to be clamped
    blur, factors = blur_matrix(torch.tensor([0.8, 1.9]), 24, 2.0), torch.tensor([[1.2, 0.8, 1.2, 0.1]] * 2)
    # the contrast's pivot is the clip's mean, which mirrored edges move a little; without contrast it is exact
    factors[:, 1] = 1
    first = jitter(apply_separable(x, blur, blur), factors)
    last = apply_separable(jitter(x, factors), blur, blur)
    assert torch.allclose(first, last, atol=1e-5)
