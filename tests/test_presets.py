"""The presets: how long they train and warm up, how long queues are, when they look."""

from __future__ import annotations

import pytest

from vidssl.engine.optim import check_warmup, learning_rate
from vidssl.engine.progress import Reporter
from vidssl.errors import ConfigError
from vidssl.options import Named
from vidssl.presets import paper_preset, small_preset
from vidssl.resolve import check_augmentation, check_levels, resolve
from vidssl.spec import StageSpec
from vidssl.tasks import TASKS
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


@pytest.mark.parametrize(("epochs", "every"), [(0, 1), (1, 1), (10, 2), (50, 12), (80, 20), (200, 20)])
def test_the_benchmarks_trainings_are_looked_at_each_quarter_at_least(tiny_store, epochs, every):
    asked = {"pretrain.epochs": epochs}
    assert resolved(tiny_store, **asked).watch.every == every
    for by_hand in (0, 7, 300):
        assert resolved(tiny_store, **asked, **{"watch.every": by_hand}).watch.every == by_hand


def resolved(tiny_store, **request):
    fixed = {"data.source": str(tiny_store), "eval.names": [], "preset": "paper"}
    return resolve({**fixed, **request}, Reporter(quiet=True)).spec


@pytest.mark.parametrize(("task", "whole"), [("vmae", 10.0), ("cvrl", 5.0), ("prp", 0.0)])
def test_a_recipes_warmup_keeps_its_share_of_the_epochs(task, whole):
    for epochs in (1, 5, 10, 50, 200, 400):
        entries = paper_preset(TASKS.get(task).recipe, {"pretrain.epochs": epochs})
        assert entries["pretrain.warmup_epochs"] == whole * epochs / 200
    assert paper_preset(TASKS.get(task).recipe, {})["pretrain.warmup_epochs"] == whole


def test_a_run_as_long_as_the_recipes_warmup_reaches_the_schedule(tiny_store):
    stage = resolved(tiny_store, **{"task.name": "vmae", "pretrain.epochs": 10}).pretrain
    assert stage.warmup_epochs == 0.5
    rates = [learning_rate(stage, step, 6) for step in range(60)]
    assert max(rates) == rates[2] == stage.lr
    assert rates[-1] < stage.lr / 100


def test_a_warmup_set_by_hand_is_kept_and_refused_where_nothing_is_left(tiny_store):
    asked = {"task.name": "vmae", "pretrain.epochs": 10}
    assert resolved(tiny_store, **asked, **{"pretrain.warmup_epochs": 9.0}).pretrain.warmup_epochs == 9.0
    with pytest.raises(ConfigError, match=r"pretrain\.warmup_epochs = 10.* less than 10"):
        resolved(tiny_store, **asked, **{"pretrain.warmup_epochs": 10})
    check_warmup("pretrain", StageSpec(epochs=0))


def test_the_small_warmup_is_an_epoch_and_at_most_a_quarter():
    for asked, warmup in (({}, 1.0), ({"pretrain.epochs": 4}, 1.0), ({"pretrain.epochs": 1}, 0.25)):
        assert small_preset("prp", 480, 480, asked)["pretrain.warmup_epochs"] == warmup
    assert small_preset("prp", 480, 5000)["finetune.warmup_epochs"] == 0.25  # one epoch
    assert small_preset("prp", 480, 480, {"finetune.epochs": 2})["finetune.warmup_epochs"] == 0.5


def test_a_warmup_that_ends_within_a_step_does_not_pass_the_full_rate():
    stage = StageSpec(epochs=4, lr=0.1, schedule="constant", warmup_epochs=0.25)
    assert [learning_rate(stage, step, 6) for step in range(3)] == pytest.approx([0.1 / 1.5, 0.1, 0.1])


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
