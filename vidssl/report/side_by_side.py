"""Several runs on one data set: their numbers beside each other, and every pair compared video by video; one run on
several official splits."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from ..data.catalog import split_of
from ..errors import RunError
from ..evals.compare import Comparison, clearly_best, compare, compare_answers, match
from .neighbours import KeptNeighbours
from .results import STAGES, Evaluation

COMPARED = ("finetune", "linear", "retrieval")
"""Those whose answers are kept video by video."""


def side_by_side(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """For each data set with several evaluations: their numbers side by side, and every pair video by video."""
    found = []
    for videos in dict.fromkeys(evaluation.videos for evaluation in evaluations):
        members = [evaluation for evaluation in evaluations if evaluation.videos == videos]
        if len(members) < 2:
            continue
        labels = _labels(members)
        pairs, problems, best = [], [], {}
        for stage in COMPARED:
            rows = [k for k, member in enumerate(members) if stage in member.stages]
            compared, unable = _pairs(stage, [members[k] for k in rows], [labels[k] for k in rows])
            problems += unable
            for (i, j), result in compared.items():
                a, b = labels[rows[i]], labels[rows[j]]
                pairs.append({"stage": STAGES[stage], "a": a, "b": b, "result": result})
            heads = [headline(stage, members[k].stages[stage]) for k in rows]
            # bold is for the number that was compared: the nearest video, and the answers of a single training
            alike = len(rows) > 1 and not any(head["of"] for head in heads)
            top = clearly_best([head["value"] for head in heads], compared) if alike else None
            best[stage] = None if top is None else rows[top]
        found.append(
            {
                "target": members[0].target,
                "members": members,
                "labels": labels,
                "cells": [
                    {stage: headline(stage, member.stages[stage]) for stage in COMPARED if stage in member.stages}
                    for member in members
                ],
                "best": best,
                "pairs": pairs,
                "problems": problems,
                "protocol": differing([_protocol(member.spec) for member in members]),
            }
        )
    return found


def _labels(members: list[Evaluation]) -> list[str]:
    """The runs' names, where each has a single evaluation on the data set."""
    runs = [member.run for member in members]
    return runs if len(set(runs)) == len(runs) else [member.label for member in members]


def headline(stage: str, result: dict[str, Any]) -> dict[str, Any]:
    """The number that stands for a stage, its interval and chance, and under `of` what it is where it is another than
    top-1 of one training."""
    if stage == "retrieval":
        key = next(iter(result["chance"]))
        of = "" if key == "top1" else f"top-{key.removeprefix('top')}"
        return {"value": result[key], "interval": result["interval"], "chance": result["chance"][key], "of": of}
    seeds = len(result.get("seeds", ()))
    of = f"mean of {seeds} seeds" if seeds else ""
    return {"value": result["top1"], "interval": result["interval"], "chance": result["chance"], "of": of}


def _pairs(
    stage: str, members: list[Evaluation], labels: list[str]
) -> tuple[dict[tuple[int, int], Comparison], list[str]]:
    """Every pair of evaluations that can be compared, and why others cannot."""
    kept: dict[int, Any] = {}
    missing: dict[str, list[str]] = {}
    for k, member in enumerate(members):
        try:
            kept[k] = member.neighbours() if stage == "retrieval" else member.predictions(stage)
        except RunError as error:
            missing.setdefault(str(error), []).append(labels[k])
    problems = [f"{STAGES[stage]}, {', '.join(names)}: {error}" for error, names in missing.items()]
    compared = {}
    for i, j in combinations(kept, 2):
        try:
            compared[i, j] = _retrieved(kept[i], kept[j]) if stage == "retrieval" else compare(kept[i], kept[j])
        except RunError as error:
            problems.append(f"{STAGES[stage]}, {labels[i]} and {labels[j]}: {error}")
    return compared, problems


def _retrieved(a: KeptNeighbours, b: KeptNeighbours) -> Comparison:
    if set(a.gallery) != set(b.gallery):
        raise RunError(
            f"the galleries are not the same videos ({len(a.gallery)} and {len(b.gallery)}), so the hits cannot be "
            "compared. Evaluate both with the same --on DATA."
        )
    return compare_answers(a.right, b.right[match(a.queries, a.query_labels, b.queries, b.query_labels)])


def _protocol(spec: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation's numbers depend on beside the weights."""
    evals = {key: value for key, value in spec["eval"].items() if key != "names"}
    return {"data": {key: spec["data"][key] for key in ("frames", "size")}, "finetune": spec["finetune"], "eval": evals}


def over_splits(content: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of a mean over official splits; the splits' values are of the line's measure.

    Args:
        content: of DATASET_splits.json, see `evals.over_splits`.
    """
    rows = []
    for name, result in content["evals"].items():
        if name == "robustness":
            measure, value, chance = "clean top-1, same videos", result["clean"]["top1"], result["chance"]
        else:
            key = next(key for key in result if key.startswith("top"))
            measure, value = f"top-{key.removeprefix('top')}", result[key]
            chance = result["chance"][key] if isinstance(result["chance"], dict) else result["chance"]
        row = {"stage": STAGES[name], "measure": measure, "value": value, "chance": chance, "splits": result["splits"]}
        rows.append(row)
        if name == "robustness":
            measure = f"relative drop, mean of {len(result['noises'])} noises (lower is better)"
            more = {"measure": measure, "value": result["relative_drop"]["mean"], "chance": None, "splits": {}}
            rows.append({"stage": "", **more})
    target, _ = split_of(content["spec"]["data"]["target"])
    return {"target": target, "splits": list(content["splits"]), "rows": rows}


def differing(specs: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Keys whose values are not the same everywhere, with the value of each."""
    flat = [_flatten(spec) for spec in specs]
    keys = sorted({key for values in flat for key in values})
    rows = [(key, [str(values.get(key, "-")) for values in flat]) for key in keys]
    return [row for row in rows if len(set(row[1])) > 1]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
