"""PRP read back from its own pixels: every frame carries its number, so that what the network gets can be named."""

import numpy as np
import pytest
import torch
from torch import nn

from vidssl import create_backbone, create_task, list_backbones
from vidssl.backbones.base import Backbone, num_parameters
from vidssl.data.plan import uniforms
from vidssl.errors import ConfigError
from vidssl.tasks.base import ClipSpec
from vidssl.tasks.decoder import Decoder, double_and_convolve
from vidssl.tasks.prp import attended_error, motion_attention


class FakeBackbone(Backbone):
    """Means over blocks as large as the stride, spread over `feature_dim` channels."""

    def __init__(self, stride=(8, 16, 16), feature_dim=512):
        super().__init__()
        self.stride, self.feature_dim, self.taps = stride, feature_dim, ()
        self.mix = nn.Conv3d(3, feature_dim, 1)

    def forward(self, x_BCTHW):
        sizes = [-(-n // s) for n, s in zip(x_BCTHW.shape[2:], self.stride, strict=True)]
        return self.mix(nn.functional.adaptive_avg_pool3d(x_BCTHW, sizes))


def make(stride=(8, 16, 16), clip=None, feature_dim=16, **options):
    options = {"decoder_width": 1 / 64, "head_width": 1 / 64, "recipe": "original", **options}
    return create_task("prp", FakeBackbone(stride, feature_dim), clip or ClipSpec(16, 32), **options)


def draw(task, count=200, frames=250, seed=0, epoch=0):
    keys = np.arange(count, dtype=np.uint64)
    return task.draw(uniforms(seed, epoch, keys, task.request().num_uniforms), np.full(count, frames))


def numbered_views(task, drawn, rows):
    """Views of videos in which every pixel of frame n has the value n."""
    indices = drawn.frame_indices[rows]
    assert indices.max() < 256
    frames = torch.from_numpy(indices).to(torch.uint8)[:, :, None, None, None].expand(-1, -1, 36, 48, 3)
    params = {name: torch.from_numpy(values[rows]) for name, values in drawn.params.items()}
    return task.views(frames, params)


def read(x_BCTHW):
    """The frame numbers that a clip shows, float [B, T]; the whole picture must agree."""
    numbers = x_BCTHW * 255
    assert (numbers - numbers[:, :1, :, :1, :1]).abs().max() < 1e-3
    return numbers[:, 0, :, 0, 0]


@pytest.mark.parametrize(("complexity", "dilations"), [(1, [1, 2]), (2, [1, 2, 4]), (3, [1, 2, 4, 8])])
def test_dilations_and_targets_are_readable_from_the_pixels(complexity, dilations):
    task = make(complexity=complexity)
    drawn = draw(task)
    assert task.chance() == 1 / len(dilations)
    rows = np.arange(len(drawn.frame_indices))
    views = numbered_views(task, drawn, rows)
    clip, target = read(views["clip_BCTHW"]), read(views["target_BCTHW"])
    assert clip.shape == (200, 16)
    assert target.shape == (200, 32)
    seen = set()
    for b in rows:
        s = dilations[int(views["label_B"][b])]
        seen.add(s)
        start = round(float(clip[b, 0]))
        assert torch.allclose(clip[b], start + s * torch.arange(16.0), atol=1e-3)
        want = start + torch.arange(32) * s / 2  # at s = 1 the odd ones are the midpoints ...
        if s == 1:
            want[-1] = start + 15  # ... and the last frame has no follower
            assert views["scored_BT"][b].tolist() == [1, 0] * 16
        else:
            assert views["scored_BT"][b].tolist() == [1] * 32
        assert torch.allclose(target[b], want, atol=1e-3)
    assert seen == set(dilations)


@pytest.mark.parametrize("complexity", [1, 3])
def test_attention_frames_are_four_of_each_slice(complexity):
    task = make(complexity=complexity)
    drawn = draw(task)
    groups = task.dilations[-1]
    assert task.request().num_frames == 32 + 4 * groups == drawn.frame_indices.shape[1]
    for row, step in enumerate(drawn.params["step"]):
        s = task.dilations[step]
        indices = drawn.frame_indices[row] - drawn.frame_indices[row, 0]
        got = indices[32:].reshape(groups, 4).tolist()
        slices = [16 * k + np.array([0, 5, 10, 15]) for k in range(s)]
        # each slice weighs its share of the target: 32 / s frames, that is groups / s runs
        assert got == [slices[g // (groups // s)].tolist() for g in range(groups)]


def test_the_attention_of_a_run_comes_from_its_slice():
    task = make()
    drawn = draw(task)
    row = int(np.flatnonzero(drawn.params["step"] == 2)[0])  # s = 4: four slices, two runs each
    frames = torch.zeros(1, 64, 36, 48, 3, dtype=torch.uint8)
    start = drawn.frame_indices[row, 0]
    for position, index in enumerate(drawn.frame_indices[row]):
        if (index - start) // 16 == 2:  # something happens in the third slice only, upper left
            frames[0, position, 2:10, 8:16] = 16 * int((index - start) % 16)
    params = {name: torch.from_numpy(values[row : row + 1]) for name, values in drawn.params.items()}
    attention = task.views(frames, params)["attention_BCGHW"][0]
    assert attention.shape == (3, 8, 32, 32)
    still = [g for g in range(8) if torch.equal(attention[:, g], torch.ones(3, 32, 32))]
    assert still == [0, 1, 2, 3, 6, 7]
    assert torch.equal(attention[:, 4], attention[:, 5])
    peak = int(attention[0, 4].argmax())
    assert peak // 32 < 16
    assert peak % 32 < 16


def slow_attention(snapshots_NHW, low, high):
    """One channel of one slice by the formula, float64."""
    height, width = snapshots_NHW.shape[1:]
    change = (np.diff(snapshots_NHW, axis=0) ** 2).mean(0)
    k, step = height // 4, height // 16
    tops = range(0, height - k + 1, step)
    regions = np.array([[change[y : y + k, x : x + k].mean() for x in tops] for y in tops])
    scaled = (regions - regions.min() + 1e-6) / (regions.max() - regions.min() + 1e-6) * (high - low) + low
    out = np.zeros((height, width))
    count = len(tops)
    for i in range(height):
        for j in range(width):
            y = max((i + 0.5) * count / height - 0.5, 0)
            x = max((j + 0.5) * count / width - 0.5, 0)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, count - 1), min(x0 + 1, count - 1)
            fy, fx = y - y0, x - x0
            upper = (1 - fx) * scaled[y0, x0] + fx * scaled[y0, x1]
            lower = (1 - fx) * scaled[y1, x0] + fx * scaled[y1, x1]
            out[i, j] = (1 - fy) * upper + fy * lower
    return out


@pytest.mark.parametrize("size", [64, 112])
def test_attention_formula(size):
    snapshots = torch.rand(1, 3, 2, 4, size, size, dtype=torch.float64) * torch.linspace(0, 1, size)
    got = motion_attention(snapshots, 0.8, 2.0)
    for c, g in ((0, 0), (2, 1)):
        want = slow_attention(snapshots[0, c, g].numpy(), 0.8, 2.0)
        assert np.abs(got[0, c, g].numpy() - want).max() < 1e-9
    assert 0.8 <= float(got.min()) < 0.9
    assert 1.9 < float(got.max()) <= 2.0


def test_attention_of_still_slices_and_channels():
    snapshots = torch.rand(1, 3, 1, 1, 32, 32).expand(1, 3, 2, 4, 32, 32).clone()
    snapshots[:, 0, 1, 2, :8, :8] += 0.5
    attention = motion_attention(snapshots, 0.8, 2.0)
    assert torch.equal(attention[:, :, 0], torch.ones(1, 3, 32, 32))
    assert torch.allclose(attention[:, 1:, 1], torch.full((1, 2, 32, 32), 2.0))


def test_loss_by_hand():
    # two samples, one channel, two runs of two frames, a picture of two pixels
    rebuilt = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [3.0, 0.0], [0.0, 0.0]], [[1.0, 1.0]] * 4]).view(2, 1, 4, 1, 2)
    target = torch.zeros_like(rebuilt)
    attention = torch.tensor([[[1.0, 2.0], [0.5, 1.0]], [[1.0, 1.0], [2.0, 0.8]]]).view(2, 1, 2, 1, 2)
    scored = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    # first: frames 0 and 2: (1*1 + 2*4 + 0.5*9 + 1*0) / 4 = 3.375; second: (2*(1 + 1) + 2*(2 + 0.8)) / 8 = 1.2
    assert attended_error(rebuilt, target, attention, scored).item() == pytest.approx((3.375 + 1.2) / 2)
    rebuilt[0, 0, 1] = 100.0  # a frame that is not scored
    assert attended_error(rebuilt, target, attention, scored).item() == pytest.approx((3.375 + 1.2) / 2)


