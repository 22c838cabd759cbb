"""V-MAE read back from its own pixels: frames, masks, targets, loss, metric, training."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from vidssl import create_backbone, create_task
from vidssl.data.plan import uniforms
from vidssl.errors import ConfigError
from vidssl.tasks.base import ClipSpec

from .masked import FakeBackbone, draw, make, random_views, short_vit, tensors

# What is seen, hidden and asked for


@pytest.mark.parametrize("stride", [4, 1])
def test_a_clip_is_every_fourth_frame(stride):
    task = make(stride=stride)
    drawn = draw(task, 40)
    frames = torch.from_numpy(drawn.frame_indices).to(torch.uint8)[:, :, None, None, None].expand(-1, -1, 56, 70, 3)
    clip = task.views(frames, tensors(drawn))["clip_BCTHW"] * 255
    assert clip.shape == (40, 3, 16, 48, 48)
    assert (clip - clip[:, :1, :, :1, :1]).abs().max() < 1e-3
    shown = clip[:, 0, :, 0, 0]
    assert torch.allclose(shown, shown[:, :1] + stride * torch.arange(16.0), atol=1e-3)
    assert task.request().min_frames == 15 * stride + 1


def test_starts_fill_the_video():
    drawn = draw(make(), 2000, frames=70)
    assert set(drawn.frame_indices[:, 0]) == set(range(10))  # 70 - 61 = 9
    assert drawn.frame_indices.max() == 69
    assert not drawn.extended.any()


def test_short_videos_are_reflected_and_flagged():
    task = make()
    drawn = draw(task, 3, frames=40)
    assert drawn.extended.all()
    assert not draw(task, frames=61).extended.any()
    assert drawn.frame_indices[0].tolist() == [*range(0, 40, 4), 38, 34, 30, 26, 22, 18]
    assert draw(make(short_videos="clamp"), 3, frames=40).frame_indices[0].tolist()[9:] == [36, *[39] * 6]
    assert draw(make(short_videos="loop"), 3, frames=40).frame_indices[0].tolist()[9:] == [36, 0, 4, 8, 12, 16, 20]


def test_the_mask_hides_44_of_49_places_in_all_frames():
    task = create_task("vmae", FakeBackbone(), ClipSpec(16, 112), decoder_width=1 / 16)
    views = random_views(task, 3)
    visible, hidden = views["visible_BV"], views["hidden_BM"]
    assert visible.shape == (3, 8 * 5)
    assert hidden.shape == (3, 8 * 44)
    assert torch.equal(torch.cat([visible, hidden], 1).sort().values, torch.arange(392).expand(3, -1))
    assert torch.equal(hidden.view(3, 8, 44) % 49, (hidden.view(3, 8, 44) % 49)[:, :1].expand(-1, 8, -1))
    assert len(hidden.unique(dim=0)) == 3


def slow_target(clip_CTHW, cell, columns, normalise):
    """One tubelet by plain loops, float64."""
    slot, row, column = cell // columns**2, cell // columns % columns, cell % columns
    values = np.zeros((2, 16, 16, 3))
    for t, h, w, c in itertools.product(range(2), range(16), range(16), range(3)):
        values[t, h, w, c] = clip_CTHW[c, slot * 2 + t, row * 16 + h, column * 16 + w]
    if normalise:
        for c in range(3):
            mean = values[..., c].sum() / 512
            deviation = math.sqrt(((values[..., c] - mean) ** 2).sum() / 511)
            values[..., c] = (values[..., c] - mean) / (deviation + 1e-6)
    return values.reshape(-1)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("recipe", ["paper", "original"])
def test_targets_are_the_hidden_tubelets(recipe, normalise):
    task = make(recipe=recipe, normalise_target=normalise)
    views = random_views(task, 2)
    assert views["target_BMP"].shape == (2, 8 * 8, 1536)
    for m in (0, 13, 63):
        want = slow_target(views["clip_BCTHW"][1].double().numpy(), int(views["hidden_BM"][1, m]), 3, normalise)
        assert np.abs(views["target_BMP"][1, m].numpy() - want).max() < 1e-4


def test_recipes_share_frames_and_masks_and_differ_in_augmentation():
    paper, original = make(recipe="paper"), make(recipe="original")
    a, b = draw(paper), draw(original)
    assert np.array_equal(a.frame_indices, b.frame_indices)
    assert np.array_equal(a.params["hidden"], b.params["hidden"])
    # red rises to the right and green downwards: a mirrored picture or turned colours would show
    y, x = torch.meshgrid(torch.arange(56) * 4, torch.arange(70) * 3, indexing="ij")
    picture = torch.stack([x, y, torch.zeros_like(x)], -1).to(torch.uint8)
    frames = picture.expand(40, 16, -1, -1, -1)
    clip = original.views(frames, tensors(b, slice(40)))["clip_BCTHW"]
    assert (clip[:, 0].diff(dim=-1) > -1e-6).all()
    assert (clip[:, 1].diff(dim=-2) > -1e-6).all()
    assert clip[:, 2].abs().max() < 1e-6
    clip = paper.views(frames, tensors(a, slice(40)))["clip_BCTHW"]
    falls = clip[:, 0, 0, 24].diff(dim=-1).mean(-1) < 0
    assert 0 < falls.sum() < 40
    assert clip[:, 2].abs().max() > 0.1


def test_draw_is_pure_and_each_sample_its_own():
    task = make(recipe="paper")
    a, b = draw(task), draw(task)
    alone = task.draw(uniforms(0, 0, np.array([7], np.uint64), task.request().num_uniforms), np.array([250]))
    for key, values in a.params.items():
        assert np.array_equal(values, b.params[key])
        assert np.array_equal(values[7], alone.params[key][0])
    assert np.array_equal(a.frame_indices[7], alone.frame_indices[0])
    assert not np.array_equal(a.params["hidden"], draw(task, epoch=1).params["hidden"])
    # numbers of the start and the augmentation decide nothing of the mask
    u = uniforms(0, 0, np.arange(200, dtype=np.uint64), task.request().num_uniforms)
    u[:, :9] = 0.5
    assert np.array_equal(task.draw(u, np.full(200, 250)).params["hidden"], a.params["hidden"])


# Loss and metric


class Fixed(nn.Module):
    """Answers what it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.mask_token = answer, nn.Parameter(torch.zeros(1))

    def forward(self, backbone, views):
        return self.answer


