"""The paper's published tables, as data, and which cell a run of ours may be laid beside."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from ..backbones import BACKBONES
from ..data.catalog import split_of
from ..options import dataclass_options, signature_options
from ..spec import EvalSpec, RunSpec
from ..tasks import TASKS

_COLUMNS = {
    "rotnet": "Rot",
    "vcop": "VCOP",
    "prp": "PRP",
    "vmae": "V-MAE",
    "cvrl": "CVRL",
    "tdl": "TDL",
    "rspnet": "RSP",
}
ARCHITECTURES: dict[str, tuple[float, float, tuple[int, ...]]] = {
    "shufflenet": (4.59, 1.08, (512,)),
    "squeezenet": (1.89, 1.84, (101,)),
    "mobilenet": (3.06, 1.12, (512, 101)),
    "c3d": (27.66, 77.22, ()),
    "r3d": (14.36, 39.84, ()),
    "r21d": (14.37, 42.96, ()),
}
"""backbone -> millions of parameters, GFLOPs (two a multiply-add) and the linear layers that its count includes.

The first two are published in the earlier supplementary of arXiv 2306.06010, table 7 (VideoSwin's are not); the layers
are ours to infer: with them, our networks have the published counts to the last digit.
"""

_TESTED_WITH = ("stride", "crop", "flip", "average")
"""Settings of [eval] whose defaults are the benchmark's protocol."""
_ROWS = {"shufflenet": "Shuffle", "r21d": "R21D"}


@cache
def tables() -> list[dict[str, Any]]:
    """The 127 cells of tables 1 to 6 of arXiv 2306.06010: table, row, column, value (percent) and notes."""
    return json.loads(files(__package__).joinpath("paper_tables.json").read_text())["records"]


def cell(table: int, row: str, column: str) -> float | None:
    """One published value in percent, None for an empty cell."""
    for record in tables():
        if (record["table"], record["row"], record["column"]) == (table, row, column):
            return record["value"]
    return None


def published(spec: RunSpec) -> tuple[float | None, str]:
    """The paper's fine-tuning accuracy (percent) for this run's protocol, and where it stands or why there is none.

    Table 1 is the reference: 16 frames of 112 px, Kinetics-400 50k, 200 epochs, fine-tuned 100 epochs on UCF101. The
    complexity is the task's default, at which RotNet and PRP have the same number in tables 1 and 4.
    """
    differs, paper = [], EvalSpec()
    wanted = {
        "source": (spec.data.source, "k400"),
        "subset": (spec.data.subset, "50k"),
        "target": (split_of(spec.data.target)[0], "ucf101"),
        "frames": (spec.data.frames, 16),
        "size": (spec.data.size, 112),
        "pre-training epochs": (spec.pretrain.epochs, 200),
        "fine-tuning epochs": (spec.finetune.epochs, 100),
        "test clips": (spec.eval.clips, 10),
        **{f"eval.{key}": (getattr(spec.eval, key), getattr(paper, key)) for key in _TESTED_WITH},
        **_task_settings(spec),
    }
    for what, (ours, theirs) in wanted.items():
        if str(ours) != str(theirs):
            differs.append(f"{what} {ours}, the paper's {theirs}")
    defaults = {key: default for key, (_, default) in signature_options(BACKBONES.get(spec.backbone.name)).items()}
    for key, value in spec.backbone.options.items():
        if value != defaults[key]:
            differs.append(f"backbone.{key} {value}, the paper's network has {defaults[key]}")
    row, column = _ROWS.get(spec.backbone.name), _COLUMNS.get(spec.task.name)
    if row is None or column is None:
        differs.append(f"table 1 has no cell for {spec.task.name} on {spec.backbone.name}")
    if differs or row is None or column is None:
        return None, "no number of the paper stands beside these: " + "; ".join(differs)
    return cell(1, row, column), f"table 1, {row} / {column}"


def _task_settings(spec: RunSpec) -> dict[str, tuple[Any, Any]]:
    """Recipe and complexity of the task where it has them: this run's, and those of table 1."""
    if spec.task.name not in TASKS.names():  # weights without a task
        return {}
    defaults = {key: default for key, (_, default) in dataclass_options(TASKS.get(spec.task.name).Args).items()}
    return {
        f"task.{key}": (spec.task.options.get(key, defaults[key]), defaults[key])
        for key in ("recipe", "complexity")
        if key in defaults
    }