def test_total_is_the_weighted_sum():
    task = make(generative_weight=0.5, discriminative_weight=0.25)
    out = task(numbered_views(task, draw(task), np.arange(4)))
    assert out["accuracy"].shape == (4,)
    assert out["loss"].item() == pytest.approx(0.5 * out["loss_gen"].item() + 0.25 * out["loss_cls"].item(), rel=1e-5)


def test_draw_is_pure_and_each_sample_its_own():
    task = make()
    a, b = draw(task), draw(task)
    assert np.array_equal(a.frame_indices, b.frame_indices)
    u = uniforms(0, 0, np.arange(200, dtype=np.uint64), task.request().num_uniforms)
    alone = task.draw(u[7:8], np.array([250]))
    assert np.array_equal(alone.frame_indices[0], a.frame_indices[7])
    assert np.bincount(draw(task, 4000).params["step"]) == pytest.approx([1000] * 4, abs=120)
    assert not np.array_equal(a.frame_indices, draw(task, epoch=1).frame_indices)


def test_starts_fill_the_video():
    task = make()
    drawn = draw(task, 4000, frames=140)
    first, last = drawn.frame_indices.min(1), drawn.frame_indices.max(1)
    eight = drawn.params["step"] == 3
    assert set(first[eight]) == set(range(12))  # 140 - 129 = 11
    assert last.max() == 138  # the original keeps a frame to spare
    assert not drawn.extended.any()


