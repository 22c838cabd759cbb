"""TDL read back from its own pixels: every frame carries its number, so that the intervals shown can be named."""

import numpy as np
import pytest
import torch
from torch import nn

from vidssl import create_backbone, create_task, list_backbones
from vidssl.backbones.base import Backbone
from vidssl.data.plan import uniforms
from vidssl.data.sampling import extend
from vidssl.errors import ConfigError
from vidssl.tasks.base import ClipSpec
from vidssl.tasks.momentum import DIM

from .numbered import draw, numbered, views_of

STILL = {"rotation_degrees": 0.0, "crop": "centre", "flip": 0.0, "jitter": (0.0, 0.0, 0.0, 0.0)}
VIEWS = ("anchor", "positive", "negative")


class TinyBackbone(Backbone):
    feature_dim, stride, taps = 32, (2, 4, 4), ()

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(3, 32, (2, 4, 4), stride=(2, 4, 4))

    def feature_map(self, x_BCTHW):
        return torch.relu(self.layer(x_BCTHW))


def make(clip=None, **options):
    return create_task("tdl", TinyBackbone(), clip or ClipSpec(16, 32), **{"queue": 6, **options})


def read(clips_BCTHW):
    """The values that the frames show, float64 [B, T]; the whole picture must agree."""
    numbers = clips_BCTHW.double() * 255
    assert (numbers - numbers[:, :1, :, :1, :1]).abs().max() < 1e-3
    return numbers[:, 0, :, 0, 0]


# What is shown


def test_intervals_are_readable_from_the_pixels():
    task = make(blend=0.0, **STILL)
    drawn = draw(task)
    views = views_of(task, drawn, numbered(drawn.frame_indices))
    anchor, positive, negative = (read(views[f"{name}_BCTHW"]).round().long() for name in VIEWS)
    assert anchor.shape == (200, 16)
    for clip in (anchor, negative):
        assert (clip.diff(dim=1) == 4).all()
    assert torch.equal(anchor, positive)
    gap = negative[:, 0] - anchor[:, 0]
    assert gap.abs().min() >= 4
    assert 0.4 < (gap > 0).float().mean() < 0.6
    assert not drawn.extended.any()
    assert torch.equal(views["order_B"], torch.from_numpy(drawn.params["order"]))


@pytest.mark.parametrize("room", [4, 6, 11])
def test_pairs_of_starts_are_equally_likely(room):
    task = make()
    assert task.request().min_frames == 61 + 4
    pairs = [(a, n) for a in range(room + 1) for n in range(room + 1) if abs(a - n) >= 4]
    drawn = draw(task, 400 * len(pairs), frames=61 + room)
    assert not drawn.extended.any()
    assert drawn.frame_indices.max() == 60 + room
    seen = [tuple(pair) for pair in drawn.frame_indices[:, [0, 16]].tolist()]
    assert set(seen) == set(pairs)
    counts = np.array([seen.count(pair) for pair in pairs])
    chi_square = ((counts - 400) ** 2 / 400).sum()
    assert chi_square < len(pairs) - 1 + 4 * np.sqrt(2 * (len(pairs) - 1))  # mean and deviation of its distribution


@pytest.mark.parametrize("policy", ["reflect", "loop", "clamp"])
def test_in_short_videos_anchor_and_negative_differ(policy):
    task = make(short_videos=policy)
    for length in range(1, 65):
        drawn = draw(task, 150, frames=length)
        assert drawn.extended.all()
        anchor, negative = drawn.frame_indices[:, :16], drawn.frame_indices[:, 16:]
        if length == 1:  # nothing else to show
            assert drawn.frame_indices.max() == 0
            continue
        assert (anchor != negative).any(1).all(), length
        same = [set(a) == set(b) for a, b in zip(anchor.tolist(), negative.tolist(), strict=True)]
        every = extend(np.arange(length)[:, None] + 4 * np.arange(16), np.full(length, length), policy)
        possible = len({frozenset(clip) for clip in every.tolist()}) > 1
        assert not possible or not any(same), length
        assert possible or (policy, length % 2, length < 16) == ("loop", 1, True)
    assert not draw(task, frames=65).extended.any()


def test_in_short_videos_both_intervals_start_anywhere():
    drawn = draw(make(short_videos="loop"), 2000, frames=61)
    anchor, negative = drawn.frame_indices[:, 0], drawn.frame_indices[:, 16]
    assert set(anchor) == set(negative) == set(range(61))
    assert set((negative - anchor) % 61) == {20}
    assert (drawn.frame_indices[:, :16] == (anchor[:, None] + np.arange(0, 61, 4)) % 61).all()
    lengths = np.array([61, 200, 7, 64, 1])
    together = make().draw(uniforms(0, 0, np.arange(5, dtype=np.uint64), make().request().num_uniforms), lengths)
    for row, length in enumerate(lengths):
        assert np.array_equal(together.frame_indices[row], draw(make(), 5, frames=length).frame_indices[row])


