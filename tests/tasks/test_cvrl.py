"""CVRL read back from its own pixels: frames carry their number, so that both clips and their interval can be named."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from vidssl import create_backbone, create_task, list_backbones
from vidssl.backbones.base import Backbone
from vidssl.data.plan import uniforms
from vidssl.errors import ConfigError
from vidssl.tasks.base import ClipSpec
from vidssl.tasks.cvrl import nt_xent
from vidssl.transforms.views import ViewAugmentation

from . import numbered as shared
from .numbered import numbered, views_of

draw = partial(shared.draw, frames=100)

STILL = {"rotation_degrees": 0.0, "flip": 0.0, "jitter": (0.0,) * 4, "grey": 0.0, "gamma_probability": 0.0}


class TinyBackbone(Backbone):
    """Two convolutions."""

    feature_dim, stride, taps = 32, (4, 8, 8), ()

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, 16, 4, stride=4), nn.ReLU(), nn.Conv3d(16, 32, (1, 2, 2), stride=(1, 2, 2)), nn.ReLU()
        )
        self.seen = []

    def feature_map(self, x_BCTHW):
        self.seen.append(tuple(x_BCTHW.shape))
        return self.layers(x_BCTHW)


def make(clip=None, **options):
    options = {"head_width": 1 / 64, **options}
    return create_task("cvrl", TinyBackbone(), clip or ClipSpec(16, 32), **options)


def textured(videos, frames, height=36, width=48):
    """One random picture a video, the same in all its frames."""
    picture = torch.randint(0, 256, (videos, 1, height // 6, width // 6, 3), dtype=torch.uint8)
    return picture.repeat_interleave(6, 2).repeat_interleave(6, 3).expand(-1, frames, -1, -1, -1)


def spans(values, low, high):
    """They fill the range up to a hundredth at its ends, and do not leave it."""
    edge, rounding = (high - low) / 100, 1e-6
    return low - rounding <= values.min() < low + edge and high - edge < values.max() <= high + rounding


def random_units(count, dim, seed=0):
    return nn.functional.normalize(torch.randn(count, 2, dim, generator=torch.Generator().manual_seed(seed)), dim=2)


# ---- what is drawn


def test_both_clips_and_the_interval_are_readable_from_the_pixels():
    task = make(**STILL)
    drawn = draw(task, 100)
    # a hundred numbers a video of its own: the number tells the video, too
    videos = np.arange(100)[:, None] % 2
    views = views_of(task, drawn, numbered(drawn.frame_indices + 100 * videos))
    clips = views["clips_BVCTHW"]
    assert clips.shape == (100, 2, 3, 16, 32, 32)
    numbers = clips * 255
    assert (numbers - numbers[:, :, :1, :, :1, :1]).abs().max() < 1e-3
    shown = numbers[:, :, 0, :, 0, 0].round().long().numpy()
    assert (shown // 100 == videos[:, :, None]).all()
    shown = shown % 100
    assert (np.diff(shown) == 2).all()
    starts = shown[:, :, 0]
    assert np.array_equal(np.abs(starts[:, 0] - starts[:, 1]), views["interval_B"].numpy())
    ahead = starts[:, 0] < starts[:, 1]
    assert 30 < ahead.sum() < 70  # either may come first


@pytest.mark.parametrize("frames", [31, 32, 100, 3000])
def test_interval_follows_its_law(frames):
    """Kolmogorov-Smirnov: the largest distance of two distribution functions, below 1.95 / sqrt(n) with 99.9 %."""
    interval = draw(make(), 20000, frames=frames).params["interval"]
    legal_starts = frames - 30
    k = np.arange(1, legal_starts + 1)
    law = 2 * k / legal_starts - k**2 / legal_starts**2
    seen = np.cumsum(np.bincount(interval, minlength=legal_starts)) / 20000
    assert interval.min() >= 0
    assert len(seen) == legal_starts  # no interval beyond M - 1
    assert np.abs(seen - law).max() < 1.95 / np.sqrt(20000)


def test_interval_is_that_of_the_originals_bisection():
    # video_ssl_preprocess_ops.py: halves [0, M] in whole numbers until it is one wide; its lower end is the interval
    task = make()
    u = uniforms(1, 0, np.arange(500, dtype=np.uint64), task.request().num_uniforms)
    for frames in (31, 38, 120):
        legal_starts = frames - 30
        expected = []
        for value in u[:, 0]:
            low, high = 0, legal_starts
            while high - low > 1:
                middle = (low + high) // 2
                if 2 * middle / legal_starts - middle**2 / legal_starts**2 > value:
                    high = middle
                else:
                    low = middle
            expected.append(low)
        assert task.draw(u, np.full(500, frames)).params["interval"].tolist() == expected


def test_every_pair_of_legal_starts_is_reached():
    indices = draw(make(), 4000, frames=35).frame_indices
    starts = indices[:, [0, 16]]
    pairs, counts = np.unique(starts, axis=0, return_counts=True)
    assert pairs.tolist() == [[a, b] for a in range(5) for b in range(5)]
    # interval j has (2 (5 - j) - 1) / 25, over 5 - j starts and two orders
    room = 5 - np.abs(pairs[:, 0] - pairs[:, 1])
    expected = (2 * room - 1) / 25 / room / np.where(room == 5, 1, 2)
    chi_square = ((counts - 4000 * expected) ** 2 / (4000 * expected)).sum()
    assert expected.sum() == pytest.approx(1)
    assert chi_square < 24 + 4 * np.sqrt(48)
    assert indices.max() == 34


def test_draw_is_pure_and_each_sample_its_own():
    task = make()
    a, b = draw(task), draw(task)
    assert np.array_equal(a.frame_indices, b.frame_indices)
    assert all(np.array_equal(values, b.params[name]) for name, values in a.params.items())
    u = uniforms(0, 0, np.arange(200, dtype=np.uint64), task.request().num_uniforms)
    alone = task.draw(u[7:8], np.array([100]))
    assert np.array_equal(alone.frame_indices[0], a.frame_indices[7])
    assert all(np.array_equal(alone.params[name][0], values[7]) for name, values in a.params.items())
    assert not np.array_equal(a.frame_indices, draw(task, epoch=1).frame_indices)
    other = draw(make(recipe="original"))
    assert np.array_equal(a.frame_indices, other.frame_indices)
    assert np.array_equal(a.params["second_crop"], other.params["second_crop"])


@pytest.mark.parametrize(("policy", "after"), [("reflect", [18, 16]), ("loop", [0, 2]), ("clamp", [19, 19])])
def test_short_videos_follow_the_policy_and_are_counted(policy, after):
    task = make(short_videos=policy)
    assert task.request().min_frames == 31
    assert not draw(task, frames=31).extended.any()
    drawn = draw(task, 2000, frames=20)
    assert drawn.extended.all()
    assert set(drawn.frame_indices[:, 0]) == set(range(20))  # any frame may be the first
    even = drawn.frame_indices[drawn.frame_indices[:, 0] == 0][0]
    assert even[:12].tolist() == [*range(0, 20, 2), *after]
    assert draw(task, frames=1).frame_indices.max() == 0


# ---- what is done to the two views


def test_views_of_the_paper_are_augmented_apart_but_alike():
    task = make(ClipSpec(4, 32))
    torch.manual_seed(0)
    drawn = draw(task, 300)
    clips = views_of(task, drawn, textured(300, 8))["clips_BVCTHW"]
    assert torch.allclose(clips, clips[:, :, :, :1].expand_as(clips), atol=1e-5)  # one for all frames of a view
    assert ((clips[:, 0] - clips[:, 1]).abs().mean((1, 2, 3, 4)) > 0.01).all()
    grey = (clips.amax(2) - clips.amin(2)).flatten(2).amax(2) < 1e-4
    for view in range(2):  # 0.175, within four deviations
        assert abs(float(grey[:, view].float().mean()) - 0.175) < 4 * np.sqrt(0.175 * 0.825 / 300)
    both = float((grey[:, 0] & grey[:, 1]).float().mean())
    assert both < 0.175**2 + 4 * np.sqrt(0.175**2 / 300)  # not the same toss
    many = draw(task, 20000).params
    for view in ("first", "second"):
        gamma = many[f"{view}_gamma"]
        turned = gamma != 1
        assert abs(turned.mean() - 0.13125) < 0.01
        assert spans(gamma, 0.75, 1.25)
        assert (many[f"{view}_sigma"] == 0).all()
        assert not many[f"{view}_solarise"].any()


def test_views_of_the_original_differ_in_blur_and_solarisation():
    drawn = draw(make(recipe="original"), 20000)
    first, second = drawn.frame_indices[:, 0], drawn.frame_indices[:, 16]
    blurred = [drawn.params[f"{view}_sigma"] > 0 for view in ("first", "second")]
    assert blurred[0].all()
    assert abs(blurred[1].mean() - 0.1) < 0.01
    assert not drawn.params["first_solarise"].any()
    assert abs(drawn.params["second_solarise"].mean() - 0.2) < 0.012
    # the order is tossed before, so the blurred view is as often the earlier clip as the later one
    assert abs((first < second).mean() - (first > second).mean()) < 0.03
    for view in ("first", "second"):
        area, aspect, sigma, factors = (
            drawn.params[f"{view}_{name}"] for name in ("area", "aspect", "sigma", "jitter")
        )
        assert spans(area, 0.3, 1)
        assert spans(np.log(aspect), -np.log(2), np.log(2))
        assert spans(sigma[sigma > 0], 0.1, 2)
        assert all(spans(factors[:, k], 0.2, 1.8) for k in range(2))
        assert spans(factors[:, 3], -0.2, 0.2)
        assert abs((factors[:, 0] == 1).mean() - 0.2) < 0.012
        assert (drawn.params[f"{view}_gamma"] == 1).all()


def test_each_view_is_what_its_augmentation_makes_of_its_frames():
    task = make(ClipSpec(4, 32), recipe="original")
    torch.manual_seed(0)
    drawn = draw(task, 6)
    frames = torch.randint(0, 256, (6, 8, 36, 48, 3), dtype=torch.uint8)
    clips = views_of(task, drawn, frames)["clips_BVCTHW"]
    for view, name in enumerate(("first", "second")):
        params = {
            key.partition("_")[2]: torch.from_numpy(values)
            for key, values in drawn.params.items()
            if key.startswith(name)
        }
        alone = ViewAugmentation(task.augmentations[view].args, 32).apply(frames[:, 4 * view : 4 * view + 4], params)
        assert torch.equal(clips[:, view], alone)


# ---- the loss


def test_loss_by_hand():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    same = torch.stack([torch.stack([one, one]), torch.stack([other, other])])
    # each clip: partner at 1, two others at 0; the two directions are summed: 2 log(1 + 2 / e)
    loss, accuracy = nt_xent(same, same, 0, 1.0)
    assert loss.tolist() == pytest.approx([1.1028894, 1.1028894], abs=1e-5)
    assert accuracy.tolist() == [1, 1]
    loss, _ = nt_xent(same, same, 0, 0.1)
    assert loss.tolist() == pytest.approx([1.815916e-4] * 2, rel=1e-3)  # 2 log(1 + 2 exp(-10))
    crossed = torch.stack([torch.stack([one, other]), torch.stack([one, other])])
    # each clip: partner at 0, one other at 1, one at 0: 2 log(2 + e)
    loss, accuracy = nt_xent(crossed, crossed, 0, 1.0)
    assert loss.tolist() == pytest.approx([3.1028894, 3.1028894], abs=1e-5)
    assert accuracy.tolist() == [0, 0]


def test_accuracy_by_hand():
    degrees = torch.tensor([[0.0, 10.0], [15.0, 40.0], [90.0, 100.0]])
    clips = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], -1)
    # 0 -> 10 (right), 10 -> 15, 15 -> 10, 40 -> 15 (right), 90 and 100 -> each other (right)
    assert nt_xent(clips, clips, 0, 0.1)[1].tolist() == [0.5, 0.5, 1]


def test_equal_embeddings_score_nothing():
    everyone = torch.nn.functional.normalize(torch.ones(64, 2, 128), dim=2)
    loss, accuracy = nt_xent(everyone, everyone, 0, 0.1)
    assert loss.mean().item() == pytest.approx(2 * np.log(127), rel=1e-5)
    assert accuracy.sum() == nt_xent(everyone[32:], everyone, 32, 0.1)[1].sum() == 0


def test_loss_against_a_plain_float64_loop():
    units = random_units(7, 16)
    loss, accuracy = nt_xent(units, units, 0, 0.1)
    z = units.double().flatten(0, 1).numpy()
    expected, right = np.zeros((7, 2)), np.zeros((7, 2))
    for i in range(14):
        similarity = [float(z[i] @ z[j]) for j in range(14)]
        others = [j for j in range(14) if j != i]
        partner = i + 1 if i % 2 == 0 else i - 1
        total = sum(np.exp(similarity[j] / 0.1) for j in others)
        expected[i // 2, i % 2] = -np.log(np.exp(similarity[partner] / 0.1) / total)
        right[i // 2, i % 2] = partner == max(others, key=lambda j: similarity[j])
    assert np.abs(loss.numpy() - expected.sum(1)).max() < 1e-4
    assert np.array_equal(accuracy.numpy(), right.mean(1))


def test_loss_against_the_originals_formula():
    # official/projects/video_ssl/losses/losses.py: four blocks of logits, itself pushed down by 1e9, a + b
    units = random_units(6, 128, seed=1)
    a, b = units.double().numpy().transpose(1, 0, 2)
    itself, labels = 1e9 * np.eye(6), np.eye(6, 12)
    aa, bb, ab, ba = a @ a.T / 0.1 - itself, b @ b.T / 0.1 - itself, a @ b.T / 0.1, b @ a.T / 0.1

    def cross_entropy(logits):
        shifted = logits - logits.max(1, keepdims=True)
        return -(labels * (shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))).sum(1).mean()

    original = cross_entropy(np.concatenate([ab, aa], 1)) + cross_entropy(np.concatenate([ba, bb], 1))
    assert nt_xent(units, units, 0, 0.1)[0].mean().item() == pytest.approx(original, rel=1e-5)


def test_some_rows_against_all_are_the_same_as_all_against_all():
    units = random_units(5, 8)
    loss, accuracy = nt_xent(units, units, 0, 0.1)
    for first, last in ((0, 2), (2, 5), (4, 5)):
        some = nt_xent(units[first:last], units, first, 0.1)
        assert torch.allclose(some[0], loss[first:last], atol=1e-5)
        assert torch.equal(some[1], accuracy[first:last])


def test_gradient_goes_through_a_clip_and_through_those_it_is_compared_with():
    task = make(ClipSpec(4, 16)).eval()
    clips = torch.rand(4, 2, 3, 4, 16, 16)
    task({"clips_BVCTHW": clips, "interval_B": torch.zeros(4)})["loss"].backward()
    got = task.head[-1].weight.grad
    task = task.double()
    task.zero_grad()
    embeddings = task.head(task.backbone.pooled(clips.double().flatten(0, 1)))
    logits = nn.functional.cosine_similarity(embeddings[:, None], embeddings[None], dim=2) / 0.1
    apart = [torch.logsumexp(torch.cat([row[:i], row[i + 1 :]]), 0) for i, row in enumerate(logits)]
    (sum(apart[i] - logits[i, i ^ 1] for i in range(8)) / 4).backward()
    torch.testing.assert_close(got.double(), task.head[-1].weight.grad, rtol=1e-3, atol=1e-7)


def tasks_gradient(folder, rank, world):
    """This rank's share of five samples through a whole task; saved: loss, chance, accuracy and gradients."""
    torch.manual_seed(0)
    task = make(ClipSpec(4, 16)).eval()  # running statistics: those of a step are the engine's to share
    clips = torch.rand(5, 2, 3, 4, 16, 16)
    rows = {1: [slice(0, 5)], 2: [slice(0, 2), slice(2, 5)]}[world][rank]
    out = task({"clips_BVCTHW": clips[rows], "interval_B": torch.zeros(5)[rows]})
    share = len(clips[rows]) / 5  # as the engine weighs a rank's loss
    (out["loss"] * share).backward()
    saved = {"loss": out["loss"].detach() * share, "chance": out["chance"], "accuracy": out["accuracy"]}
    torch.save({**saved, **{f"grad {k}": p.grad for k, p in task.named_parameters()}}, f"{folder}/{world}-{rank}.pt")


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    tasks_gradient(folder, rank, 2)
    dist.destroy_process_group()


