"""The small preset: how long it trains, how long its queues are, when it looks."""

from __future__ import annotations

import pytest

from vidssl.errors import ConfigError
from vidssl.presets import small_preset
from vidssl.resolve import check_augmentation, check_levels
from vidssl.spec import Named
from vidssl.tasks.vcop import VCOPArgs


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


def test_a_setting_that_the_presets_recipe_does_not_use_is_refused_with_the_reason():
    task, request = Named("vcop", {"recipe": "original", "jitter": (0.1, 0.1, 0.1, 0.1)}), {"task.jitter": [0.1] * 4}
    with pytest.raises(ConfigError, match=r"the preset 'small' chose it.* add --set task\.recipe=paper"):
        check_augmentation(task, VCOPArgs, request)
    with pytest.raises(ConfigError, match=r"its own\. Leave one of the two out"):
        check_augmentation(task, VCOPArgs, {**request, "task.recipe": "original"})


def test_levels_are_refused_of_a_task_that_has_none():
    with pytest.raises(ConfigError, match="cvrl has no levels of complexity; prp, rotnet, vcop have them"):
        check_levels("cvrl", {"task.complexity": 2})
    check_levels("cvrl", {})
    check_levels("prp", {"task.complexity": 2})
