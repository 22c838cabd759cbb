"""RSPNet read back from its own pixels: every frame carries its number, so that windows and speeds can be named."""

import numpy as np
import pytest
import torch
from torch import nn

from vidssl import create_backbone, create_task, list_backbones
from vidssl.backbones.base import Backbone
from vidssl.data.plan import uniforms
from vidssl.errors import ConfigError
from vidssl.tasks.base import ClipSpec
from vidssl.tasks.momentum import DIM
from vidssl.tasks.rspnet import ranking

from .numbered import draw, numbered, views_of

STILL = {"rotation_degrees": 0.0, "flip": 0.0, "jitter": (0.0, 0.0, 0.0, 0.0)}
CLIPS = ("query", "same", "other")


class TinyBackbone(Backbone):
    """A convolution over four frames, which sees how fast a colour changes."""

    feature_dim, stride, taps = 32, (4, 4, 4), ()

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(3, 32, (4, 4, 4), stride=(4, 4, 4))

    def feature_map(self, x_BCTHW):
        return torch.relu(self.layer(x_BCTHW))


def make(clip=None, **options):
    return create_task("rspnet", TinyBackbone(), clip or ClipSpec(16, 32), **{"queue": 6, **options})


def read(clips_BCTHW):
    """The frame numbers that the clips show, int64 [B, T]; the whole picture must agree."""
    numbers = clips_BCTHW * 255
    assert (numbers - numbers[:, :1, :, :1, :1]).abs().max() < 1e-3
    return numbers[:, 0, :, 0, 0].round().long()


def random_views(size=16, frames=4, count=4):
    views = {f"{name}_BCTHW": torch.rand(count, 3, frames, size, size) for name in CLIPS}
    return views | {f"{name}_B": torch.rand(count) for name in ("same_order", "other_order")}


# What is shown


@pytest.mark.parametrize("speed", [2, 3, 4])
def test_windows_and_speeds_are_readable_from_the_pixels(speed):
    task = make(speed=speed, **STILL)
    drawn = draw(task)
    views = views_of(task, drawn, numbered(drawn.frame_indices))
    query, same, other = (read(views[f"{name}_BCTHW"]) for name in CLIPS)
    assert query.shape == (200, 16)
    step = torch.where(views["fast_B"], speed, 1)[:, None]
    assert (query.diff(dim=1) == step).all()
    assert (same.diff(dim=1) == step).all()
    assert (other.diff(dim=1) == 1 + speed - step).all()
    assert torch.equal(same[:, 0], other[:, 0])  # one window, from its first frame on
    assert 0.4 < views["fast_B"].float().mean() < 0.6
    # the two windows have nothing to do with each other
    assert abs(np.corrcoef(query[:, 0], same[:, 0])[0, 1]) < 4 / np.sqrt(200)
    assert not drawn.extended.any()


def test_only_frames_that_are_shown_are_asked_for():
    # of the 31 frames of the second window 16 are shown slow, and the fast clip has 8 others
    assert make().request().num_frames == 16 + 16 + 8
    assert make(speed=4).request().num_frames == 16 + 16 + 12
    for speed, window in ((2, 31), (4, 61)):
        task = make(speed=speed)
        assert task.request().min_frames == window
        second = draw(task, 1).frame_indices[0, 16:]
        assert len(set(second)) == len(second)


def test_speeds_are_equally_likely():
    count = draw(make(), 4000).params["fast"].sum()
    assert abs(count - 2000) < 4 * np.sqrt(1000)


def test_starts_fill_the_video_whatever_the_speed():
    drawn = draw(make(), 3000, frames=36)
    for fast in (False, True):
        mine = drawn.frame_indices[drawn.params["fast"] == fast]
        for first in (0, 16):
            counts = np.bincount(mine[:, first])
            assert len(counts) == 6  # 36 - 31 + 1
            expected = len(mine) / 6
            assert ((counts - expected) ** 2 / expected).sum() < 5 + 4 * np.sqrt(10)
    assert drawn.frame_indices.max() == 35


@pytest.mark.parametrize(("policy", "last"), [("reflect", 28), ("loop", 0), ("clamp", 29)])
def test_short_videos_follow_the_policy_and_are_counted(policy, last):
    task = make(short_videos=policy)
    assert not draw(task, frames=31).extended.any()
    drawn = draw(task, frames=30)
    assert drawn.extended.all()
    assert (drawn.frame_indices[:, -1] == last).all()  # frame 30 of a video of 30
    assert (drawn.frame_indices[~drawn.params["fast"], 15] == 15).all()
    assert draw(task, frames=1).frame_indices.max() == 0


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
    other = draw(make(flip=0.0, grey=0.5, recipe="original"))
    assert np.array_equal(a.frame_indices, other.frame_indices)
    assert np.array_equal(a.params["crop"], other.params["crop"])


