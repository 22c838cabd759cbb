"""VCOP read back from its own pixels: every frame carries its number, so that the order shown can be named."""

import numpy as np
import pytest
import torch
from torch import nn

from vidssl import create_backbone, create_task, list_backbones
from vidssl.backbones.base import Backbone
from vidssl.data.plan import uniforms
from vidssl.errors import ConfigError
from vidssl.tasks.base import ClipSpec

from .numbered import draw, numbered, views_of

STILL = {"rotation_degrees": 0.0, "crop": "centre", "flip": 0.0, "jitter": (0.0, 0.0, 0.0, 0.0)}
LEVELS = [(1, 3, 6), (2, 4, 24), (3, 5, 120)]


class TinyBackbone(Backbone):
    """One convolution; counts how often it is called."""

    feature_dim, stride, taps = 16, (4, 8, 8), ()

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(3, 16, (4, 8, 8), stride=(4, 8, 8))
        self.seen = []

    def feature_map(self, x_BCTHW):
        self.seen.append(tuple(x_BCTHW.shape))
        return torch.relu(self.layer(x_BCTHW))


def make(clip=None, **options):
    return create_task("vcop", TinyBackbone(), clip or ClipSpec(16, 32), **options)


def read(clips_BKCTHW):
    """The frame numbers that the clips show, int64 [B, K, T]; the whole picture must agree."""
    numbers = clips_BKCTHW * 255
    assert (numbers - numbers[:, :, :1, :, :1, :1]).abs().max() < 1e-3
    return numbers[:, :, 0, :, 0, 0].round().long()


def test_orders_by_hand():
    three = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    assert [tuple(order) for order in make().orders] == three
    four = make(complexity=2).orders
    assert {k: tuple(four[k]) for k in (0, 5, 6, 16, 23)} == {
        0: (0, 1, 2, 3), 5: (0, 3, 2, 1), 6: (1, 0, 2, 3), 16: (2, 3, 0, 1), 23: (3, 2, 1, 0)
    }  # fmt: skip
    five = make(complexity=3).orders
    # 33 = 1 * 24 + 1 * 6 + 1 * 2 + 1: each time the second smallest of what is left
    assert {k: tuple(five[k]) for k in (24, 33, 119)} == {
        24: (1, 0, 2, 3, 4), 33: (1, 2, 3, 4, 0), 119: (4, 3, 2, 1, 0)
    }  # fmt: skip


@pytest.mark.parametrize(("complexity", "count", "classes"), LEVELS)
def test_order_gap_and_label_are_readable_from_the_pixels(complexity, count, classes):
    task = make(complexity=complexity, **STILL)
    assert task.chance() == 1 / classes
    drawn = draw(task)
    views = views_of(task, drawn, numbered(drawn.frame_indices))
    shown = read(views["clips_BKCTHW"])
    assert shown.shape == (200, count, 16)
    labels = set()
    for numbers, label in zip(shown, views["label_B"].tolist(), strict=True):
        assert (numbers.diff(dim=1) == 1).all()
        starts = numbers[:, 0]
        assert (starts.sort().values.diff() == 16 + 8).all()
        true_places = starts.argsort().argsort().tolist()
        assert true_places == list(task.orders[label])
        labels.add(label)
    assert len(labels) > classes / 2


def test_the_paper_counts_of_frames():
    for complexity, frames in ((1, 64), (2, 88), (3, 112)):
        assert make(complexity=complexity).request().min_frames == frames


@pytest.mark.parametrize(("complexity", "count", "classes"), LEVELS)
def test_orders_are_equally_likely(complexity, count, classes):
    counts = np.bincount(draw(make(complexity=complexity), 12000).params["permutation"], minlength=classes)
    expected = 12000 / classes
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < classes - 1 + 4 * np.sqrt(2 * (classes - 1))  # mean and deviation of its distribution


def test_draw_is_pure_and_each_sample_its_own():
    task = make()
    a, b = draw(task), draw(task)
    assert np.array_equal(a.frame_indices, b.frame_indices)
    assert all(np.array_equal(values, b.params[name]) for name, values in a.params.items())
    u = uniforms(0, 0, np.arange(200, dtype=np.uint64), task.request().num_uniforms)
    alone = task.draw(u[7:8], np.array([200]))
    assert np.array_equal(alone.frame_indices[0], a.frame_indices[7])
    assert all(np.array_equal(alone.params[name][0], values[7]) for name, values in a.params.items())
    assert not np.array_equal(a.frame_indices, draw(task, epoch=1).frame_indices)
    other = draw(make(gap=0, flip=0.0))
    assert np.array_equal(a.params["permutation"], other.params["permutation"])
    assert np.array_equal(a.params["crop"], other.params["crop"])


