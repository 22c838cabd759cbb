"""A finished run's folder, made by hand around a network that exports in a second."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import save_file
from torch import nn

from vidssl.backbones import BACKBONES, create_backbone
from vidssl.backbones.base import Backbone
from vidssl.evals.classify import Classify
from vidssl.evals.predictions import Predictions
from vidssl.spec import RunSpec, override, to_dict
from vidssl.tasks.base import ClipSpec

NAME = "small-test-net"
CLASSES = ["left", "right | or `so`", "still"]


class SmallNet(Backbone):
    """A map of 12x2x4x4 of clips of 4x16x16."""

    feature_dim, stride, taps = 12, (2, 4, 4), ("layers.0",)
    origin = "nobody, nowhere; tests"

    def __init__(self, input: str = "unit") -> None:
        super().__init__(input)
        self.layers = nn.Sequential(
            nn.Conv3d(3, 12, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(12), nn.ReLU(inplace=True), nn.MaxPool3d(2)
        )

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.layers(x_BCTHW)


@pytest.fixture
def small_net() -> Iterator[str]:
    """The name under which `create_backbone` finds `SmallNet`."""
    add_small_net()
    yield NAME
    BACKBONES._table.pop(NAME)


def add_small_net() -> None:
    BACKBONES.names()
    BACKBONES._table[NAME] = "tests.finished:SmallNet"


def make_run(folder: Path, backbone: str = NAME, frames: int = 4, size: int = 16, **changes: Any) -> RunSpec:
    """Writes the files that a finished run leaves, its network drawn from a seed. Returns its spec.

    Args:
        changes: "section__key" for "section.key".
    """
    given = {"backbone.name": backbone, "data.frames": frames, "data.size": size, "data.source": "mine"}
    given |= {"data.target": "mine", "task.name": "rotnet", "preset": "paper"}
    given |= {key.replace("__", "."): value for key, value in changes.items()}
    spec = override(RunSpec(), given)
    if "backbone.input" not in given:
        spec = override(spec, {"backbone.input": "imagenet"})
    torch.manual_seed(0)
    network = create_backbone(spec.backbone.name, **spec.backbone.options)
    settle(network, ClipSpec(frames, size))
    (folder / "stages").mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors", {"spec": json.dumps(to_dict(spec))})
    pretrain = {"metric": "accuracy", "value": 0.4321, "chance": 0.25, "interval": [0.4, 0.46], "videos": 77}
    pretrain |= {"tested_on": "test", "videos_trained": 1234, "warnings": {}, "seconds": 3.0}
    (folder / "stages" / "pretrain.json").write_text(json.dumps(pretrain))
    write_spec(folder, spec)
    packages = {"vidssl": "0.1.0", "torch": "2.15.0", "av": None}
    environment = {"packages": packages, "python": "3.11.7", "processor": "a processor", "gpu": None}
    (folder / "environment.json").write_text(json.dumps({**environment, "git_commit": None}))
    retrieval = {"top1": 0.25, "top5": 0.5, "chance": {"top1": 0.1, "top5": 0.3}, "interval": [0.2, 0.31]}
    evals = {
        "linear": {"top1": 0.6789, "chance": 1 / 3, "interval": [0.601, 0.742], "videos": 96, "classes": 3},
        "retrieval": {**retrieval, "gallery": 480, "queries": 96},
    }
    write_summary(folder, spec, pretrain, evals)
    return spec


def settle(network: nn.Module, clip: ClipSpec) -> None:
    """Gives batch norm statistics of its own, so that train and eval mode, and the scaling of pixels, differ."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(4, 3, clip.frames, clip.size, clip.size))


def write_spec(folder: Path, spec: RunSpec, **requested: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"request": "01234567", "requested": json.dumps(requested)}
    identity |= {"source": "aaaabbbbccccdddd", "target": "none"}
    (folder / "spec.toml").write_text(tomli_w.dumps({**to_dict(spec), "identity": identity}))


def write_summary(folder: Path, spec: RunSpec, pretrain: dict, evals: dict, weights: dict | None = None) -> None:
    summary = {"spec": to_dict(spec), "backbone_parameters": 1012, "weights": weights, "pretrain": pretrain}
    (folder / "summary.json").write_text(json.dumps({**summary, "evals": evals, "seconds": 3.0}))


def make_finetuned(folder: Path, spec: RunSpec, **requested: Any) -> Classify:
    """Writes what `vidssl eval --with finetune` leaves of the network. Returns it, in eval mode.

    Args:
        requested: what the evaluation's folder says that it was asked for.
    """
    torch.manual_seed(1)
    backbone = create_backbone(spec.backbone.name, **spec.backbone.options)
    task = Classify(backbone, ClipSpec(spec.data.frames, spec.data.size), Classify.Args(len(CLASSES))).eval()
    write_spec(folder, spec, **requested)
    save_file(task.state_dict(), folder / "finetuned.safetensors")
    Predictions(["a.mp4"], np.array([1]), np.array([[0.2, 0.5, 0.3]]), CLASSES).save(
        folder / "predictions" / "finetune.npz"
    )
    return task


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