@pytest.mark.parametrize("recipe", ["paper", "original"])
def test_windows_are_augmented_apart_and_both_keys_alike(recipe):
    torch.manual_seed(0)
    task = make(recipe=recipe)
    frames = torch.randint(0, 256, (6, 1, 36, 48, 3), dtype=torch.uint8).expand(6, 40, 36, 48, 3)
    views = views_of(task, draw(task, 6), frames)
    query, same, other = (views[f"{name}_BCTHW"] for name in CLIPS)
    assert torch.allclose(query, query[:, :, :1].expand_as(query), atol=1e-6)  # one for all frames of a window
    assert torch.allclose(same, same[:, :, :1].expand_as(same), atol=1e-6)
    assert torch.equal(same, other)
    assert ((query - same).abs().mean((1, 2, 3, 4)) > 0.01).all()


def test_recipes():
    frames = torch.randint(0, 256, (60, 40, 36, 48, 3), dtype=torch.uint8)
    crop = {"geometry": "resized", "area": (0.4, 1.0), "aspect": (3 / 4, 4 / 3)}
    tasks = [make(), make(recipe="original"), make(**crop, jitter=(0.4, 0.4, 0.4, 0.4), grey=0.2)]
    paper, original, spelled_out = (views_of(t, draw(t, 60), frames)["query_BCTHW"] for t in tasks)
    assert torch.equal(original, spelled_out)
    grey = [(clips.amax(1) - clips.amin(1)).amax((1, 2, 3)) < 1e-3 for clips in (paper, original)]
    assert not grey[0].any()
    assert 0.05 < grey[1].float().mean() < 0.4  # a fifth


# The losses


def test_ranking_by_hand():
    # margin 2, temperature 0.5: 2 - (1.2 - 0.4), 2 - (0.2 - 1.8), and 2 - (1.8 + 0.4) is less than nothing
    near, far = torch.tensor([0.6, 0.1, 0.9]), torch.tensor([0.2, 0.9, -0.2])
    assert ranking(near, far, 0.5, 2.0).item() == pytest.approx((1.2 + 3.6 + 0) / 3, abs=1e-5)


class Table(Backbone):
    """A clip's feature is the row of a table that its first pixel names."""

    feature_dim, stride, taps = DIM, (1, 1, 1), ()

    def __init__(self, rows):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(len(rows), DIM))
        with torch.no_grad():
            self.table[:, :4] = torch.tensor(rows)

    def pooled(self, x_BCTHW):
        return self.table[x_BCTHW[:, 0, 0, 0, 0].long()]


def test_loss_and_metrics_by_hand():
    """The first head sees the first two numbers of a feature, the second the last two."""
    rows = [[1.0, 0.0, 0.0, 1.0], [0.6, 0.8, 0.8, 0.6], [0.8, 0.6, 0.6, 0.8], [0.0, 1.0, 0.0, 1.0]]
    task = create_task("rspnet", Table(rows), ClipSpec(1, 16), queue=1, temperature=0.5)
    for heads in (task.heads, task.key_encoder.heads):
        for head, layer in enumerate(heads.layers):
            nn.init.zeros_(layer.bias)
            nn.init.zeros_(layer.weight)
            with torch.no_grad():
                layer.weight[0, 2 * head] = layer.weight[1, 2 * head + 1] = 1
    task.queue.keys.copy_(nn.functional.one_hot(torch.tensor([0]), DIM) * 0.7)
    numbers = {"query": [0, 0], "same": [1, 3], "other": [2, 2]}
    views = {f"{name}_BCTHW": torch.tensor(n)[:, None, None, None, None] * torch.ones(3, 1, 1, 1)
             for name, n in numbers.items()}  # fmt: skip
    out = task(views | {"same_order_B": torch.zeros(2), "other_order_B": torch.zeros(2)})
    # appearance: 0.6 and 0.8, then 0 and 0.8, each against 0.7; motion: 0.6 against 0.8, then 1 against 0.8
    logistic = [np.log1p(np.exp(2 * (0.7 - s))) for s in (0.6, 0.8, 0.0, 0.8)]
    assert out["instance_loss"].item() == pytest.approx(sum(logistic) / 2, abs=1e-5)
    assert out["ranking_loss"].item() == pytest.approx((2.4 + 1.6) / 2, abs=1e-5)
    assert out["loss"].item() == pytest.approx(sum(logistic) / 2 + 2, abs=1e-5)
    assert out["accuracy"].tolist() == [0, 1]
    assert out["instance"].tolist() == [0, 0]
    # the queue is fed with what the appearance head makes of the key at the other speed
    assert torch.allclose(out["keys"][:, :2], torch.tensor([[0.8, 0.6], [0.8, 0.6]]))


def test_no_gradient_reaches_the_key_network():
    task = make(ClipSpec(4, 16))
    out = task(random_views())
    assert not out["keys"].requires_grad
    out["loss"].backward()
    assert [name for name, p in task.named_parameters() if p.requires_grad and not p.grad.isfinite().all()] == []
    assert float(task.backbone.layer.weight.grad.abs().sum()) > 0
    assert [name for name, p in task.key_encoder.named_parameters() if p.requires_grad or p.grad is not None] == []