def test_starts_fill_the_video():
    first = draw(make(), 2000, frames=70).frame_indices.min(1)
    assert set(first) == set(range(7))  # 70 - 64
    assert draw(make(), 2000, frames=70).frame_indices.max() == 69


@pytest.mark.parametrize(("frames", "gap", "starts"), [(64, 8, {0}), (63, 7, {0, 1}), (49, 0, {0, 1}), (48, 0, {0})])
def test_the_gap_shrinks_to_what_fits(frames, gap, starts):
    drawn = draw(make(), frames=frames)
    indices = np.sort(drawn.frame_indices, axis=1)
    assert set(indices[:, 0]) == starts
    assert (np.diff(indices) >= 1).all()  # no frame twice
    assert (indices[:, 16] - indices[:, 15] == gap + 1).all()
    assert drawn.params["gap"].tolist() == [gap] * 200
    assert drawn.extended.all() == (frames < 64)


def test_a_video_without_room_for_the_clips_is_reflected():
    task = make()
    drawn = draw(task, frames=40)
    assert drawn.extended.all()
    straight = drawn.frame_indices[drawn.params["permutation"] == 0][0]
    assert straight.tolist() == [*range(40), *range(38, 30, -1)]
    backwards = drawn.frame_indices[drawn.params["permutation"] == 5][0]
    assert backwards.tolist() == [*straight[32:], *straight[16:32], *straight[:16]]
    assert draw(task, frames=1).frame_indices.max() == 0


@pytest.mark.parametrize(("policy", "last"), [("reflect", 15), ("loop", 23), ("clamp", 39)])
def test_other_policies_keep_the_gap(policy, last):
    drawn = draw(make(short_videos=policy), frames=40)
    assert drawn.extended.all()
    assert (drawn.params["gap"] == 8).all()
    straight = drawn.frame_indices[drawn.params["permutation"] == 0][0]
    assert straight[16:32].tolist() == list(range(24, 40))
    assert straight[-1] == last  # frame 63 of a video of 40
    assert not draw(make(short_videos=policy), frames=64).extended.any()


def test_each_clip_of_a_tuple_has_its_own_augmentation():
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (4, 1, 36, 48, 3), dtype=torch.uint8).expand(4, 48, 36, 48, 3)
    task = make()
    clips = views_of(task, draw(task, 4), frames)["clips_BKCTHW"]
    assert torch.equal(clips, clips[:, :, :, :1].expand_as(clips))  # one for all frames of a clip
    for i, j in task.pairs:
        assert ((clips[:, i] - clips[:, j]).abs().mean((1, 2, 3, 4)) > 0.01).all()


def test_original_recipe_is_a_random_crop_for_each_clip():
    task = make(ClipSpec(16, 32), recipe="original")
    drawn = draw(task, 50)
    y, x = torch.meshgrid(torch.arange(36), torch.arange(64), indexing="ij")
    frames = (y + 64 + 2 * x).to(torch.uint8)[None, None, :, :, None].expand(50, 48, 36, 64, 3)
    clips = views_of(task, drawn, frames)["clips_BKCTHW"] * 255
    assert torch.allclose(clips.diff(dim=4), torch.ones(1), atol=1e-3)  # neither turned nor mirrored nor recoloured
    assert torch.allclose(clips.diff(dim=5), 2 * torch.ones(1), atol=1e-3)
    corner = clips[:, :, 0, 0, 0, 0]
    assert (corner.std(1) > 0).float().mean() > 0.9


def test_one_pass_of_all_clips():
    task = make(complexity=2)
    drawn = draw(task, 6)
    task(views_of(task, drawn, numbered(drawn.frame_indices)))
    assert task.backbone.seen == [(24, 3, 16, 32, 32)]


@pytest.mark.parametrize(("complexity", "count", "classes"), LEVELS)
def test_head_is_the_originals(complexity, count, classes):
    # xudejing/video-clip-order-prediction models/vcopn.py: 2 * 512 -> 512 for each pair, all pairs -> classes
    task = make(complexity=complexity).eval()
    task.fc7 = nn.Linear(1024, 512)
    features = torch.randn(2, count, 512)
    with torch.no_grad():
        got = task.classify(features)
    w7, b7, w8, b8 = (p.detach().double().numpy() for p in (*task.fc7.parameters(), *task.fc8.parameters()))
    assert w8.shape == (classes, 512 * {3: 3, 4: 6, 5: 10}[count])
    for b in range(2):
        f = features[b].double().numpy()
        hidden = [np.maximum(w7 @ np.r_[f[i], f[j]] + b7, 0) for i in range(count) for j in range(i + 1, count)]
        assert np.abs(got[b].numpy() - (w8 @ np.concatenate(hidden) + b8)).max() < 1e-4