def test_one_frame_is_blended_into_the_anchor_alone():
    task = make(**STILL)
    drawn = draw(task, 400)
    views = views_of(task, drawn, numbered(drawn.frame_indices))
    anchor, positive, negative = (read(views[f"{name}_BCTHW"]) for name in VIEWS)
    # differences between frames are scaled, all alike
    share = 1 - anchor.diff(dim=1) / 4
    assert (share - share[:, :1]).abs().max() < 1e-4
    share = share[:, 0].numpy()
    assert 0 <= share.min() < 0.005
    assert 0.095 < share.max() < 0.1
    assert np.abs(np.sort(share) - (np.arange(400) + 0.5) / 4000).max() < 0.1 * 0.0815  # Kolmogorov-Smirnov, p = 0.01
    # the frame that stays what it was is the one blended in
    which = (anchor - positive).abs().argmin(1)
    clear = share > 0.02
    assert (which.numpy() == drawn.params["blended"])[clear].all()
    assert set(drawn.params["blended"]) == set(range(16))
    assert (positive - positive.round()).abs().max() < 1e-3
    assert (negative - negative.round()).abs().max() < 1e-3


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
    other = draw(make(blend=0.0, flip=0.0, queue=0))
    assert np.array_equal(a.frame_indices, other.frame_indices)
    assert np.array_equal(a.params["crop"], other.params["crop"])


def test_each_view_has_its_own_augmentation():
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (4, 1, 36, 48, 3), dtype=torch.uint8).expand(4, 32, 36, 48, 3)
    task = make()
    views = views_of(task, draw(task, 4), frames)
    clips = [views[f"{name}_BCTHW"] for name in VIEWS]
    for clip in clips:
        assert torch.allclose(clip, clip[:, :, :1].expand_as(clip), atol=1e-6)  # one for all frames of a clip
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert ((clips[i] - clips[j]).abs().mean((1, 2, 3, 4)) > 0.01).all()


def test_recipes():
    frames = torch.randint(0, 256, (4, 32, 36, 48, 3), dtype=torch.uint8)
    tasks = [make(), make(recipe="original"), make(flip=0.0)]
    paper, original, no_flip = (views_of(t, draw(t, 4), frames)["positive_BCTHW"] for t in tasks)
    assert torch.equal(original, no_flip)
    assert not torch.equal(paper, original)


# The loss


class Table(Backbone):
    """A clip's feature is the row of a table that its first pixel names."""

    feature_dim, stride, taps = DIM, (1, 1, 1), ()

    def __init__(self, rows):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(len(rows), DIM))
        with torch.no_grad():
            self.table[:, :2] = torch.tensor(rows)

    def pooled(self, x_BCTHW):
        return self.table[x_BCTHW[:, 0, 0, 0, 0].long()]


def by_hand(queue):
    """Two samples. Similarities with positive and negative: 0.6 and 0.8, 1 and 0; with the queue's one key: 0."""
    rows = [[2.0, 0.0], [0.6, 0.8], [0.8, 0.6], [1.0, 0.0], [0.0, 3.0]]
    task = create_task("tdl", Table(rows), ClipSpec(1, 16), queue=queue, temperature=0.5)
    for heads in (task.heads, task.key_encoder.heads):
        nn.init.eye_(heads.layers[0].weight)
        nn.init.zeros_(heads.layers[0].bias)
    if queue:
        task.queue.keys.copy_(nn.functional.one_hot(torch.tensor([1]), DIM))
    numbers = {"anchor": [0, 0], "positive": [1, 3], "negative": [2, 4]}
    views = {f"{name}_BCTHW": torch.tensor(n)[:, None, None, None, None] * torch.ones(3, 1, 1, 1) for name, n in
             numbers.items()}  # fmt: skip
    return task, task({**views, "order_B": torch.zeros(2)})


def test_loss_and_metrics_by_hand():
    # logits 1.2, 0, 1.6: log(3.320117 + 1 + 4.953032) - 1.2; logits 2, 0, 0: log(7.389056 + 2) - 2
    task, out = by_hand(1)
    assert out["loss"].item() == pytest.approx((1.027123 + 0.239545) / 2, abs=1e-5)
    assert out["accuracy"].tolist() == [0, 1]
    assert out["same_video"].tolist() == [0, 1]
    assert out["positive_similarity"].tolist() == pytest.approx([0.6, 1])
    assert out["negative_similarity"].tolist() == pytest.approx([0.8, 0])
    assert torch.allclose(out["keys"][:, :2], torch.tensor([[0.6, 0.8], [1.0, 0.0]]))
    assert task.chance() == 1 / 3


def test_without_a_queue_one_negative_is_left():
    task, out = by_hand(0)
    # log(3.320117 + 4.953032) - 1.2, log(7.389056 + 1) - 2
    assert out["loss"].item() == pytest.approx((0.913015 + 0.126928) / 2, abs=1e-5)
    assert task.chance() == 0.5
    task.after_step({"keys": out["keys"]})
    assert task.check_data(5, 8) == []


