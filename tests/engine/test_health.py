"""Warnings of a training that learns nothing: once, in time, and not where it learns."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vidssl.engine.health import Health
from vidssl.engine.trainer import Trainer
from vidssl.spec import StageSpec
from vidssl.tasks import TASKS

from .test_trainer import context, equal, log_without_time
from .toys import ToyDecoder, toy_store, toy_task


def judged(values, chance=0.25, samples=64, steps=50) -> list[tuple[int, str]]:
    health = Health("pretrain", steps)
    said = [(step, health.metric(step, value, chance, samples)) for step, value in enumerate(values, 1)]
    return [(step, text) for step, text in said if text]


def test_at_chance_is_said_once_after_a_quarter():
    said = judged([0.25] * 50)
    assert [step for step, _ in said] == [13]
    assert "0.250, chance 0.250" in said[0][1]
    assert "pretrain.lr" in said[0][1]
    assert "--complexity" not in said[0][1]


def test_the_advice_is_what_the_stage_can_follow():
    pretext, finetune = Health("pretrain", 10, has_levels=True), Health("finetune", 10)
    texts = [[health.metric(step, 0.2, 0.25, 64) for step in range(1, 11)][-1] for health in (pretext, finetune)]
    assert "--complexity" in texts[0]
    assert "preview" in texts[0]
    assert "preview" not in texts[1]
    assert "finetune.lr" in texts[1]


def test_a_task_whose_metric_may_be_below_chance_says_so_before_the_advice(tmp_path):
    task, said = toy_task(), []
    task.__class__ = type("Lagging", (type(task),), {"below_chance": "The key network lags behind."})
    shared = context(tmp_path, log_every=1)
    shared.reporter.say = said.append
    stage = StageSpec(epochs=4, batch=4, lr=0.0)
    Trainer("pretrain", task, stage, ToyDecoder(toy_store()), np.arange(13), shared).fit()
    (text,) = [line for line in said if "not above chance" in line]
    assert text.index("of 16. The key network lags behind. Where") < text.index("pretrain.lr")
    assert "lags" in TASKS.get("tdl").below_chance


def test_what_beats_chance_is_left_alone():
    # 640 samples: one standard error is 0.017
    assert judged([0.25] * 3 + [0.31] * 47) == []
    assert judged([0.25] * 3 + [0.29] * 47) != []


def test_a_metric_without_guesses_is_at_chance_at_zero():
    assert judged([-0.02] * 50, chance=0.0) != []
    assert judged([0.02] * 50, chance=0.0) == []


def test_collapse_is_judged_against_the_best_and_survives_a_restart():
    health = Health("pretrain", 50)
    assert health.features(0, {"spread": 0.02}) is None
    assert health.features(12, {"spread": 0.2}) is None
    assert health.features(24, {"spread": 0.03}) is None
    again = Health("pretrain", 50)
    again.restore(json.loads(json.dumps(health.state())))
    assert "collapsed" in (again.features(36, {"spread": 0.015}) or "")
    assert again.features(48, {"spread": 0.0}) is None
    assert "collapsed" in (Health("pretrain", 50).features(0, {"spread": 0.0}) or "")


def spreads(values, steps_per_look) -> list[int]:
    """The looks that are warned of."""
    health = Health("pretrain", 1000)
    return [look for look, value in enumerate(values) if health.features(look * steps_per_look, {"spread": value})]


def test_a_collapse_from_the_start_is_said_though_the_network_as_built_was_the_best():
    collapsing = [0.018, 0.008, 0.008, 0.006, 0.005]
    assert spreads(collapsing, 12) == [3]
    assert spreads(collapsing, 300) == [1]


@pytest.mark.parametrize(
    ("steps_per_look", "seen"),
    [  # runs that learned, as recorded; in the first batch norm had not settled at its second look
        (12, [0.0183, 0.008, 0.0262, 0.0652, 0.0946, 0.1186]),
        (12, [0.0183, 0.0082, 0.0253, 0.0991, 0.1823, 0.24]),
        (60, [0.0204, 0.1936, 0.0783, 0.0837, 0.1075, 0.1292]),
        (150, [0.0204, 0.2134, 0.2566, 0.1767, 0.2521]),
    ],
)
def test_recorded_runs_that_learned_are_not_warned_of(steps_per_look, seen):
    assert spreads(seen, steps_per_look) == []


@pytest.mark.parametrize("every", [1, 2])
def test_watching_changes_nothing_of_the_training(tmp_path, every):
    stage, looks = StageSpec(epochs=4, batch=4, lr=0.05), []

    def look(task):
        def watch(epochs):
            task.eval()  # as evaluations do
            looks.append(epochs)
            return None if epochs % every else {"knn": 0.5, "spread": 0.2}

        return watch

    tasks = []
    for name in ("plain", "watched"):
        task = toy_task()
        watch = look(task) if name == "watched" else None
        shared = context(tmp_path / name, log_every=2)
        Trainer("pretrain", task, stage, ToyDecoder(toy_store()), np.arange(13), shared, watch).fit()
        tasks.append(task)
    assert equal(*tasks)
    assert looks == [0, 1, 2, 3, 4]
    watched = log_without_time(tmp_path / "watched")
    assert [line["epoch"] for line in watched if "watch" in line] == list(range(0, 5, every))
    assert [line for line in watched if "watch" not in line] == log_without_time(tmp_path / "plain")