def test_two_ranks_have_the_gradient_of_one(tmp_path):
    torch.multiprocessing.spawn(run_rank, (str(tmp_path),), nprocs=2)
    tasks_gradient(tmp_path, 0, 1)
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert first["chance"] == second["chance"] == one["chance"] == pytest.approx(1 / 9)
    assert torch.equal(torch.cat([first["accuracy"], second["accuracy"]]), one["accuracy"])
    for name in one.keys() - {"chance", "accuracy"}:
        torch.testing.assert_close(first[name] + second[name], one[name], rtol=1e-4, atol=1e-7)
    assert one["grad backbone.layers.0.weight"].abs().max() > 1e-4


# ---- the network


def test_head_is_the_originals():
    task = create_task("cvrl", TinyBackbone(), ClipSpec(16, 32))
    shapes = [tuple(layer.weight.shape) for layer in task.head if isinstance(layer, nn.Linear)]
    assert shapes == [(2048, 32), (2048, 2048), (2048, 2048), (128, 2048)]
    kinds = [type(layer).__name__ for layer in task.head]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 3 + ["Linear"]
    assert make(head_width=0.125).head[0].out_features == 256


def test_forward_is_loss_and_accuracy_of_the_embeddings():
    task = make(ClipSpec(4, 16)).eval()
    views = {"clips_BVCTHW": torch.rand(3, 2, 3, 4, 16, 16), "interval_B": torch.tensor([4, 0, 9])}
    with torch.no_grad():
        out = task(views)
        embeddings = task.head(task.backbone.pooled(views["clips_BVCTHW"].flatten(0, 1)))
        units = (embeddings / embeddings.norm(dim=1, keepdim=True)).view(3, 2, 128)
        loss, accuracy = nt_xent(units, units, 0, 0.1)
    assert task.backbone.seen == [(6, 3, 4, 16, 16)] * 2  # all clips in one pass
    assert out["loss"].item() == pytest.approx(loss.mean().item(), rel=1e-5)
    assert torch.equal(out["accuracy"], accuracy)
    assert torch.allclose(out["similarity"], nn.functional.cosine_similarity(units[:, 0], units[:, 1]), atol=1e-5)
    assert out["interval"].tolist() == [4, 0, 9]
    assert out["chance"].item() == pytest.approx(1 / 5)
    assert task.chance() == 1 / 127  # steps of 64