def test_short_videos_are_reflected_and_counted():
    task = make()
    assert task.request().min_frames == 129
    drawn = draw(task, frames=40)
    s = np.array(task.dilations)[drawn.params["step"]]
    assert np.array_equal(drawn.extended, s >= 4)
    assert np.array_equal(draw(task, frames=32).extended, s >= 2)  # 33 are needed at s = 2
    assert np.array_equal(draw(task, frames=33).extended, s >= 4)
    assert drawn.frame_indices.max() <= 39
    row = int(np.flatnonzero(s == 8)[0])
    clip = drawn.frame_indices[row, :32:2]
    assert clip[:10].tolist() == [0, 8, 16, 24, 32, 38, 30, 22, 14, 6]
    assert draw(make(short_videos="clamp"), frames=40).frame_indices[row, 31] == 39
    assert draw(make(short_videos="loop"), frames=40).frame_indices[row, 10] == 0
    assert draw(task, frames=1).frame_indices.max() == 0


def test_paper_recipe_treats_input_and_target_alike():
    task = make(recipe="paper")
    drawn = draw(task, 4)
    frames = torch.randint(0, 256, (4, 1, 36, 48, 3), dtype=torch.uint8).expand(4, 64, 36, 48, 3)
    views = task.views(frames, {name: torch.from_numpy(v) for name, v in drawn.params.items()})
    assert torch.equal(views["target_BCTHW"], views["clip_BCTHW"][:, :, :1].expand_as(views["target_BCTHW"]))
    plain = make().views(frames, {name: torch.from_numpy(v) for name, v in drawn.params.items()})
    assert not torch.allclose(plain["clip_BCTHW"], views["clip_BCTHW"], atol=0.05)


