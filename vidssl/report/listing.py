"""Rows of `vidssl list`: what there is, as plain dicts."""

from __future__ import annotations

import json
from typing import Any

from ..data import catalog
from ..home import runs_dir


def task_rows() -> list[dict[str, Any]]:
    """Name, group, whether contrastive, chance at each level of complexity, paper."""
    from ..backbones import create_backbone
    from ..tasks import TASKS, create_task

    rows = []
    backbone = create_backbone("shufflenet", width=0.5)
    for name in TASKS.names():
        task = TASKS.get(name)
        levels = {}
        for level in (1, 2, 3):
            levels[f"C{level}"] = create_task(name, backbone, complexity=level).chance()
        rows.append(
            {
                "name": name,
                "group": task.group,
                "contrastive": task.contrastive,
                "frames_needed": create_task(name, backbone).request().min_frames,
                "chance": [f"{key} {value:.3f}" for key, value in levels.items()],
                "paper": task.paper,
            }
        )
    return rows


def backbone_rows() -> list[dict[str, Any]]:
    """Name, parameters without classifier and with a 400-way one, GMAC at 16x112x112, feature width, last map."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ..backbones import create_backbone, list_backbones
    from ..backbones.base import num_parameters

    rows = []
    for name in list_backbones():
        network = create_backbone(name).eval()
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            shape = network(torch.zeros(1, 3, 16, 112, 112)).shape
        bare = num_parameters(network)
        rows.append(
            {
                "name": name,
                "parameters": bare,
                "with_400_classes": bare + 400 * (network.feature_dim + 1),
                "gmac": counter.get_total_flops() / 2e9,
                "feature": network.feature_dim,
                "last_map": "x".join(map(str, shape[1:])),
            }
        )
    return rows


def data_rows() -> list[dict[str, Any]]:
    return [catalog.describe(name) for name in catalog.prepared()]


def run_rows() -> list[dict[str, Any]]:
    """Runs by age, newest first: finished ones with their numbers, others with the step they are at."""
    folder = runs_dir()
    rows = []
    for file in sorted(folder.glob("*/spec.toml"), key=lambda p: p.stat().st_mtime, reverse=True):
        row: dict[str, Any] = {"run": file.parent.name, "state": "unfinished"}
        summary = file.parent / "summary.json"
        if summary.exists():
            content = json.loads(summary.read_text())
            row |= {"state": "finished", "pretext": content["pretrain"]["value"]}
            row |= {name: result["top1"] for name, result in content["evals"].items()}
        rows.append(row)
    return rows
