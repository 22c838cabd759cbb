"""The mean over a data set's official splits, which is what tables of UCF101 and HMDB51 show.

The splits share videos, so the results are no independent draws: no interval is made of them, and each stands beside
the mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data import catalog
from ..engine.progress import Reporter
from ..engine.runs import write_atomic
from ..errors import ConfigError
from ..resolve import open_data, processes
from .robustness import relative_drop

ALL_SPLITS = "all"
"""`--on ucf101:all` is each of its official splits, and their mean."""
SCORED = ("finetune", "linear", "retrieval")


def evaluate_splits(
    base: str, evaluate_on: Callable[[str, Path | None], dict[str, Any]], out: Path | None, reporter: Reporter
) -> dict[str, Any]:
    """Evaluates on each official split of a data set, each in its own folder, and writes their mean beside them, into
    `DATASET_splits.json`.

    Raises ConfigError where the data set has a single split.
    """
    splits = open_data(base, reporter).official_splits
    if len(splits) < 2:
        raise ConfigError(f"data set {base!r} has a single official split: `--on {base}`.")
    found = {}
    for split in splits:
        reporter.say(f"official split {split} of {', '.join(splits)}")
        found[split] = evaluate_on(f"{base}:{split}", out and out / f"split{split}")
    first = found[splits[0]]
    evals = mean_over_splits({split: summary["evals"] for split, summary in found.items()})
    # the split that a run was made with is in the run's own folder
    folder = out or next(
        place for place in (Path(f["directory"]).parent for f in found.values()) if place.name == "evals"
    )
    file = folder / f"{catalog.folder_name(base)}_splits.json"
    summary = {
        **first,
        "spec": {**first["spec"], "data": {**first["spec"]["data"], "target": f"{base}:{ALL_SPLITS}"}},
        "evals": evals,
        "seconds": sum(each["seconds"] for each in found.values()),
        "directory": str(folder),
        "splits": {split: each["directory"] for split, each in found.items()},
    }
    if processes().is_main_process:
        write_atomic(file, json.dumps(summary, indent=1))
    return summary


def mean_over_splits(evals: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The mean result of each evaluation that every split has.

    Args:
        evals: split -> evaluation -> result, as they stand in summary.json.

    Returns:
        evaluation -> its measures and chance, each the mean, and `splits`: split -> top-1. Of robustness the clean
        accuracy, each noise at each severity, and the relative drop of those means.
    """
    first = next(iter(evals.values()))
    out: dict[str, Any] = {}
    for name in SCORED:
        results = {split: found[name] for split, found in evals.items() if name in found}
        if len(results) < len(evals):
            continue
        measures = [key for key in first[name] if key.startswith("top") and all(key in r for r in results.values())]
        first_measure = measures[0]
        out[name] = {
            **{key: _mean(result[key] for result in results.values()) for key in measures},
            "chance": _mean_chance([result["chance"] for result in results.values()], measures),
            "splits": {split: result[first_measure] for split, result in results.items()},
            "seconds": sum(result["seconds"] for result in results.values()),
        }
    noisy = {split: found["robustness"] for split, found in evals.items() if "robustness" in found}
    if len(noisy) == len(evals):
        out["robustness"] = _mean_robustness(noisy)
    return out


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _mean_chance(chances: list[Any], measures: list[str]) -> Any:
    if isinstance(chances[0], Mapping):
        return {key: _mean(chance[key] for chance in chances) for key in measures}
    return _mean(chances)


def _mean_robustness(noisy: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    results = list(noisy.values())
    clean = _mean(result["clean"]["top1"] for result in results)
    noises = {
        kind: {
            severity: {"top1": _mean(result["noises"][kind][severity]["top1"] for result in results)}
            for severity in severities
        }
        for kind, severities in results[0]["noises"].items()
    }
    severities = next(iter(noises.values()))
    per_severity = {s: _mean(kind[s]["top1"] for kind in noises.values()) for s in severities}
    return {
        "clean": {"top1": clean},
        "noises": noises,
        "relative_drop": {
            **{severity: relative_drop(clean, value) for severity, value in per_severity.items()},
            "mean": relative_drop(clean, _mean(per_severity.values())),
        },
        "chance": _mean(result["chance"] for result in results),
        "table": results[0]["table"],
        "splits": {split: result["clean"]["top1"] for split, result in noisy.items()},
        "seconds": sum(result["seconds"] for result in results),
    }