def test_decoder_is_the_originals_at_its_stride():
    # yuanyao366/PRP models/sscn.py with base 512x2x7x7, counted by hand: conv6 twice, three stages, the last, fc8
    conv = lambda i, o: 27 * i * o + o + 2 * o  # noqa: E731 - weights, bias, batch norm
    transposed = lambda c: 8 * c * c + c  # noqa: E731
    stages = [(512, 256), (256, 128), (128, 64)]
    expected = 2 * conv(512, 512) + 512 * 4 + 4
    expected += sum(transposed(i) + conv(i, o) for i, o in stages) + transposed(64) + conv(64, 3)
    task = create_task("prp", FakeBackbone(feature_dim=512), ClipSpec())
    assert num_parameters(task) - num_parameters(task.backbone) == expected == 21_598_541
    assert [tuple(up.kernel_size) for up in task.decoder.up] == [(2, 2, 2)] * 4
    small = Decoder(8, (8, 16, 16), (32, 112, 112), 16)
    assert small(torch.rand(1, 8, 2, 7, 7)).shape == (1, 3, 32, 112, 112)


@pytest.mark.parametrize("cells", [(1, 1, 2), (2, 3, 4)])
def test_doubling_and_convolving_in_one_step_is_the_same(cells):
    up, conv = nn.ConvTranspose3d(5, 5, 2, stride=2).double(), nn.Conv3d(5, 3, 3, padding=1).double()
    x = torch.rand(2, 5, *cells, dtype=torch.float64, requires_grad=True)
    two, one = conv(up(x)), double_and_convolve(x, up, conv)
    assert torch.allclose(two, one, atol=1e-12)
    probe, leaves = torch.rand_like(two), [x, *up.parameters(), *conv.parameters()]
    for a, b in zip(torch.autograd.grad(two, leaves, probe), torch.autograd.grad(one, leaves, probe), strict=True):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("stride", [(8, 16, 16), (2, 32, 32), (16, 32, 32), (2, 16, 16), (1, 4, 4)])
@pytest.mark.parametrize("size", [32, 56])
def test_decoder_fits_any_stride(stride, size):
    task = make(stride, ClipSpec(8, size))
    rebuilt = task.rebuild(torch.rand(2, 3, 8, size, size))
    assert rebuilt.shape == (2, 3, 16, size, size)
    assert float(rebuilt.detach().min()) >= 0
    kernels = np.prod([up.kernel_size for up in task.decoder.up], axis=0)
    assert kernels.tolist() == [2 * stride[0], stride[1], stride[2]]


