"""Pre-trained backbones, opened: that of a finished run, or a file of weights and the backbone that they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .backbones import BACKBONES, create_backbone
from .backbones.base import Backbone
from .backbones.weights import Loaded, load_weights
from .engine.runs import RunDirectory
from .errors import ConfigError, RunError
from .home import runs_dir
from .options import complete_options, signature_options
from .resolve import read_weights
from .spec import RunSpec, from_dict, override


@dataclass(frozen=True)
class Pretrained:
    """A backbone in eval mode, on the CPU.

    Attributes:
        spec: the run's; of a file of weights the defaults, with its backbone.
        weights: the file that was read.
        folder: of the run; None for a file of weights.
    """

    backbone: Backbone
    spec: RunSpec
    weights: Loaded
    folder: Path | None


def run_folder(run: Path) -> Path:
    """The folder of a run with a finished pre-training, by its path or its name under `$VIDSSL_HOME/runs`.

    Raises RunError where there is none.
    """
    folder = run if run.is_dir() else runs_dir() / run
    if RunDirectory(folder).stage_result("pretrain") is None or not (folder / "model.safetensors").exists():
        raise RunError(f"{run} is no run with a finished pre-training. `vidssl list runs` shows those there are.")
    return folder


def run_spec(folder: Path) -> RunSpec:
    """What a run's folder, or that of an evaluation, was begun with. Raises RunError where nothing was begun there."""
    stored = RunDirectory(folder).stored()
    if stored is None:
        raise RunError(f"{folder} holds no spec.toml, so it is no run and no evaluation. Check the path.")
    stored.pop("identity", None)
    return from_dict(stored)


def open_run(run: Path, changes: Mapping[str, Any]) -> Pretrained:
    """The backbone that a run pre-trained.

    Args:
        run: see `run_folder`.
        changes: "section.key" entries that replace those of the run; none of the backbone, whose weights are there.
    """
    folder = run_folder(run)
    fixed = [key for key in changes if key.startswith("backbone.")]
    if fixed:
        raise ConfigError(f"{fixed[0]} cannot be set: the weights of a run fit the backbone that it was made with.")
    spec = override(run_spec(folder), changes)
    backbone = create_backbone(spec.backbone.name, **spec.backbone.options)
    loaded = load_weights(backbone, folder / "model.safetensors", input=backbone.input)
    return Pretrained(backbone.eval(), spec, loaded, folder)


def open_weights(path: Path, name: str, allow_pickle: bool, changes: Mapping[str, Any]) -> Pretrained:
    """A backbone with the weights of a file.

    Args:
        path, allow_pickle: see `load_weights`.
        name: of the backbone; its options are among the changes.
        changes: "section.key" entries that replace the defaults.
    """
    given = {
        "backbone.name": name,
        "init.weights": str(path.expanduser().absolute()),
        "init.allow_pickle": allow_pickle,
    }
    spec = override(RunSpec(), {"task.name": "none", "data.source": "none", **changes, **given})
    backbone, loaded = read_weights(spec)
    options = complete_options(spec.backbone, signature_options(BACKBONES.get(name)), "backbone").options
    spec = override(spec, {f"backbone.{key}": value for key, value in {**options, "input": loaded.input}.items()})
    return Pretrained(backbone.eval(), spec, loaded, None)
