"""What a finished run shows on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..spec import from_dict
from .paper import published


def run_table(summary: dict[str, Any]) -> Table:
    """Measured value, its 95 % interval and chance for every stage of a run, or for evaluated weights; in percent."""
    spec, pretrain, evals = summary["spec"], summary["pretrain"], summary["evals"]
    task, backbone, data = spec["task"]["name"], spec["backbone"]["name"], spec["data"]
    if pretrain:
        title = f"{task} on {backbone}, {data['source']}"
    else:
        title = f"{backbone}, {Path(summary['weights']['path']).name}"
    table = Table(title=f"{title} -> {data['target']}")
    for heading, justify in (
        ("stage", "left"),
        ("measure", "left"),
        ("%", "right"),
        ("95 % interval", "right"),
        ("chance", "right"),
        ("seconds", "right"),
        ("clips/s", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    if pretrain:
        measure, speed = f"{pretrain['metric']} ({pretrain['tested_on']})", pretrain["clips_per_second"]
        table.add_row(*_row("pretrain", measure, pretrain, pretrain["value"], pretrain["chance"], speed))
    for name in ("finetune", "linear"):
        if name in evals:
            result = evals[name]
            speed = result.get("train", {}).get("clips_per_second")
            measure = f"top-1 of {result['classes']}" if "classes" in result else "top-1"
            table.add_row(*_row(name, measure, result, result["top1"], result["chance"], speed))
    if "retrieval" in evals:
        result = evals["retrieval"]
        for index, (key, chance) in enumerate(result["chance"].items()):
            first = index == 0
            table.add_row(
                "retrieval" if first else "",
                f"top-{key.removeprefix('top')}",
                _percent(result[key]),
                _interval(result) if first else "",
                _percent(chance),
                f"{result['seconds']:.0f}" if first else "",
            )
    if "robustness" in evals:
        _add_robustness(table, evals["robustness"])
    for name, result in evals.items():
        if name.partition("-")[0] == "cka":
            _add_cka(table, name, result)
    return table


def _add_robustness(table: Table, result: dict[str, Any]) -> None:
    """Accuracy over the same videos clean and under noise, a row a severity, each the mean of the kinds."""
    noises, chance = result["noises"], _percent(result["chance"])
    clean = result["clean"]
    seconds = f"{result['seconds']:.0f}"
    shown = _interval(result if "splits" in result else clean)
    table.add_row("robustness", "clean", _percent(clean["top1"]), shown, chance, seconds)
    for severity in next(iter(noises.values())):
        kinds = [each[severity]["top1"] for each in noises.values()]
        drop = result["relative_drop"][severity]
        lost = "" if drop is None else f", {_percent(drop)} % lost"
        table.add_row("", f"severity {severity}{lost}", _percent(sum(kinds) / len(kinds)), "", chance, "")


def _add_cka(table: Table, name: str, result: dict[str, Any]) -> None:
    for index, (pair, found) in enumerate(result["maps"].items()):
        mean, seconds = mean_cka(found), f"{result['seconds']:.0f}" if index == 0 else ""
        table.add_row(
            name if index == 0 else "",
            f"{pair}, mean of {found['layers'][0]}",
            "" if mean is None else _percent(mean),
            "",
            "",
            seconds,
        )


def mean_cka(found: dict[str, Any]) -> float | None:
    """The mean of a map, of a network's with itself that of two different layers; None where there is none.

    Args:
        found: of `CKAMap.summary`.
    """
    return (found["block"] or found)["mean"]


def show_run(summary: dict[str, Any], console: Console) -> None:
    console.print(run_table(summary))
    if summary["pretrain"]:
        _show_published(summary, console)
    else:
        weights = summary["weights"]
        text = f"format {weights['format']}, input {weights['input']}, sha256 {weights['sha256']}"
        console.print(f"weights: {weights['path']}, {text}", soft_wrap=True)
    console.print(f"{summary['seconds']:.0f} s; everything in {summary['directory']}", soft_wrap=True)


def _show_published(summary: dict[str, Any], console: Console) -> None:
    if summary["weights"]:
        console.print("no number of the paper stands beside these: pre-training began with weights from a file")
        return
    value, where = published(from_dict(summary["spec"]))
    if value is not None and "finetune" in summary["evals"]:
        ours = 100 * summary["evals"]["finetune"]["top1"]
        console.print(f"paper, fine-tuning ({where}): {value:.1f}; ours {ours:.1f}; difference {ours - value:+.1f}")
        console.print(
            "protocol that the paper leaves open: optimizer, learning rate, batch (design notes in the README)"
        )
    else:
        console.print(where, soft_wrap=True)


def _row(
    stage: str, measure: str, result: dict[str, Any], value: float, chance: float, speed: float | None
) -> tuple[str, ...]:
    return (
        stage,
        measure,
        _percent(value),
        _interval(result),
        _percent(chance),
        f"{result['seconds']:.0f}",
        f"{speed:.1f}" if speed else "",
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(result: dict[str, Any]) -> str:
    """Of a mean over official splits, whose videos are shared, the splits' own values."""
    if "splits" in result:
        return "mean of " + ", ".join(_percent(value) for value in result["splits"].values())
    low, high = result["interval"]
    return f"{100 * low:.1f} - {100 * high:.1f}"