@pytest.mark.parametrize("size", [64, 112])
def test_with_shufflenet(size):
    backbone = create_backbone("shufflenet", width=0.5)
    task = create_task("prp", backbone, ClipSpec(16, size), decoder_width=1 / 64, head_width=1 / 16, recipe="original")
    views = numbered_views(task, draw(task), np.arange(2))
    out = task(views)
    assert task.rebuild(views["clip_BCTHW"]).shape == (2, 3, 32, size, size)
    out["loss"].backward()
    dead = [name for name, p in task.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert dead == []
    assert float(backbone.conv1[0].weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_carries_it(name):
    with torch.device("meta"):
        task = create_task("prp", create_backbone(name), ClipSpec(16, 112), decoder_width=1 / 64, head_width=1 / 16)
        x = torch.rand(2, 3, 16, 112, 112)
        views = {
            "clip_BCTHW": x,
            "target_BCTHW": torch.rand(2, 3, 32, 112, 112),
            "attention_BCGHW": torch.rand(2, 3, 8, 112, 112),
            "scored_BT": torch.ones(2, 32),
            "label_B": torch.zeros(2, dtype=torch.long),
        }
        task(views)["loss"].backward()
        assert task.rebuild(x).shape == views["target_BCTHW"].shape
    assert [key for key, p in task.named_parameters() if p.grad is None] == []


def test_forward_is_one_graph():
    task = make()
    views = numbered_views(task, draw(task), np.arange(4))
    compiled = torch.compile(task, backend="eager", fullgraph=True)
    task.eval()
    assert compiled(views)["loss"].item() == pytest.approx(task(views)["loss"].item(), rel=1e-5)


def test_bfloat16():
    task = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = task(numbered_views(task, draw(task), np.arange(4)))
    out["loss"].backward()
    assert out["loss"].dtype == torch.float32
    assert out["loss"].isfinite()


def test_chance_level_at_the_start():
    torch.manual_seed(0)
    task = make()
    drawn = draw(task, 256)
    frames = torch.randint(0, 256, (256, 64, 16, 24, 3), dtype=torch.uint8)
    task.augmentation.size = 32
    with torch.no_grad():
        out = task(task.views(frames, {name: torch.from_numpy(v) for name, v in drawn.params.items()}))
    assert 0.1 < out["accuracy"].mean() < 0.4
    assert out["loss_cls"].item() == pytest.approx(np.log(4), abs=0.25)


def test_overfits_eight_clips():
    torch.manual_seed(0)
    backbone = create_backbone("shufflenet", width=0.5)
    clip = ClipSpec(8, 32)
    task = create_task("prp", backbone, clip, decoder_width=1 / 16, head_width=1 / 8, recipe="original")
    drawn = draw(task, 40)
    rows = np.concatenate([np.flatnonzero(drawn.params["step"] == k)[:2] for k in range(4)])
    y, x = torch.meshgrid(torch.arange(36.0), torch.arange(48.0), indexing="ij")
    time = torch.from_numpy(drawn.frame_indices[rows])[:, :, None, None]
    frames = (
        (127 + 100 * torch.sin(0.3 * x + 0.2 * y + 0.15 * time)).to(torch.uint8)[..., None].expand(-1, -1, -1, -1, 3)
    )
    views = task.views(frames, {name: torch.from_numpy(v[rows]) for name, v in drawn.params.items()})
    groups = [{"params": g["params"], "lr": 1e-3 * g["lr_scale"]} for g in task.parameter_groups()]
    optimizer = torch.optim.AdamW(groups)
    first = last = None
    for _ in range(30):
        last = task(views)
        first = first or last
        optimizer.zero_grad()
        last["loss"].backward()
        optimizer.step()
    assert last["accuracy"].mean() == 1
    assert last["loss_cls"] < 0.1 * first["loss_cls"]
    assert last["loss_gen"] < 0.5 * first["loss_gen"]


def test_head_learns_ten_times_as_fast():
    task = make()
    rest, head = task.parameter_groups()
    assert (rest["lr_scale"], head["lr_scale"]) == (1.0, 10.0)
    assert {id(p) for p in head["params"]} == {id(p) for p in task.fc8.parameters()}
    assert len(rest["params"]) + len(head["params"]) == len(list(task.parameters()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"complexity": 4}, "1, 2, 3"),
        ({"recipe": "papr"}, "paper"),
        ({"short_videos": "stop"}, "reflect"),
        ({"decoder_width": 0}, "1.0"),
        ({"attention_low": 3.0}, "low <= high"),
        ({"clip": ClipSpec(10, 32)}, "multiples of 4"),
        ({"clip": ClipSpec(16, 8)}, "16 and more"),
        ({"stride": (6, 16, 16)}, "powers of two"),
    ],
)
def test_wrong_options_say_what_is_legal(options, words):
    with pytest.raises(ConfigError, match=words):
        make(**options)