def test_chance_level():
    """Clips that have nothing to do with each other, and a queue of the keys of such."""
    torch.manual_seed(0)
    task = make(ClipSpec(4, 16), queue=4)
    accuracy, instance = [], []
    with torch.no_grad():
        for _ in range(250):
            task.queue.push(task.key_encoder(torch.rand(4, 3, 4, 16, 16))[:, 0])
            out = task(random_views())
            accuracy.append(out["accuracy"])
            instance.append(out["instance"])
    assert out["accuracy"].shape == (4,)
    for values, chance in ((accuracy, task.chance()), (instance, 1 / 5)):
        assert abs(float(torch.cat(values).mean()) - chance) < 4 * np.sqrt(chance * (1 - chance) / 1000)


def test_chance_level_at_the_start():
    """An untrained network does not know speeds."""
    torch.manual_seed(0)
    task = make(ClipSpec(16, 16), queue=4)
    drawn = draw(task, 800)
    frames = torch.randint(0, 256, (800, 40, 18, 24, 3), dtype=torch.uint8)
    with torch.no_grad():
        accuracy = task(views_of(task, drawn, frames))["accuracy"]
    assert abs(float(accuracy.mean()) - 0.5) < 4 * np.sqrt(0.25 / 800)


# Training


def test_overfits_eight_clips():
    torch.manual_seed(0)
    task = make(ClipSpec(16, 16), queue=64, **STILL)
    drawn = draw(task, 8, frames=60)
    assert 0 < drawn.params["fast"].sum() < 8
    # red beats in time, blue has an edge at a place of the video's own
    beat = torch.sin(torch.from_numpy(drawn.frame_indices)[:, :, None, None] * 0.8)
    edge = (torch.arange(24.0) > 3 + 2 * torch.arange(8)[:, None])[:, None, None] * 2.0 - 1
    parts = [part.expand(8, 40, 18, 24) for part in (beat, torch.zeros(1), edge)]
    views = views_of(task, drawn, (127 + 100 * torch.stack(parts, -1)).to(torch.uint8))
    optimizer = torch.optim.AdamW(task.parameter_groups(), lr=3e-3)
    for _ in range(100):
        out = task(views)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    assert out["accuracy"].mean() == 1
    assert out["instance"].mean() == 1
    assert out["loss"] < 0.1  # about 2 at the start, the margin


@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_carries_it(name):
    with torch.device("meta"):
        task = create_task("rspnet", create_backbone(name), ClipSpec(16, 112))
        out = task(random_views(112, 16, 2))
        assert out["accuracy"].shape == (2,)
        out["loss"].backward()
    assert [key for key, p in task.named_parameters() if p.requires_grad and p.grad is None] == []


def test_forward_is_one_graph():
    task = make().eval()
    drawn = draw(task, 2)
    views = views_of(task, drawn, numbered(drawn.frame_indices))
    compiled = torch.compile(task, backend="eager", fullgraph=True)
    assert compiled(views)["loss"].item() == pytest.approx(task(views)["loss"].item(), rel=1e-5)
    assert "keys" in torch.compile(task.train(), backend="eager", fullgraph=True)(views)


def test_bfloat16():
    task = make()
    drawn = draw(task, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = task(views_of(task, drawn, numbered(drawn.frame_indices)))
    assert out["loss"].dtype == out["keys"].dtype == torch.float32
    assert out["loss"].isfinite()


def test_picture_names_each_speed():
    task = make()
    drawn = draw(task, 2)
    drawn.params["fast"][:] = [True, False]
    figure = task.picture(views_of(task, drawn, numbered(drawn.frame_indices)), ["a.mp4", "b.mp4"], drawn.frame_indices)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert len(figure.axes[0].images) == 2 * 3 * 8
    rows = [text for text in shown if "(speed" in text]
    assert rows == [f"{name}\n(speed {speed})" for speeds in ((2, 2, 1), (1, 1, 2))
                    for name, speed in zip(("query", "same speed", "other speed"), speeds, strict=True)]  # fmt: skip
    window = drawn.frame_indices[0, 16:]
    assert {"a.mp4", "b.mp4", str(window[0]), str(window[0] + 30), str(window[0] + 15)} <= set(shown)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": 0}, "benchmark has 16384"),
        ({"temperature": -1.0}, "0.07"),
        ({"momentum": 1.5}, "0.999"),
        ({"speed": 1}, "2 or 4"),
        ({"margin": -1.0}, "original has 2"),
        ({"recipe": "papr"}, "paper"),
        ({"short_videos": "stop"}, "reflect"),
        ({"flip": 2.0}, "0"),
        ({"area": (0.5, 0.2)}, "low"),
    ],
)
def test_wrong_options_say_what_is_legal(options, words):
    with pytest.raises(ConfigError, match=words):
        make(**options)
