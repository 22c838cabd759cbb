"""Recipes of fine-tuning by name: what each sets, what wins over it, and the pictures that its crop gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vidssl import create_backbone
from vidssl.data.plan import uniforms
from vidssl.engine.optim import learning_rate
from vidssl.errors import ConfigError
from vidssl.evals.classify import Classify, ClassifyArgs
from vidssl.evals.features import clip_indices
from vidssl.evals.finetune import video_probabilities
from vidssl.evals.protocols import PROTOCOLS, with_protocol
from vidssl.spec import RunSpec, StageSpec, override
from vidssl.tasks.base import ClipSpec
from vidssl.transforms.geometry import centre_clip


def test_every_name_that_is_legal_is_a_protocol_and_gives_a_legal_spec():
    for name in PROTOCOLS:
        spec = override(RunSpec(), with_protocol({"eval.protocol": name}))
        assert spec.eval.protocol == name
        ClassifyArgs(5, spec.eval.stride, spec.eval.crop, spec.eval.flip)
    for wrong in ("nobody", ["vcop"]):
        with pytest.raises(ConfigError, match=r"eval\.protocol"):
            with_protocol({"eval.protocol": wrong})


def test_what_is_set_by_hand_wins():
    spec = override(RunSpec(), with_protocol({"finetune.epochs": 3, "eval.protocol": "prp"}))
    assert (spec.finetune.epochs, spec.finetune.schedule, spec.finetune.milestones) == (3, "steps", [100])


def test_nothing_of_another_protocol_is_left():
    """A run that was made by one and is evaluated by another, the benchmark's too."""
    made = override(RunSpec(), with_protocol({"eval.protocol": "ctp"}))
    for name in ("vcop", "paper"):
        again = override(made, with_protocol({"eval.protocol": name}))
        fresh = override(RunSpec(), with_protocol({"eval.protocol": name}))
        assert (again.finetune, again.eval) == (fresh.finetune, fresh.eval)
    assert override(made, with_protocol({})) == made


def test_the_rate_falls_to_a_tenth_after_each_milestone():
    stage = StageSpec(epochs=150, lr=0.01, schedule="steps", milestones=[60, 120])
    rates = [
        learning_rate(stage, epoch * 7 + last, 7) for epoch, last in ((0, 0), (59, 6), (60, 0), (119, 6), (120, 0))
    ]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])


def task(**args):
    return Classify(create_backbone("shufflenet", width=0.25), ClipSpec(4, 28), ClassifyArgs(3, **args))


def views(classifier, frames_BTHWC, count=64):
    u = uniforms(0, 0, np.arange(count, dtype=np.uint64), classifier.request().num_uniforms)
    drawn = classifier.draw(u, np.full(count, 40))
    params = {name: torch.from_numpy(values) for name, values in drawn.params.items()}
    return drawn, classifier.views(frames_BTHWC, {**params, "label": torch.zeros(count, dtype=torch.int64)})[
        "clip_BCTHW"
    ]


def columns(count=64, height=32, width=40):
    """Every pixel has the number of its column."""
    return torch.arange(width, dtype=torch.uint8)[:, None].expand(count, 4, height, width, 3)


def test_the_benchmarks_crop_is_the_middle_and_draws_one_number():
    classifier = task()
    assert classifier.request().num_uniforms == 1
    drawn, clips = views(classifier, columns())
    torch.testing.assert_close(clips, centre_clip(columns(), 28), rtol=0, atol=0)
    assert (np.diff(drawn.frame_indices) == 1).all()


def test_random_crops_go_everywhere_and_are_mirrored_as_often_as_asked():
    drawn, clips = views(task(crop="random", flip=0.5, stride=2), columns())
    assert (np.diff(drawn.frame_indices) == 2).all()
    first, last = (clips[:, 0, 0, 0, column] * 255 for column in (0, -1))
    mirrored = last < first
    assert 20 < mirrored.sum() < 44
    left = torch.where(mirrored, last, first).round()
    assert set(left.tolist()) == set(range(13)), "28 of 40 columns: 13 places"
    assert (first - last).abs().round().eq(27).all(), "no pixel is resampled"
    assert not (views(task(crop="random"), columns())[1].diff(dim=4) < 0).any()


def test_resized_crops_show_a_quarter_to_all_of_the_picture():
    picture = torch.arange(32 * 40).view(32, 40) % 251
    frames = picture.to(torch.uint8)[None, None, :, :, None].expand(64, 4, 32, 40, 3)
    _, clips = views(task(crop="resized"), frames)
    assert clips.shape == (64, 3, 4, 28, 28)
    shown = views(task(crop="resized"), columns())[1][:, 0, 0, 0] * 255
    widths = shown[:, -1] - shown[:, 0] + 1
    assert 14 < widths.min() < 22
    assert widths.max() > 30


def test_a_flip_of_the_centre_crop_is_refused():
    with pytest.raises(ConfigError, match=r"eval\.crop"):
        ClassifyArgs(3, flip=0.5)
    with pytest.raises(ConfigError, match="no probability"):
        ClassifyArgs(3, crop="random", flip=5)


def test_strided_clips_reach_from_the_first_frame_to_the_last():
    indices = clip_indices(np.array([40, 8]), ClipSpec(4, 28), 3, stride=3)
    assert indices[0].tolist() == [[0, 3, 6, 9], [15, 18, 21, 24], [30, 33, 36, 39]]
    assert indices[1, 0].tolist() == [0, 3, 6, 1], "a short video starts again"
    assert clip_indices(np.zeros(0, np.int64), ClipSpec(4, 28), 3).shape == (0, 3, 4), "a process without videos"


def test_probabilities_and_logits_are_averaged_before_or_after_the_softmax():
    logits = np.array([[[2.0, 0.0], [0.0, 4.0]]])
    powers = np.exp(logits)
    softmax = powers / powers.sum(axis=2, keepdims=True)
    assert video_probabilities(softmax, "softmax")[0, 1] == pytest.approx((1 / (1 + np.e**2) + 1 / (1 + np.e**-4)) / 2)
    assert video_probabilities(logits, "logits")[0, 1] == pytest.approx(1 / (1 + np.exp(1.0 - 2.0)))
    assert video_probabilities(logits + 1e4, "logits")[0] == pytest.approx(video_probabilities(logits, "logits")[0])


def test_the_defaults_are_the_benchmarks():
    spec = RunSpec()
    assert replace(spec.eval, names=[]).clips == 10
    assert (spec.eval.crop, spec.eval.stride, spec.eval.average, spec.finetune.epochs) == ("centre", 1, "softmax", 100)
