"""The small preset: how long it trains, how long its queues are, when it looks."""

from __future__ import annotations

import pytest

from vidssl.presets import small_preset


@pytest.mark.parametrize(("task", "epochs"), [("rotnet", 10), ("prp", 10), ("cvrl", 20), ("tdl", 20), ("rspnet", 20)])
def test_contrastive_tasks_train_twice_as_long(task, epochs):
    assert small_preset(task, 480, 480)["pretrain.epochs"] == epochs


@pytest.mark.parametrize("task", ["tdl", "rspnet"])
def test_a_queue_is_no_longer_than_the_benchmarks_and_no_shorter_than_a_step(task):
    longest = {"tdl": 500, "rspnet": 16384}[task]
    assert small_preset(task, 480, 480)["task.queue"] == 60
    assert small_preset(task, 40, 40)["task.queue"] == 16
    assert small_preset(task, 480, 480, {"pretrain.batch": 100})["task.queue"] == 100
    assert small_preset(task, 300_000, 480)["task.queue"] == longest


def test_tasks_without_a_queue_and_weights_without_a_task_have_none():
    assert not [key for task in ("cvrl", "none") for key in small_preset(task, 480, 480) if key.endswith("queue")]


def test_looks_follow_the_epochs_that_were_asked_for():
    assert small_preset("cvrl", 480, 480)["watch.every"] == 5
    assert small_preset("cvrl", 480, 480, {"pretrain.epochs": 2})["watch.every"] == 1