def test_chance_level_at_the_start():
    """Pictures of noise: nothing ties the two clips of a video, so the partner is as near as any other clip."""
    torch.manual_seed(0)
    task = make(ClipSpec(4, 16))
    drawn = draw(task, 1600)
    frames = torch.randint(0, 256, (1600, 8, 18, 24, 3), dtype=torch.uint8)
    clips = views_of(task, drawn, frames)["clips_BVCTHW"]
    with torch.no_grad():
        steps = [task({"clips_BVCTHW": part, "interval_B": torch.zeros(8)}) for part in clips.split(8)]
    accuracy = torch.cat([out["accuracy"] for out in steps])
    chance = float(steps[0]["chance"])
    assert chance == pytest.approx(1 / 15)
    # if one of two clips is the other's nearest, the other way round is likely too: the two count as one
    assert abs(float(accuracy.mean()) - chance) < 4 * np.sqrt(chance * (1 - chance) / 1600)


def test_overfits_eight_clips():
    """The least that the loss can be for 8 samples is 3e-4: partners at 1, all others at -1/7."""
    torch.manual_seed(0)
    task = make(ClipSpec(8, 32), head_width=1 / 16)
    drawn = draw(task, 8)
    views = views_of(task, drawn, textured(8, 16))
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    for _ in range(40):
        out = task(views)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    assert out["accuracy"].mean() == 1
    assert out["similarity"].mean() > 0.9
    assert out["loss"] < 0.02  # 2 log(15) = 5.4 at chance


