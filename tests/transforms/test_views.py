"""A view: drawn purely, every law as stated, and its pixels those of one plain operation after the other."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.transforms.laws import as_likely_as, uniform_between
from vidssl.data.plan import uniforms
from vidssl.errors import ConfigError
from vidssl.transforms.augment import SharedAugmentation
from vidssl.transforms.colour import jitter
from vidssl.transforms.geometry import resized_crop, to_clip
from vidssl.transforms.views import ViewArgs, ViewAugmentation

NO_JITTER = (0.0, 0.0, 0.0, 0.0)
EVERYTHING = {
    **{"jitter": (0.4, 0.3, 0.3, 0.2), "jitter_probability": 0.8, "grey": 0.2, "blur": 0.6, "gamma_probability": 0.7},
    **{"solarise": 0.4, "channel_drop": 0.3, "erase": 0.5},
}


def numbers(count, seed=0):
    return uniforms(seed, 0, np.arange(count, dtype=np.uint64), ViewAugmentation.num_uniforms)


def drawn(count=20000, **options):
    return ViewAugmentation(ViewArgs(**options), 112).draw(numbers(count))


def tensors(params):
    return {name: torch.from_numpy(values) for name, values in params.items()}


def view(frames, size=32, seed=0, **options):
    """The view of these frames, and its parameters."""
    augmentation = ViewAugmentation(ViewArgs(**options), size)
    params = tensors(augmentation.draw(numbers(len(frames), seed)))
    return augmentation.apply(frames, params), params


def test_the_defaults_are_the_shared_augmentation_bit_for_bit(moving_frames):
    frames, shared = moving_frames(batch=3), SharedAugmentation(size=32)
    want = shared.apply(frames, tensors(shared.draw(numbers(3)[:, : SharedAugmentation.num_uniforms])))
    assert torch.equal(view(frames)[0], want)


def test_a_sample_draws_the_same_alone_and_among_others():
    augmentation = ViewAugmentation(ViewArgs(geometry="resized", **EVERYTHING), 112)
    together, alone = augmentation.draw(numbers(50)), augmentation.draw(numbers(50)[7:8])
    for name, values in together.items():
        assert len(values) == 50
        assert np.array_equal(values[7:8], alone[name])


def test_each_piece_comes_as_often_as_stated():
    params = drawn(**EVERYTHING, flip=0.3)
    came = {
        "flip": (params["flip"], 0.3),
        "jitter": (params["jitter"][:, 0] != 1, 0.8),
        "grey": ((params["jitter"][:, 2:] == 0).all(1), 0.2),
        "blur": (params["sigma"] > 0, 0.6),
        "gamma": (params["gamma"] != 1, 0.7),
        "solarise": (params["solarise"], 0.4),
        "channel_drop": (params["dropped"] >= 0, 0.3),
        "erase": (params["erase"][:, 0] > 0, 0.5),
    }
    for name, (hits, probability) in came.items():
        assert as_likely_as(hits, probability), name
        for other, (hits_too, probability_too) in came.items():
            if name < other:
                assert as_likely_as(hits & hits_too, probability * probability_too), (name, other)
    for channel in range(3):
        assert as_likely_as(params["dropped"] == channel, 0.1)


def test_ranges_and_their_laws():
    params = drawn(geometry="resized", **{**EVERYTHING, "jitter_probability": 1.0, "grey": 0.0})
    jitter_4 = params["jitter"].T
    for values, low, high in zip(jitter_4, (0.6, 0.7, 0.7, -0.2), (1.4, 1.3, 1.3, 0.2), strict=True):
        assert uniform_between(values, low, high)
    assert uniform_between(params["sigma"][params["sigma"] > 0], 0.1, 2.0)
    assert uniform_between(params["gamma"][params["gamma"] != 1], 0.75, 1.25)
    assert uniform_between(params["area"][:, 3], 0.3, 1.0)
    assert uniform_between(np.log(params["aspect"][:, 9]), np.log(0.5), np.log(2.0))
    erase = params["erase"][params["erase"][:, 0] > 0]
    for values, low, high in zip(erase.T, (0.08, 0.08, 0.0, 0.0), (0.16, 0.16, 1.0, 1.0), strict=True):
        assert uniform_between(values, low, high)
    assert uniform_between(params["degrees"], -10, 10)
    assert uniform_between(params["crop"][:, 1], 0, 1)


@pytest.mark.parametrize(
    ("off", "changed"),
    [
        ({"rotation_degrees": 0.0}, {"degrees"}),
        ({"flip": 0.0}, {"flip"}),
        ({"jitter_probability": 0.0}, {"jitter"}),
        ({"grey": 0.0}, {"jitter"}),
        ({"blur": 0.0}, {"sigma"}),
        ({"gamma_probability": 0.0}, {"gamma"}),
        ({"solarise": 0.0}, {"solarise"}),
        ({"channel_drop": 0.0}, {"dropped"}),
        ({"erase": 0.0}, {"erase"}),
        ({"geometry": "shared"}, set()),
    ],
)
def test_turning_a_piece_off_leaves_the_numbers_of_the_others(off, changed):
    before, after = (
        drawn(200, geometry="resized", **EVERYTHING),
        drawn(200, **{"geometry": "resized", **EVERYTHING, **off}),
    )
    assert {name for name in before if not np.array_equal(before[name], after[name])} == changed
    if "grey" in off:
        coloured = before["jitter"][:, 2] != 0
        assert np.array_equal(before["jitter"][coloured], after["jitter"][coloured])


def test_a_resized_view_is_one_operation_after_the_other(moving_frames):
    """Each clip alone through torchvision and kornia, in the order of CVRL with the blur in its place."""
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    filters, enhance = pytest.importorskip("kornia.filters"), pytest.importorskip("kornia.enhance")
    frames = moving_frames(batch=12)
    got, params = view(frames, geometry="resized", aspect=(0.6, 1.8), seed=3, **EVERYTHING)
    boxes = torch.stack(resized_crop(params["area"], params["aspect"], params["crop"], (40, 53), (0.6, 1.8)), 1)
    for name in ("sigma", "solarise", "flip"):
        assert 0 < (params[name] > 0).sum() < 12, name
    for b, box in enumerate(boxes.tolist()):
        x = functional.resized_crop(to_clip(frames)[b].transpose(0, 1), *box, [32, 32], antialias=True) / 255
        x = x.flip(3) if params["flip"][b] else x
        if params["sigma"][b]:
            x = filters.gaussian_blur2d(x, (13, 13), params["sigma"][b].expand(3, 2), border_type="reflect")
        x = jitter(x.transpose(0, 1)[None], params["jitter"][b : b + 1])[0].transpose(0, 1)
        x = enhance.adjust_gamma(x, float(params["gamma"][b]))
        if params["solarise"][b]:
            # what lies at the threshold may fall to either side of it
            x = torch.where((x - 0.5).abs() < 1e-5, got[b].transpose(0, 1), enhance.solarize(x, 0.5))
        if params["dropped"][b] >= 0:
            x[:, params["dropped"][b]] = 0
        tall, wide, down, right = params["erase"][b].tolist()
        tall, wide = round(tall * 32), round(wide * 32)
        top, left = int(down * (33 - tall)), int(right * (33 - wide))
        x[:, :, top : top + tall, left : left + wide] = 0
        assert (got[b].transpose(0, 1) - x).abs().max() < 1e-4


def test_a_shared_view_with_blur_is_the_shared_augmentation_blurred(moving_frames):
    filters = pytest.importorskip("kornia.filters")
    frames = moving_frames(batch=6)
    plain, _ = view(frames, jitter=NO_JITTER)
    for size in (32, 35):  # 35 is the crop's own side
        plain, _ = view(frames, size=size, jitter=NO_JITTER)
        got, params = view(frames, size=size, jitter=NO_JITTER, blur=0.5)
        assert 0 < (params["sigma"] > 0).sum() < 6
        for b in range(6):
            image, sigma = plain[b].transpose(0, 1), params["sigma"][b]
            want = filters.gaussian_blur2d(image, (13, 13), sigma.expand(3, 2), "reflect") if sigma else image
            assert (got[b].transpose(0, 1) - want).abs().max() < 1e-5


@pytest.mark.parametrize(("options", "black"), [({"channel_drop": 1.0}, 1024), ({"erase": 1.0}, 3 * 8 * 8)])
def test_what_is_not_seen_is_black_with_either_piece_alone(moving_frames, options, black):
    bright = moving_frames().clamp_min(30)
    got, _ = view(bright, geometry="resized", erase_side=(0.25, 0.25), jitter=NO_JITTER, **options)
    assert ((got == 0).sum((1, 3, 4)) == black).all()


def test_grey_is_kornias_and_nothing_but_grey(moving_frames):
    color = pytest.importorskip("kornia.color")
    frames = moving_frames(batch=8)
    plain, _ = view(frames, jitter=NO_JITTER)
    got, params = view(frames, jitter=NO_JITTER, grey=0.5)
    is_grey = params["jitter"][:, 2] == 0
    assert 0 < is_grey.sum() < 8
    assert torch.allclose(got[~is_grey], plain[~is_grey], atol=1e-6)
    want = color.rgb_to_grayscale(plain[is_grey].transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(got[is_grey], want.expand(-1, 3, -1, -1, -1), atol=1e-6)


@pytest.mark.parametrize("geometry", ["shared", "resized"])
def test_frames_of_a_clip_are_treated_alike_and_clips_are_not(moving_frames, geometry):
    still = moving_frames(batch=1, frames=1).expand(6, 4, -1, -1, -1)
    kept = still.clone()
    got, _ = view(still, geometry=geometry, **EVERYTHING)
    assert got.shape == (6, 3, 4, 32, 32)
    assert torch.allclose(got, got[:, :, :1].expand_as(got), atol=1e-6)
    assert min((got[i] - got[j]).abs().max() for i in range(6) for j in range(i)) > 0.05
    assert got.min() >= 0
    assert got.max() <= 1
    assert torch.equal(still, kept)


@pytest.mark.parametrize(
    "options", [{"geometry": "resized", **EVERYTHING}, EVERYTHING, {"rotation_degrees": 0.0}, {"jitter": NO_JITTER}]
)
class TestWhereItRuns:
    def test_in_one_graph(self, moving_frames, options):
        augmentation = ViewAugmentation(ViewArgs(**options), 32)
        frames, params = moving_frames(), tensors(augmentation.draw(numbers(2)))
        torch._dynamo.reset()
        compiled = torch.compile(augmentation.apply, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(frames, params), augmentation.apply(frames, params), atol=1e-6)

    @pytest.mark.filterwarnings("ignore:.*CUDA is not available")
    def test_on_a_gpu_without_waiting_for_it(self, options):
        """A tensor that only pretends to be on a GPU has no values: whatever asks for one fails."""
        augmentation = ViewAugmentation(ViewArgs(**options), 112)
        params = tensors(augmentation.draw(numbers(2)))
        with FakeTensorMode(allow_non_fake_inputs=True):
            there = {
                name: torch.empty(values.shape, dtype=values.dtype, device="cuda") for name, values in params.items()
            }
            frames = torch.empty(2, 16, 128, 171, 3, dtype=torch.uint8, device="cuda")
            got = augmentation.apply(frames, there)
            assert (got.shape, got.device.type) == ((2, 3, 16, 112, 112), "cuda")
            with pytest.raises(DataDependentOutputException):
                got.max().item()

    def test_with_its_precision_under_autocast(self, moving_frames, options):
        plain, _ = view(moving_frames(), **options)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(view(moving_frames(), **options)[0], plain)


def test_pictures_have_no_gradient(moving_frames):
    layer = nn.Conv3d(3, 1, 3)
    layer(view(moving_frames(), **EVERYTHING)[0]).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"geometry": "square"}, "shared"),
        ({"rotation_degrees": -1}, "rotation_degrees=-1"),
        ({"flip": 1.5}, "flip=1.5"),
        ({"grey": -0.1}, "grey=-0.1"),
        ({"erase": 2}, "erase=2"),
        ({"area": (0.0, 1.0)}, "area"),
        ({"area": (0.5, 1.1)}, "area"),
        ({"aspect": (2.0, 0.5)}, "aspect"),
        ({"blur_sigma": (0.0, 2.0)}, "blur_sigma"),
        ({"gamma": (0.75,)}, "gamma"),
        ({"erase_side": (0.5, 1.5)}, "erase_side"),
        ({"jitter": (0, 0, 0, 0.6)}, "jitter"),
        ({"jitter": (1, 1, 1)}, "jitter"),
    ],
)
def test_wrong_options_are_named(options, named):
    with pytest.raises(ConfigError, match=named):
        ViewArgs(**options)


@pytest.mark.gpu
def test_the_host_does_not_wait_for_a_gpu(moving_frames):
    augmentation = ViewAugmentation(ViewArgs(geometry="resized", **EVERYTHING), 32)
    frames, params = moving_frames(), tensors(augmentation.draw(numbers(2)))
    want = augmentation.apply(frames, params)
    there, params = frames.cuda(), {name: values.cuda() for name, values in params.items()}
    augmentation.apply(there, params)  # the first call sets up libraries, which waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = augmentation.apply(there, params)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # what lies at the threshold of solarising may fall to either side of it, which inverts next to nothing
    assert (got.cpu() - want).abs().max() < 1e-3
