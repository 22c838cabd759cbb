"""Rows of `vidssl list`: what there is, as plain dicts."""

from __future__ import annotations

import json
from typing import Any

from ..data import catalog
from ..home import runs_dir
from ..options import dataclass_options


def task_rows() -> list[dict[str, Any]]:
    """A row for each task: clips, frames, labels and chance of its defaults, and under `levels` of every complexity.

    `frames_needed` is the length from which a video is not extended; `chance` is of the metric.
    """
    from ..backbones import create_backbone
    from ..tasks import TASKS, create_task

    backbone = create_backbone("shufflenet", width=0.5)

    def facts(**options: Any) -> dict[str, Any]:
        built = create_task(name, backbone, **options)
        return {
            "clips": built.clips_per_sample,
            "frames_needed": built.request().min_frames,
            "labels": built.labels,
            "chance": built.chance(),
        }

    rows = []
    for name in TASKS.names():
        task = TASKS.get(name)
        levels = (1, 2, 3) if "complexity" in dataclass_options(task.Args) else ()
        rows.append(
            {
                "name": name,
                "group": task.group,
                "contrastive": task.contrastive,
                "metric": task.metric,
                **facts(),
                "levels": [{"complexity": level, **facts(complexity=level)} for level in levels],
                "paper": task.paper,
            }
        )
    return rows


def task_table(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The same for a terminal: a line a level, and a caption."""
    shown = []
    for row in rows:
        for level in row["levels"] or [row]:
            first = level is (row["levels"] or [row])[0]
            shown.append(
                {
                    "task": row["name"] if first else "",
                    "group": (row["group"] + (", contrastive" if row["contrastive"] else "")) if first else "",
                    "level": f"C{level['complexity']}" if "complexity" in level else "",
                    "clips": level["clips"],
                    "frames": level["frames_needed"],
                    "labels": level["labels"],
                    "chance": f"{level['chance']:.4f}".rstrip("0").rstrip("."),
                    "paper": row["paper"].split(",")[0] + " et al." + row["paper"].rpartition(",")[2] if first else "",
                }
            )
    caption = (
        "S spatial, T temporal, ST both. Clips: of each video, that the network sees. Frames: of a video that is long "
        "enough. Chance: of the metric; of cvrl in a step of its default size."
    )
    return shown, caption


def backbone_rows() -> list[dict[str, Any]]:
    """A row for each backbone and each of its variants, counted without memory for weights (torch's meta device).

    Parameters without classifier and with a 400-way one, GMAC (multiply-adds / 1e9) of a forward pass at 16x112x112,
    feature width, last map [D, T', H', W'], origin; for the benchmark's own the published millions of parameters,
    beside ours with the linear layers that the paper's count includes.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ..backbones import BACKBONES, create_backbone
    from ..backbones.base import num_parameters
    from .paper import ARCHITECTURES

    rows = []
    for name in BACKBONES.names():
        cls = BACKBONES.get(name)
        for options in ({}, *cls.variants):
            with torch.device("meta"), FlopCounterMode(display=False) as counter:
                network = create_backbone(name, **options).eval()
                shape = network(torch.zeros(1, 3, 16, 112, 112)).shape
            bare = num_parameters(network)
            row: dict[str, Any] = {
                "name": name,
                "options": options,
                "parameters": bare,
                "with_400_classes": bare + _linear_layers(network.feature_dim, (400,)),
                "gmac": counter.get_total_flops() / 2e9,
                "feature": network.feature_dim,
                "last_map": "x".join(map(str, shape[1:])),
            }
            if name in ARCHITECTURES and not options:
                millions, _, head = ARCHITECTURES[name]
                row["paper_millions"] = millions
                row["ours_millions"] = round((bare + _linear_layers(network.feature_dim, head)) / 1e6, 2)
                row["paper_counts_with"] = list(head)
            rows.append({**row, "origin": cls.origin})
    return rows


def backbone_table(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The same for a terminal: what fits a line, and a caption."""
    shown, counted = [], []
    for row in rows:
        shown.append(
            {
                "backbone": " ".join([row["name"], *(f"{key}={value}" for key, value in row["options"].items())]),
                "parameters": row["parameters"],
                "400, M": row["with_400_classes"] / 1e6,
                "GMAC": row["gmac"],
                "last map": row["last_map"],
                "paper, M": row.get("paper_millions"),
                "equals": row["origin"].partition("; ")[2].rpartition("/")[2],
            }
        )
        if row.get("paper_counts_with"):
            counted.append(f"{row['name']} {' and '.join(map(str, row['paper_counts_with']))}")
    caption = (
        "400, M: millions of parameters with a 400-way classifier. GMAC at 16x112x112. "
        f"The paper's counts include linear layers: {', '.join(counted)}."
    )
    return shown, caption


def _linear_layers(width: int, outputs: tuple[int, ...]) -> int:
    """Parameters of linear layers one after the other."""
    return sum((inside + 1) * outside for inside, outside in zip((width, *outputs), outputs, strict=False))


def data_rows() -> list[dict[str, Any]]:
    return [catalog.describe(name) for name in catalog.listed()]


def run_rows() -> list[dict[str, Any]]:
    """Runs by age, newest first: finished ones with their numbers, others with the step they are at."""
    folder = runs_dir()
    rows = []
    for file in sorted(folder.glob("*/spec.toml"), key=lambda p: p.stat().st_mtime, reverse=True):
        row: dict[str, Any] = {"run": file.parent.name, "state": "unfinished"}
        summary = file.parent / "summary.json"
        if summary.exists():
            content = json.loads(summary.read_text())
            row["state"] = "finished"
            if content["pretrain"]:  # none in a folder that weights were evaluated into
                row["pretext"] = content["pretrain"]["value"]
            row |= {name: result["top1"] for name, result in content["evals"].items() if "top1" in result}
        rows.append(row)
    return rows
