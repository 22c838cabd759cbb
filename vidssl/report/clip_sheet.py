"""Contact sheets: rows of frames under headings, the shape that the pictures of most pretext tasks have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .figures import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 8
"""Most frames of a clip that are drawn."""

# inches
_CELL, _GAP, _MARGIN, _EDGE = 1.25, 0.07, 1.35, 0.12
_HEADER, _HEADING, _TITLES, _BETWEEN = 0.75, 0.3, 0.18, 0.22
_HEADING_LETTERS = 118


@dataclass(frozen=True)
class SheetRow:
    """One clip.

    Args:
        label: left of the frames; lines are separated by "\\n".
        frames_THWC: float, RGB in 0 to 1. Of more than `COLUMNS` frames those at `drawn_frames(T)` are drawn.
        titles: one a frame, or one a frame that is drawn; empty for none.
        colour: of the line around each frame, a matplotlib colour or "none".
    """

    label: str
    frames_THWC: np.ndarray
    titles: list[str] = field(default_factory=list)
    colour: str = "none"

    def __post_init__(self) -> None:
        shape, titles = np.shape(self.frames_THWC), len(self.titles)
        if len(shape) != 4 or shape[3] != 3:
            raise ValueError(f"frames of shape {shape}; wanted [T, H, W, 3]")
        if titles not in (0, shape[0], min(shape[0], COLUMNS)):
            raise ValueError(f"{titles} titles for {shape[0]} frames")


@dataclass(frozen=True)
class SheetSample:
    """What was made of one video: a heading over rows. A heading too long for the sheet is cut in its middle."""

    heading: str
    rows: list[SheetRow]


def drawn_frames(count: int) -> list[int]:
    """Which of `count` frames are drawn: all up to `COLUMNS`, else that many evenly spread, first and last included."""
    if count <= COLUMNS:
        return list(range(count))
    return [round(k * (count - 1) / (COLUMNS - 1)) for k in range(COLUMNS)]


@plain_text
def clip_sheet(title: str, legend: str, samples: list[SheetSample]) -> Figure:
    """A figure with the samples below each other, each frame `_CELL` inches wide.

    Args:
        title: one line, in bold. legend: one line below it, that explains labels, titles and colours.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(drawn_frames(len(row.frames_THWC))) for sample in samples for row in sample.rows)
    width = _MARGIN + max(columns, 6) * (_CELL + _GAP) + _EDGE
    height = _HEADER + sum(_sample_height(sample) for sample in samples)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    # One pair of axes in inches, y downwards: an axes a frame would take most of the time that a sheet takes.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.text(_EDGE, 0.13, title, fontsize=12, weight="bold", va="top")
    axes.text(_EDGE, 0.44, legend, fontsize=8.5, va="top")
    y = _HEADER
    for sample in samples:
        _draw_sample(axes, sample, y, columns)
        y += _sample_height(sample)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    axes.axis("off")
    return figure


def _draw_sample(axes: Axes, sample: SheetSample, y: float, columns: int) -> None:
    letters = _HEADING_LETTERS * max(columns, 6) // COLUMNS
    axes.text(_MARGIN, y, _cut(sample.heading, letters), fontsize=10, weight="bold", va="top")
    y += _HEADING
    for row in sample.rows:
        picture = _picture_height(row)
        positions = drawn_frames(len(row.frames_THWC))
        titles = row.titles if len(row.titles) <= len(positions) else [row.titles[k] for k in positions]
        y += _TITLES if titles else 0
        axes.text(_MARGIN - _EDGE, y + picture / 2, row.label, fontsize=9, ha="right", va="center")
        for column, k in enumerate(positions):
            x = _MARGIN + column * (_CELL + _GAP)
            _draw_frame(axes, row.frames_THWC[k], (x, y, _CELL, picture), row.colour)
            if titles:
                axes.text(x + _CELL / 2, y - 0.04, titles[column], fontsize=7.5, ha="center", va="bottom")
        y += picture + _GAP


def _draw_frame(axes: Axes, frame_HWC: np.ndarray, place: tuple[float, float, float, float], colour: str) -> None:
    from matplotlib.patches import Rectangle

    x, y, width, height = place
    axes.imshow(np.clip(frame_HWC, 0, 1), extent=(x, x + width, y + height, y))
    if colour != "none":
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=2.5))


def _picture_height(row: SheetRow) -> float:
    height, width = row.frames_THWC.shape[1:3]
    return _CELL * height / width


def _sample_height(sample: SheetSample) -> float:
    rows = sum(_picture_height(row) + _GAP + (_TITLES if row.titles else 0) for row in sample.rows)
    return _HEADING + rows + _BETWEEN


def _cut(text: str, longest: int) -> str:
    """The middle gives way: a heading begins with its label and ends with what is odd about the video."""
    if len(text) <= longest:
        return text
    tail = longest // 2
    return text[: longest - tail - 3] + "..." + text[-tail:]