def test_gradient_reaches_the_query_network_through_the_negative_and_never_the_key_network():
    task = make()
    drawn = draw(task, 4)
    views = views_of(task, drawn, numbered(drawn.frame_indices))
    embed = task.embed
    task.embed = lambda clips: embed(clips) if clips is views["negative_BCTHW"] else embed(clips).detach()
    task(views)["loss"].backward()
    assert float(task.backbone.layer.weight.grad.abs().sum()) > 0
    task.embed = embed
    task(views)["loss"].backward()
    assert [name for name, p in task.named_parameters() if p.requires_grad and not p.grad.isfinite().all()] == []
    assert [name for name, p in task.key_encoder.named_parameters() if p.requires_grad or p.grad is not None] == []
    (group,) = task.parameter_groups()
    assert len(group["params"]) == 4  # weight and bias of the layer and of the head


def test_chance_level():
    """Clips that have nothing to do with each other, and a queue of the keys of such: every place is as likely."""
    torch.manual_seed(0)
    task = make(ClipSpec(2, 16), queue=6)
    accuracy, same_video = [], []
    with torch.no_grad():
        for _ in range(250):
            task.queue.push(task.key_encoder(torch.rand(6, 3, 2, 16, 16))[:, 0])
            out = task({**{f"{name}_BCTHW": torch.rand(4, 3, 2, 16, 16) for name in VIEWS}, "order_B": torch.rand(4)})
            accuracy.append(out["accuracy"])
            same_video.append(out["same_video"])
    assert out["accuracy"].shape == (4,)
    for values, chance in ((accuracy, task.chance()), (same_video, 0.5)):
        assert abs(float(torch.cat(values).mean()) - chance) < 4 * np.sqrt(chance * (1 - chance) / 1000)


# Training


def coloured(task):
    """Eight videos: red and green tell the moment, blue has an edge at a place of the video's own."""
    drawn = draw(task, 8, frames=60)
    time = torch.from_numpy(drawn.frame_indices)[:, :, None, None] * 0.1
    edge = (torch.arange(48.0) > 4 + 5 * torch.arange(8)[:, None])[:, None, None]
    parts = [torch.sin(time), torch.cos(time), 2.0 * edge - 1]
    frames = torch.stack([part.expand(8, task.request().num_frames, 36, 48) for part in parts], -1)
    return views_of(task, drawn, (127 + 100 * frames).to(torch.uint8))


def train(task, views, steps, push):
    optimizer = torch.optim.AdamW(task.parameter_groups(), lr=3e-3)
    for _ in range(steps):
        out = task(views)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        if push:
            with torch.no_grad():
                task.after_step({"keys": out["keys"]})
    return task(views)


def test_overfits_eight_clips():
    torch.manual_seed(0)
    task = make(ClipSpec(4, 16), queue=64, **STILL)
    out = train(task, coloured(task), 60, push=False)
    assert out["accuracy"].mean() == 1
    assert out["loss"] < 0.02


def test_a_queue_with_the_clips_own_keys_costs_a_bit():
    """Of eight clips, a queue of eight holds each one's key of the step before: the loss stays above log 2, or
    nearly. What `check_data` warns of."""
    torch.manual_seed(0)
    task = make(ClipSpec(4, 16), queue=8, momentum=0.5, **STILL)
    out = train(task, coloured(task), 60, push=True)
    assert out["loss"] > 0.6


@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_carries_it(name):
    with torch.device("meta"):
        task = create_task("tdl", create_backbone(name), ClipSpec(16, 112))
        views = {f"{view}_BCTHW": torch.rand(2, 3, 16, 112, 112) for view in VIEWS}
        out = task({**views, "order_B": torch.rand(2)})
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


def test_picture_names_each_interval():
    task = make()
    drawn = draw(task, 2)
    figure = task.picture(views_of(task, drawn, numbered(drawn.frame_indices)), ["a.mp4", "b.mp4"], drawn.frame_indices)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert len(figure.axes[0].images) == 2 * 3 * 8
    assert {"a.mp4", "b.mp4", str(drawn.frame_indices[1, 15]), str(drawn.frame_indices[1, 31])} <= set(shown)
    for indices in drawn.frame_indices:
        assert {f"anchor\nfrom {indices[0]}", f"positive\nfrom {indices[0]}", f"negative\nfrom {indices[16]}"} <= set(
            shown
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": -1}, "benchmark has 500"),
        ({"temperature": 0.0}, "0.07"),
        ({"temperature": float("nan")}, "not finite"),
        ({"queu": 5}, "Did you mean 'task.queue'"),
        ({"momentum": 1.0}, "0.999"),
        ({"stride": 0}, "1 and more"),
        ({"apart": 0}, "original has 4"),
        ({"blend": 1.0}, "0.1"),
        ({"recipe": "papr"}, "paper"),
        ({"short_videos": "stop"}, "reflect"),
        ({"flip": 2.0}, "0 to 1"),
    ],
)
def test_wrong_options_say_what_is_legal(options, words):
    with pytest.raises(ConfigError, match=words):
        make(**options)