@pytest.mark.parametrize("normalise", [True, False])
def test_naming_the_mean_colour_of_every_tubelet_explains_nothing(normalise):
    task = make(normalise_target=normalise)
    views = random_views(task)
    target = views["target_BMP"]
    mean = target.unflatten(2, (-1, 3)).mean(2, keepdim=True).expand(-1, -1, 512, -1).flatten(2)
    task.reconstructor = Fixed(mean)
    out = task(views)
    assert out["explained"].tolist() == pytest.approx([task.chance()] * 4, abs=1e-5)
    assert out["loss"].item() == pytest.approx((target - mean).square().mean().item())
    if normalise:
        assert out["loss"].item() == pytest.approx(511 / 512, rel=1e-4)

    task.reconstructor = Fixed(target + 0.5 * (mean - target))
    assert task(views)["explained"].tolist() == pytest.approx([0.75] * 4, abs=1e-5)
    task.reconstructor = Fixed(target)
    assert task(views)["explained"].tolist() == [1.0] * 4
    task.reconstructor = Fixed(target + 100)
    assert task(views)["explained"].tolist() == [-1.0] * 4


def test_a_clip_without_anything_to_explain_stays_finite():
    task = make()
    frames = torch.full((2, 16, 56, 70, 3), 90, dtype=torch.uint8)
    out = task(task.views(frames, tensors(draw(task, 2))))
    assert out["explained"].isfinite().all()
    out["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


def test_error_counts_hidden_tubelets_only():
    """The loss by hand: two samples, errors of 1 and 3 throughout."""
    task = make()
    views = random_views(task, 2)
    task.reconstructor = Fixed(views["target_BMP"] + torch.tensor([1.0, 3.0])[:, None, None])
    assert task(views)["loss"].item() == pytest.approx((1 + 9) / 2, rel=1e-5)


# Training


@pytest.mark.parametrize("make_backbone", [short_vit, FakeBackbone])
def test_forward_is_one_graph(make_backbone):
    task = make(make_backbone())
    views = random_views(task)
    compiled = torch.compile(task, backend="eager", fullgraph=True)
    assert compiled(views)["loss"].item() == pytest.approx(task(views)["loss"].item(), rel=1e-5)


@pytest.mark.parametrize("make_backbone", [short_vit, FakeBackbone])
def test_bfloat16(make_backbone):
    task = make(make_backbone())
    plain = random_views(task)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = random_views(task)
        out = task(views)
    out["loss"].backward()
    assert torch.equal(views["target_BMP"], plain["target_BMP"])
    assert out["loss"].dtype == torch.float32
    assert out["loss"].isfinite()


def test_nothing_is_explained_at_the_start():
    torch.manual_seed(0)
    for backbone in (short_vit(), create_backbone("shufflenet", width=0.5)):
        task = create_task("vmae", backbone, ClipSpec(16, 48))
        with torch.no_grad():
            explained = task(random_views(task, 32))["explained"]
        assert -0.5 < explained.mean() < 0
        assert explained.max() < 0.01


def moving_gratings(task):
    """Eight clips, each a grating of its own direction, colour and speed."""
    drawn = draw(task, 8)
    y, x = torch.meshgrid(torch.arange(56.0), torch.arange(70.0), indexing="ij")
    angle = torch.arange(8) * 0.7
    space = 0.25 * (angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y)
    time = torch.from_numpy(drawn.frame_indices) * (0.05 + 0.02 * torch.arange(8))[:, None]
    wave = torch.sin(space[:, None] + time[:, :, None, None])
    colour = torch.stack([wave, -wave, wave.square()], -1)
    return task.views((127 + 100 * colour).to(torch.uint8), tensors(drawn))


@pytest.mark.parametrize("name", ["vit", "shufflenet"])
def test_overfits_eight_clips(name):
    torch.manual_seed(0)
    backbone = short_vit() if name == "vit" else create_backbone("shufflenet", width=0.5)
    backbone.set_input("imagenet")  # as VideoMAE has it; a ViT takes several times as long with pixels in 0 to 1
    task = make(backbone, ClipSpec(2, 32), decoder_width=0.5, decoder_blocks=1, mask_ratio=0.75)
    views = moving_gratings(task)
    optimizer = torch.optim.AdamW(task.parameter_groups(), lr=1e-3)
    out = task(views)
    first = out["loss"].item()
    for _ in range(100 if name == "vit" else 50):
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        out = task(views)
    assert out["loss"].item() < 0.05 * first
    assert out["explained"].mean() > 0.95


def test_biases_norms_and_the_mask_token_are_not_decayed():
    for backbone in (short_vit(), FakeBackbone()):
        task = make(backbone)
        decayed, spared = task.parameter_groups()
        assert len(decayed["params"]) + len(spared["params"]) == len(list(task.parameters()))
        names = {id(p): name for name, p in task.named_parameters()}
        assert {names[id(p)] for p in spared["params"]} == {
            name for name, p in task.named_parameters() if p.dim() == 1 or "mask_token" in name
        }
        optimizer = torch.optim.AdamW(task.parameter_groups(), lr=1e-3, weight_decay=0.05)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
        assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.95)] * 2


@pytest.mark.parametrize("normalise", [True, False])
def test_picture(normalise):
    task = make(normalise_target=normalise)
    views = random_views(task, 2)
    figure = task.picture(views, ["a.mp4", "b.mp4"], draw(task, 2).frame_indices)
    assert len(figure.axes[0].images) == 2 * 3 * 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_ratio": 1.0}, "between 0 and 1"),
        ({"stride": 0}, "1 and more"),
        ({"decoder_width": 0}, "1.0"),
        ({"decoder_blocks": 0}, "has 4"),
        ({"recipe": "papr"}, "paper"),
        ({"short_videos": "stop"}, "reflect"),
        ({"clip": ClipSpec(15, 48)}, "multiples of 2 frames"),
        ({"clip": ClipSpec(16, 100)}, "of 16 px"),
        ({"clip": ClipSpec(16, 16)}, "hides 0 of the 1 places"),
        ({"mask_ratio": 0.1}, "hides 0 of the 9 places"),
    ],
)
def test_wrong_options_say_what_is_legal(options, words):
    with pytest.raises(ConfigError, match=words):
        make(**options)
