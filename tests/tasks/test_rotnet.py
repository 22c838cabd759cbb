"""RotNet read back from its own pixels: frames carry their number and the names of their corners."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from vidssl import create_backbone, create_task, list_backbones
from vidssl.backbones.base import Backbone
from vidssl.data.plan import uniforms
from vidssl.errors import ConfigError
from vidssl.tasks.base import ClipSpec

from . import numbered as shared
from .numbered import views_of

draw = partial(shared.draw, frames=60)

STILL = {"rotation_degrees": 0.0, "crop": "centre", "flip": 0.0, "jitter": (0.0, 0.0, 0.0, 0.0)}


class TinyBackbone(Backbone):
    """Two convolutions: a few thousand weights that can tell up from down."""

    feature_dim, stride, taps = 16, (4, 8, 8), ()

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, 8, (4, 4, 4), stride=(4, 4, 4)), nn.BatchNorm3d(8), nn.ReLU(),
            nn.Conv3d(8, 16, (1, 3, 3), stride=(1, 2, 2)), nn.BatchNorm3d(16), nn.ReLU(),
        )  # fmt: skip

    def feature_map(self, x_BCTHW):
        return self.layers(x_BCTHW)


def make(clip=None, **options):
    return create_task("rotnet", TinyBackbone(), clip or ClipSpec(16, 32), **options)


def cornered(indices, height=36, width=48):
    """Frame n: n in the upper left quarter, n + 60 upper right, n + 120 lower right, n + 180 lower left."""
    assert indices.max() < 60
    frames = torch.from_numpy(indices).to(torch.uint8)[:, :, None, None, None].repeat(1, 1, height, width, 3)
    frames[:, :, : height // 2, width // 2 :] += 60
    frames[:, :, height // 2 :, width // 2 :] += 120
    frames[:, :, height // 2 :, : width // 2] += 180
    return frames


def read(clip_CTHW):
    """Frame numbers, and which quarter's name stands in the upper left corner: 0 upper left, 1 upper right, ..."""
    corner = (clip_CTHW[0, :, 0, 0] * 255).round().long()
    quarter = (corner // 60).unique()
    assert len(quarter) == 1
    return (corner % 60).tolist(), int(quarter)


@pytest.mark.parametrize(("complexity", "degrees"), [(1, [0, 90]), (2, [0, 90, 180]), (3, [0, 90, 180, 270])])
def test_all_copies_are_readable_from_the_pixels(complexity, degrees):
    task = make(complexity=complexity, **STILL)
    drawn = draw(task, 40)
    views = views_of(task, drawn, cornered(drawn.frame_indices))
    assert views["clips_BVCTHW"].shape == (40, len(degrees), 3, 16, 32, 32)
    assert task.chance() == 1 / len(degrees)
    for b in range(40):
        for clip, label, angle in zip(views["clips_BVCTHW"][b], views["label_BV"][b], degrees, strict=True):
            numbers, quarter = read(clip)
            # turned counter-clockwise by 90 degrees, what was upper right is upper left
            assert (int(label), quarter) == (angle // 90, angle // 90)
            start = numbers[0]
            assert numbers == list(range(start, start + 31, 2))


def test_one_copy_is_readable_from_the_pixels():
    task = make(copies="one", **STILL)
    drawn = draw(task)
    views = views_of(task, drawn, cornered(drawn.frame_indices))
    assert views["clips_BVCTHW"].shape == (200, 1, 3, 16, 32, 32)
    assert views["label_BV"][:, 0].tolist() == [read(clip[0])[1] for clip in views["clips_BVCTHW"]]
    assert set(views["label_BV"][:, 0].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("copies", ["all", "one"])
def test_the_turn_is_exact_and_comes_after_the_augmentation(copies):
    task = make(copies=copies)
    drawn = draw(task, 12)
    frames = torch.randint(0, 256, (12, 16, 36, 48, 3), dtype=torch.uint8)
    views = views_of(task, drawn, frames)
    before = task.augmentation.apply(frames, {name: torch.from_numpy(v) for name, v in drawn.params.items()}).numpy()
    for b in range(12):
        for clip, k in zip(views["clips_BVCTHW"][b], views["label_BV"][b].tolist(), strict=True):
            assert np.array_equal(clip.numpy(), np.rot90(before[b], k, axes=(2, 3)))


def test_recipes():
    frames = torch.randint(0, 256, (4, 16, 36, 48, 3), dtype=torch.uint8)
    tasks = [make(), make(recipe="original"), make(jitter=(0.0, 0.0, 0.0, 0.0))]
    paper, original, no_jitter = (views_of(t, draw(t, 4), frames)["clips_BVCTHW"] for t in tasks)
    assert torch.equal(original, no_jitter)  # the original has the rest: rotation, crop, flip
    assert not torch.allclose(paper, original, atol=0.05)


def test_copies_and_complexity_leave_the_other_numbers_as_they_are():
    all_copies, one, fewer = draw(make()), draw(make(copies="one")), draw(make(copies="one", complexity=1))
    for other in (one, fewer):
        assert np.array_equal(all_copies.frame_indices, other.frame_indices)
        assert all(np.array_equal(values, other.params[name]) for name, values in all_copies.params.items())


def test_draw_is_pure_and_each_sample_its_own():
    task = make(copies="one")
    a, b = draw(task), draw(task)
    assert np.array_equal(a.frame_indices, b.frame_indices)
    assert np.array_equal(a.params["turns"], b.params["turns"])
    u = uniforms(0, 0, np.arange(200, dtype=np.uint64), task.request().num_uniforms)
    alone = task.draw(u[7:8], np.array([60]))
    assert np.array_equal(alone.frame_indices[0], a.frame_indices[7])
    assert alone.params["turns"][0] == a.params["turns"][7]
    assert not np.array_equal(a.frame_indices, draw(task, epoch=1).frame_indices)


@pytest.mark.parametrize("complexity", [1, 2, 3])
def test_angles_are_equally_likely(complexity):
    classes = complexity + 1
    counts = np.bincount(draw(make(copies="one", complexity=complexity), 6000).params["turns"], minlength=classes)
    expected = 6000 / classes
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < complexity + 4 * np.sqrt(2 * complexity)  # mean and deviation of its distribution


def test_starts_fill_the_video():
    drawn = draw(make(), 2000, frames=40)
    assert set(drawn.frame_indices[:, 0]) == set(range(10))  # 31 frames are spanned
    assert drawn.frame_indices.max() == 39
    dense = draw(make(stride=1), 2000, frames=40)
    assert set(dense.frame_indices[:, 0]) == set(range(25))
    assert (np.diff(dense.frame_indices) == 1).all()


def test_short_videos_follow_the_policy_and_are_counted():
    task = make()
    assert task.request().min_frames == 31
    assert not draw(task, frames=31).extended.any()
    drawn = draw(task, 5, frames=30)
    assert drawn.extended.all()
    assert drawn.frame_indices[0].tolist() == [*range(0, 30, 2), 28]  # 30 is reflected to 28
    assert draw(make(short_videos="loop"), 1, frames=30).frame_indices[0, -1] == 0
    assert draw(make(short_videos="clamp"), 1, frames=30).frame_indices[0, -1] == 29
    assert draw(task, frames=1).frame_indices.max() == 0


def test_loss_and_accuracy_by_hand():
    task = make(**STILL)
    nn.init.zeros_(task.fc.weight)
    with torch.no_grad():
        task.fc.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).log())  # probabilities 0.1, 0.2, 0.3, 0.4
    drawn = draw(task, 6)
    out = task(views_of(task, drawn, cornered(drawn.frame_indices)))
    # (2.302585 + 1.609438 + 1.203973 + 0.916291) / 4
    assert out["loss"].item() == pytest.approx(1.508072, abs=1e-5)
    assert out["accuracy"].tolist() == [0.25] * 6


def test_chance_level_at_the_start():
    torch.manual_seed(0)
    task = make(ClipSpec(8, 32), copies="one")
    drawn = draw(task, 800)
    frames = torch.randint(0, 256, (800, 8, 36, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        accuracy = task(views_of(task, drawn, frames))["accuracy"]
    assert accuracy.shape == (800,)
    assert abs(float(accuracy.mean()) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 800)


def test_overfits_eight_clips():
    torch.manual_seed(0)
    task = make(ClipSpec(8, 32))
    drawn = draw(task, 8)
    y, x = torch.meshgrid(torch.arange(36.0), torch.arange(48.0), indexing="ij")
    shift = torch.arange(8.0)[:, None, None, None] * 5 + torch.from_numpy(drawn.frame_indices)[:, :, None, None]
    waves = 100 + 60 * torch.sin(0.4 * x + shift) + 95 * (y / 35) ** 2  # brighter below
    views = views_of(task, drawn, waves.to(torch.uint8)[..., None].expand(-1, -1, -1, -1, 3))
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-2)
    for _ in range(60):
        out = task(views)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    assert out["accuracy"].shape == (8,)
    assert out["accuracy"].mean() == 1
    assert out["loss"] < 0.1  # log(4) = 1.39 at the start


@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_carries_it(name):
    with torch.device("meta"):
        task = create_task("rotnet", create_backbone(name), ClipSpec(16, 112))
        clips = torch.rand(2, 4, 3, 16, 112, 112)
        out = task({"clips_BVCTHW": clips, "label_BV": torch.zeros(2, 4, dtype=torch.long)})
        assert out["accuracy"].shape == (2,)
        out["loss"].backward()
    assert [key for key, p in task.named_parameters() if p.grad is None] == []


def test_gradients_reach_the_backbone():
    task = make(dropout=0.5)
    drawn = draw(task, 4)
    task(views_of(task, drawn, cornered(drawn.frame_indices)))["loss"].backward()
    assert [name for name, p in task.named_parameters() if not p.grad.isfinite().all()] == []
    assert float(task.backbone.layers[0].weight.grad.abs().sum()) > 0


def test_forward_is_one_graph():
    task = make().eval()
    drawn = draw(task, 4)
    views = views_of(task, drawn, cornered(drawn.frame_indices))
    compiled = torch.compile(task, backend="eager", fullgraph=True)
    assert compiled(views)["loss"].item() == pytest.approx(task(views)["loss"].item(), rel=1e-5)


def test_bfloat16():
    task = make()
    drawn = draw(task, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = task(views_of(task, drawn, cornered(drawn.frame_indices)))
    assert out["loss"].dtype == torch.float32
    assert out["loss"].isfinite()


@pytest.mark.parametrize(("copies", "rows"), [("all", 4), ("one", 1)])
def test_picture_names_each_copy(copies, rows):
    task = make(copies=copies)
    drawn = draw(task, 2)
    figure = task.picture(views_of(task, drawn, cornered(drawn.frame_indices)), ["a.mp4", "b.mp4"], drawn.frame_indices)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert len(figure.axes[0].images) == 2 * rows * 8
    assert {"a.mp4", "b.mp4", str(drawn.frame_indices[1, 15])} <= set(shown)
    classes = range(4) if copies == "all" else drawn.params["turns"].tolist()
    assert {f"{90 * k} degrees\nclass {k}" for k in classes} <= set(shown)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"complexity": 4}, "1, 2, 3"),
        ({"copies": "al"}, "Did you mean 'all'"),
        ({"stride": 0}, "1 and more"),
        ({"dropout": 1.0}, "0 to 1"),
        ({"recipe": "papr"}, "paper"),
        ({"short_videos": "shrink"}, "reflect"),
        ({"flip": 2.0}, "0 to 1"),
    ],
)
def test_wrong_options_say_what_is_legal(options, words):
    with pytest.raises(ConfigError, match=words):
        make(**options)
