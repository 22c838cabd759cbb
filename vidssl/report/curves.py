"""How a pre-training went, as a picture: loss, metric beside chance, what its features were worth, their rank."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS, _OTHER, _CHANCE = "#2b7bba", "#2a9d4a", "#9a9a9a"


def read_log(run: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of a stage in RUN/log.jsonl."""
    file = run / "log.jsonl"  # a training of no steps writes none
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if line["stage"] == stage]


@plain_text
def draw_curves(lines: list[dict[str, Any]], metric: str, title: str) -> Figure:
    """A row of panels over the steps. The last are there where the training was watched, k-NN and probe where there are
    labels.

    Args:
        lines: of `read_log`.
        metric: the task's.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logged = [line for line in lines if "watch" not in line]
    looks = [line for line in lines if "watch" in line]
    at, seen = [line["step"] for line in looks], [line["watch"] for line in looks]
    labelled = bool(looks) and "knn" in seen[0]
    panels = 2 + bool(looks) + labelled
    figure = Figure(figsize=(3.6 * panels, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(1, panels)
    steps = [line["step"] for line in logged]
    axes[0].plot(steps, [line["loss"] for line in logged], color=_OURS)
    _name(axes[0], "loss")
    axes[1].plot(steps, [line[metric] for line in logged], color=_OURS, label="training clips")
    axes[1].plot(steps, [line["chance"] for line in logged], color=_CHANCE, linestyle="--", label="chance")
    _name(axes[1], metric)
    if looks:
        rank = axes[-1]
        rank.plot(at, [look["rankme"] for look in seen], "-o", color=_OURS, label="RankMe", markersize=4)
        spread = rank.twinx()
        spread.plot(at, [look["spread"] for look in seen], "-o", color=_OTHER, markersize=4)
        spread.set_ylabel("spread (1: all directions alike)", color=_OTHER, fontsize=8)
        rank.set_ylabel("RankMe", color=_OURS, fontsize=8)
        spread.set_ylim(bottom=0)
        _name(rank, "features", legend=False)
    if labelled:
        for key, label, colour, style in (
            ("knn", "20-NN", _OURS, "-o"),
            ("linear", "linear probe", _OTHER, "-o"),
            ("chance", "chance", _CHANCE, "--"),
        ):
            axes[2].plot(at, [look[key] for look in seen], style, color=colour, label=label, markersize=4)
        _name(axes[2], "top-1 on the target")
    for panel in axes[1:]:
        panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))
    return figure


@plain_text
def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, facecolor="white")
    return buffer.getvalue()


def _name(axes: Axes, title: str, legend: bool = True) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
