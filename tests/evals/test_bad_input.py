"""Data and networks that cannot be evaluated: one clear message each, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vidssl import create_backbone
from vidssl.errors import ConfigError, DataError, RunError
from vidssl.evals.classify import Classify, ClassifyArgs
from vidssl.evals.finetune import WEIGHTS, load_finetuned
from vidssl.evals.suite import check_evaluations
from vidssl.evals.target import Target, check_store
from vidssl.spec import RunSpec, override
from vidssl.tasks.base import ClipSpec


def store(labels, splits, names=()):
    """What of a store is looked at."""
    splits = np.array(splits, dtype=str)
    return SimpleNamespace(
        path=Path("mine"),
        labels=np.array(labels),
        label_names=list(names),
        official_splits=["1"],
        indices=lambda split: np.flatnonzero(splits == split),
        __len__=lambda: len(labels),
    )


TWO = ["train", "train", "test", "test"]


@pytest.mark.parametrize(
    ("labels", "splits", "says"),
    [
        ([0, -1, 0, 1], TWO, "'mine' has no labels"),
        ([0, 1, 0, 1], ["train"] * 4, r"no train/test split \(4 / 0 videos\)"),
        ([0, 0, 0, 0], TWO, "a single class in its training split"),
        ([0, 1, 2, 1], TWO, r"tests 1 of 3 classes that have no training video \(swim & dive\)"),
    ],
)
def test_data_that_cannot_be_evaluated_on(labels, splits, says):
    with pytest.raises(DataError, match=says) as error:
        check_store(store(labels, splits, ["run", "jump", "swim & dive"]))
    assert "--target" in str(error.value), "what to try"


def test_data_that_can():
    train, test, classes = check_store(store([0, 1, 0, 1], TWO))
    assert (train.tolist(), test.tolist(), classes) == ([0, 1], [2, 3], 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"eval.ks": [1, 3]}, "k = 3 is outside 1 to 2"),
        ({"eval.names": ["cka"]}, "cka needs 4 test videos or more, and 'mine' has 2"),
        ({"eval.names": ["robustness"], "eval.noise_severities": [1, 1]}, "each once"),
        ({"eval.flip": 0.5}, r"eval\.crop"),
        ({"finetune.epochs": 2, "finetune.warmup_epochs": 2}, r"finetune\.warmup_epochs = 2\.0 leaves nothing"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(changes, says):
    with pytest.raises(ConfigError, match=says):
        check_evaluations(override(RunSpec(), changes), store([0, 1, 0, 1], TWO))


def classifier(num_classes):
    torch.manual_seed(0)
    return Classify(create_backbone("shufflenet", width=0.25), ClipSpec(4, 32), ClassifyArgs(num_classes))


def load(folder, num_classes):
    target = Target(SimpleNamespace(store=store([0, 1, 0, 1], TWO)), np.arange(2), np.arange(2, 4), num_classes)
    context = SimpleNamespace(run=SimpleNamespace(path=folder), device=torch.device("cpu"))
    spec = override(RunSpec(), {"data.frames": 4, "data.size": 32})
    return load_finetuned(create_backbone("shufflenet", width=0.25), target, spec, context)


def test_a_fine_tuned_network_is_loaded_for_its_own_classes_alone(tmp_path):
    saved = classifier(2)
    save_file(saved.state_dict(), tmp_path / WEIGHTS)
    clip = torch.rand(1, 3, 4, 32, 32)
    torch.testing.assert_close(load(tmp_path, 2).probabilities(clip), saved.eval().probabilities(clip))
    with pytest.raises(RunError, match=r"tells 2 classes apart, and 'mine' has 5"):
        load(tmp_path, 5)


def test_a_fine_tuning_without_its_network_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="--with finetune --out DIR"):
        load(tmp_path, 2)