@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_carries_it(name):
    with torch.device("meta"):
        task = create_task("cvrl", create_backbone(name), ClipSpec(16, 112))
        out = task({"clips_BVCTHW": torch.rand(3, 2, 3, 16, 112, 112), "interval_B": torch.zeros(3, dtype=torch.long)})
        assert out["accuracy"].shape == (3,)
        out["loss"].backward()
    assert [key for key, p in task.named_parameters() if p.grad is None] == []


def test_gradients_reach_the_backbone():
    task = make()
    drawn = draw(task, 4)
    task(views_of(task, drawn, textured(4, 32)))["loss"].backward()
    assert [name for name, p in task.named_parameters() if not p.grad.isfinite().all()] == []
    assert float(task.backbone.layers[0].weight.grad.abs().sum()) > 0


def test_forward_is_one_graph():
    task = make(ClipSpec(4, 32)).eval()
    drawn = draw(task, 3)
    views = views_of(task, drawn, textured(3, 8))
    compiled = torch.compile(task, backend="eager", fullgraph=True)
    assert compiled(views)["loss"].item() == pytest.approx(task(views)["loss"].item(), rel=1e-4)


def test_bfloat16_compares_in_float32():
    units = random_units(16, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nt_xent(units, units, 0, 0.1)[0]
        task = make()
        out = task(views_of(task, draw(task, 4), textured(4, 32)))
    assert torch.equal(inside, nt_xent(units, units, 0, 0.1)[0])
    assert out["loss"].dtype == torch.float32
    assert out["loss"].isfinite()


def test_picture_shows_both_views_and_their_interval():
    task = make()
    drawn = draw(task, 2)
    figure = task.picture(views_of(task, drawn, numbered(drawn.frame_indices)), ["a.mp4", "b.mp4"], drawn.frame_indices)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert len(figure.axes[0].images) == 2 * 2 * 8
    for b, name in enumerate(["a.mp4", "b.mp4"]):
        assert f"{drawn.params['interval'][b]} frames apart   {name}" in shown
        assert {str(drawn.frame_indices[b, 0]), str(drawn.frame_indices[b, 31])} <= set(shown)
    assert shown.count("view 1") == shown.count("view 2") == 2


# ---- what the user is told


def test_a_step_needs_two_videos():
    assert make().check_data(2, 64) == []
    for videos, batch in ((1, 64), (100, 1)):
        with pytest.raises(ConfigError, match="2 or more"):
            make().check_data(videos, batch)


def test_what_the_task_says_of_itself():
    task = make()
    assert (task.whole_steps, task.contrastive, task.clips_per_sample) == (True, True, 2)
    assert task.labels == "the partner among 2 N - 1 clips"
    assert task.recipe["pretrain.lr"] == 0.32 * task.recipe["pretrain.batch"] / 1024


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "0.1"),
        ({"stride": 0}, "1 and more"),
        ({"head_width": 0.0}, "1.0 is the original"),
        ({"recipe": "papr"}, "paper"),
        ({"short_videos": "stop"}, "reflect"),
        ({"grey": 2.0}, "grey"),
    ],
)
def test_wrong_options_say_what_is_legal(options, words):
    with pytest.raises(ConfigError, match=words):
        make(**options)
