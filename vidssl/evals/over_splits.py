"""The mean over a data set's official splits, which is what tables of UCF101 and HMDB51 show.

The splits share videos, so the results are no independent draws: no interval is made of them, and each stands beside
the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SCORED = ("finetune", "linear", "retrieval")


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
    from .robustness import relative_drop

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