def test_loss_and_accuracy_by_hand():
    task = make()
    nn.init.zeros_(task.fc8.weight)
    with torch.no_grad():
        task.fc8.bias.copy_(torch.arange(1.0, 7.0).log())  # probabilities 1/21 to 6/21
    views = {
        "clips_BKCTHW": torch.rand(2, 3, 3, 16, 32, 32),
        "label_B": torch.tensor([0, 5]),
        "gap_B": torch.tensor([8, 3]),
    }
    out = task(views)
    assert out["loss"].item() == pytest.approx((3.044522 + 1.252763) / 2, abs=1e-5)  # log 21, log 3.5
    assert out["accuracy"].tolist() == [0, 1]
    assert out["gap"].tolist() == [8, 3]


def test_chance_level_at_the_start():
    torch.manual_seed(0)
    task = make(ClipSpec(4, 16))
    drawn = draw(task, 1500)
    frames = torch.randint(0, 256, (1500, 12, 18, 24, 3), dtype=torch.uint8)
    with torch.no_grad():
        accuracy = task(views_of(task, drawn, frames))["accuracy"]
    assert accuracy.shape == (1500,)
    assert abs(float(accuracy.mean()) - 1 / 6) < 4 * np.sqrt(1 / 6 * 5 / 6 / 1500)


def test_overfits_eight_clips():
    torch.manual_seed(0)
    task = make(ClipSpec(8, 32), dropout=0.0, recipe="original")
    drawn = draw(task, 8, frames=60)
    assert len(set(drawn.params["permutation"].tolist())) > 3
    views = views_of(task, drawn, numbered(4 * drawn.frame_indices))
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    for _ in range(50):
        out = task(views)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    assert out["accuracy"].mean() == 1
    assert out["loss"] < 0.1  # log(6) = 1.79 at the start


@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_carries_it(name):
    with torch.device("meta"):
        task = create_task("vcop", create_backbone(name), ClipSpec(16, 112), complexity=2)
        views = {
            "clips_BKCTHW": torch.rand(2, 4, 3, 16, 112, 112),
            "label_B": torch.zeros(2, dtype=torch.long),
            "gap_B": torch.zeros(2, dtype=torch.long),
        }
        out = task(views)
        assert out["accuracy"].shape == (2,)
        out["loss"].backward()
    assert [key for key, p in task.named_parameters() if p.grad is None] == []


def test_gradients_reach_the_backbone():
    task = make()
    drawn = draw(task, 4)
    task(views_of(task, drawn, numbered(drawn.frame_indices)))["loss"].backward()
    assert [name for name, p in task.named_parameters() if not p.grad.isfinite().all()] == []
    assert float(task.backbone.layer.weight.grad.abs().sum()) > 0


def test_forward_is_one_graph():
    task = create_task("vcop", create_backbone("shufflenet", width=0.5), ClipSpec(16, 32)).eval()
    drawn = draw(task, 2)
    views = views_of(task, drawn, numbered(drawn.frame_indices))
    compiled = torch.compile(task, backend="eager", fullgraph=True)
    assert compiled(views)["loss"].item() == pytest.approx(task(views)["loss"].item(), rel=1e-5)


def test_bfloat16():
    task = make()
    drawn = draw(task, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = task(views_of(task, drawn, numbered(drawn.frame_indices)))
    assert out["loss"].dtype == torch.float32
    assert out["loss"].isfinite()


def test_picture_names_each_place():
    task = make()
    drawn = draw(task, 2)
    figure = task.picture(views_of(task, drawn, numbered(drawn.frame_indices)), ["a.mp4", "b.mp4"], drawn.frame_indices)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert len(figure.axes[0].images) == 2 * 3 * 8
    for b, name in enumerate(["a.mp4", "b.mp4"]):
        label = drawn.params["permutation"][b]
        order = task.orders[label]
        assert any(t.startswith(f"order {order[0]} {order[1]} {order[2]}   (class {label} of 6)") for t in shown)
        assert any(t.endswith(f"gap 8   {name}") for t in shown)
        rows = [t for t in shown if t.startswith("shown")][3 * b : 3 * b + 3]
        assert rows == [f"shown {k}.\nis clip {place}" for k, place in enumerate(order, 1)]
        assert str(drawn.frame_indices[b, 16]) in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"complexity": 4}, "1, 2, 3"),
        ({"gap": -1}, "0 and more"),
        ({"dropout": 1.0}, "0.5"),
        ({"recipe": "papr"}, "paper"),
        ({"short_videos": "stop"}, "shrink"),
        ({"jitter": (2, 0, 0, 0)}, "four numbers"),
    ],
)
def test_wrong_options_say_what_is_legal(options, words):
    with pytest.raises(ConfigError, match=words):
        make(**options)
