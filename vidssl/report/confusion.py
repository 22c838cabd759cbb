"""Which classes a classifier knows and which it takes for one another: two pictures and a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..evals.predictions import Predictions
from ..evals.statistics import wilson_interval
from .figures import plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 30
"""Most classes whose names stand at the matrix; of more the axes are numbered, and the list of pairs has the names."""
ENDS = 20
"""Of more than twice as many classes the bars are those of the worst and the best `ENDS`."""

COUNTED = 12
"""Most classes whose videos are written into the cells."""

_BAR, _CHANCE = "#2b7bba", "#9a9a9a"
_LETTERS = 26


@plain_text
def draw_confusion(predictions: Predictions, title: str) -> Figure:
    """The confusion matrix: rows are true classes, columns predicted ones, colour the share of the row's videos.

    A class without test videos has a grey row. Up to 12 classes have the videos' number in the cells.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts_KK = predictions.confusion()
    videos = counts_KK.sum(axis=1, keepdims=True)
    share_KK = np.ma.masked_where(np.broadcast_to(videos == 0, counts_KK.shape), counts_KK / np.maximum(videos, 1))
    size = len(predictions.classes)
    named = size <= NAMED
    side = max(4.0, 1.6 + 0.3 * size) if named else 7.0
    figure = Figure(figsize=(side + 1.3, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = colormaps["Blues"].with_extremes(bad="#dddddd")
    picture = axes.imshow(share_KK, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the class's videos")
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("predicted" if named else "predicted (number of the class)", fontsize=9)
    axes.set_ylabel("true" if named else "true (number of the class)", fontsize=9)
    if named:
        labels = [_short(name) for name in predictions.classes]
        axes.set_xticks(range(size), labels, rotation=90, fontsize=8)
        axes.set_yticks(range(size), labels, fontsize=8)
    if size <= COUNTED:
        for row, column in zip(*np.nonzero(counts_KK), strict=True):
            colour = "white" if share_KK[row, column] > 0.55 else "black"
            axes.text(column, row, counts_KK[row, column], ha="center", va="center", fontsize=8, color=colour)
    return figure


@plain_text
def draw_per_class(predictions: Predictions, chance: float, title: str) -> Figure:
    """Top-1 of each class with its 95 % interval (Wilson), best first; of many classes the best and the worst.

    Args:
        chance: top-1 of the best guess over all test videos, a fraction.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = _bars(predictions)
    left_out = len(bars) - 2 * ENDS
    if left_out > 0:
        bars = [*bars[:ENDS], (f"({left_out} classes between)", float("nan"), 0), *bars[-ENDS:]]
    figure = Figure(figsize=(6.5, 1.1 + 0.22 * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = np.arange(len(bars))
    values = np.array([100 * value for _, value, _ in bars])
    axes.barh(places, values, color=_BAR, height=0.7)
    for place, (_, value, videos) in enumerate(bars):
        if videos:
            low, high = wilson_interval(value, videos)
            axes.plot([100 * low, 100 * high], [place, place], color="black", linewidth=1)
    axes.axvline(100 * chance, color=_CHANCE, linestyle="--", linewidth=1.2, label=f"chance {100 * chance:.1f}")
    axes.set_yticks(places, [f"{_short(name)} ({videos})" if videos else name for name, _, videos in bars], fontsize=8)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("top-1, percent; in brackets the test videos", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.25)
    axes.legend(fontsize=7, loc="lower right")
    axes.set_title(title, fontsize=11)
    return figure


def most_confused(predictions: Predictions, count: int = ENDS) -> list[tuple[str, str, int, int]]:
    """(true class, what it is taken for, how many of its test videos, of how many), the most videos first; pairs of as
    many in the order of the classes."""
    counts_KK = predictions.confusion()
    videos = counts_KK.sum(axis=1)
    wrong_KK = counts_KK - np.diag(counts_KK.diagonal())
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(order, wrong_KK.shape)
    names = predictions.classes
    return [
        (names[row], names[column], int(wrong_KK[row, column]), int(videos[row]))
        for row, column in zip(rows, columns, strict=True)
        if wrong_KK[row, column]
    ]


def _bars(predictions: Predictions) -> list[tuple[str, float, int]]:
    """Class, top-1 and number of test videos, best first; classes without test videos are not there."""
    counts_KK = predictions.confusion()
    rows = zip(predictions.classes, counts_KK.diagonal().tolist(), counts_KK.sum(axis=1).tolist(), strict=True)
    bars = [(name, hits / videos, videos) for name, hits, videos in rows if videos]
    return sorted(bars, key=lambda bar: -bar[1])


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 2] + ".."
