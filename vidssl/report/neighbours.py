"""Retrieval as a picture: test videos beside the training videos whose features are nearest.

What a network takes for alike shows better in such rows than in a number: the same motion, or the same background.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.decode.base import ClipRequest, Decoder
from ..errors import ConfigError, DataError, RunError
from .figures import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RULE = (
    "Queries: half of them right at top-1 and half wrong, as far as there are; of each half the first by id of classes "
    "spread evenly over the list of classes. Pictures: the middle frame of each video."
)
"""How the examples are chosen, to be shown beside them."""

_ARRAYS = ("queries", "gallery", "query_labels", "gallery_labels", "nearest", "similarity")
_SAME, _OTHER = "#2a9d4a", "#c8432b"
# inches
_CELL, _GAP, _APART, _EDGE, _HEADER, _TEXT = 1.4, 0.1, 0.25, 0.12, 0.85, 0.42
_LETTERS = 22  # of a class name below a picture


@dataclass(frozen=True)
class KeptNeighbours:
    """Of Q test videos the K nearest of G training videos, as the retrieval keeps them.

    Args:
        queries, gallery: ids of the store. query_labels, gallery_labels: int64 [Q], [G].
        nearest_QK: int64, rows of the gallery, nearest first. similarity_QK: float32, cosine.
    """

    queries: list[str]
    gallery: list[str]
    query_labels: np.ndarray
    gallery_labels: np.ndarray
    nearest_QK: np.ndarray
    similarity_QK: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """bool [Q]: whether the nearest video is of the query's class."""
        return self.gallery_labels[self.nearest_QK[:, 0]] == self.query_labels

    @classmethod
    def load(cls, path: Path) -> KeptNeighbours:
        """Raises RunError where the file is missing or is none of these."""
        try:
            with np.load(path) as file:
                queries, gallery, *rest = (file[name] for name in _ARRAYS)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(
                f"{path} cannot be read as nearest neighbours ({error}). Evaluate again: `vidssl eval RUN --on DATA "
                "--with retrieval --out DIR`."
            ) from error
        return cls(queries.tolist(), gallery.tolist(), *rest)


def choose_queries(neighbours: KeptNeighbours, count: int) -> np.ndarray:
    """Rows of at most `count` queries by `RULE`, int64: first the right ones, then the wrong ones."""
    if count < 1:
        raise ConfigError(f"{count} examples of retrieval; legal: 1 and more.")
    order = np.array(sorted(range(len(neighbours.queries)), key=neighbours.queries.__getitem__), np.int64)
    right = order[neighbours.right[order]]
    wrong = order[~neighbours.right[order]]
    num_wrong = min(len(wrong), max(count // 2, count - len(right)))
    num_right = min(len(right), count - num_wrong)
    labels = neighbours.query_labels
    # the halves take classes in turn, so that together they show as many as they can
    return np.concatenate([_spread(right, labels, num_right, 0.0), _spread(wrong, labels, num_wrong, 0.5)])


def _spread(rows: np.ndarray, labels: np.ndarray, count: int, offset: float) -> np.ndarray:
    """`count` of the rows: of every class the first, then the second, ...; where a round has more classes than are
    still wanted, classes at even steps that begin `offset` of a step after the first."""
    chosen: list[int] = []
    left = rows
    while len(chosen) < count:
        _, first = np.unique(labels[left], return_index=True)  # sorted by class
        wanted = min(len(first), count - len(chosen))
        picked = ((np.arange(wanted) + offset) * len(first) / wanted).astype(np.int64)
        chosen += left[first[picked]].tolist()
        left = np.delete(left, first)
    return np.array(chosen, np.int64)


@plain_text
def draw_neighbours(
    neighbours: KeptNeighbours, decoder: Decoder, names: Sequence[str], title: str, num_queries: int = 8, shown: int = 5
) -> Figure:
    """A row for each chosen query: its middle frame, then those of its nearest gallery videos.

    A green line stands around a video of the query's class, a broken red one around any other; below are class and
    cosine similarity.

    Args:
        decoder: over the store that the retrieval was made on.
        names: of the classes; where there are none, [], their numbers are shown.
        shown: most neighbours a query.

    Raises DataError where the store lacks one of the videos.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = choose_queries(neighbours, num_queries)
    nearest_QK = neighbours.nearest_QK[chosen, :shown]
    videos = [neighbours.queries[q] for q in chosen] + [neighbours.gallery[g] for g in nearest_QK.flat]
    pictures = _middle_frames(decoder, list(dict.fromkeys(videos)))
    columns = nearest_QK.shape[1]
    frame_height = _CELL * next(iter(pictures.values())).shape[0] / next(iter(pictures.values())).shape[1]
    row_height = frame_height + _TEXT
    width = _EDGE * 2 + (columns + 1) * _CELL + columns * _GAP + _APART
    height = _HEADER + len(chosen) * row_height + _EDGE
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    # one pair of axes in inches, y downwards, as in clip_sheet
    axes = figure.add_axes((0, 0, 1, 1))
    axes.text(_EDGE, 0.13, title, fontsize=12, weight="bold", va="top")
    legend = "green: class of the query    red, broken: another class    numbers: cosine similarity"
    axes.text(_EDGE, 0.42, legend, fontsize=8.5, va="top")
    first = _EDGE + _CELL + _APART
    axes.text(_EDGE, _HEADER - 0.06, "query", fontsize=9, va="bottom")
    axes.text(first, _HEADER - 0.06, "nearest training videos", fontsize=9, va="bottom")
    for number, query in enumerate(chosen):
        y, label = _HEADER + number * row_height, int(neighbours.query_labels[query])
        _draw(axes, pictures[neighbours.queries[query]], (_EDGE, y, frame_height), "black", "-", _name(names, label))
        for column, row in enumerate(nearest_QK[number]):
            found = int(neighbours.gallery_labels[row])
            colour, style = (_SAME, "-") if found == label else (_OTHER, (0, (3, 1.5)))
            place = (first + column * (_CELL + _GAP), y, frame_height)
            texts = (_name(names, found), f"{neighbours.similarity_QK[query, column]:.3f}")
            _draw(axes, pictures[neighbours.gallery[row]], place, colour, style, *texts)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    axes.axis("off")
    return figure


def _middle_frames(decoder: Decoder, videos: list[str]) -> dict[str, np.ndarray]:
    """uint8 [H, W, 3] of each video."""
    store = decoder.store
    rows = {video: row for row, video in enumerate(store.ids)}
    missing = [video for video in videos if video not in rows]
    if missing:
        raise DataError(
            f"{len(missing)} videos of this retrieval are not in the data set {store.path.name!r} "
            f"({', '.join(missing[:3])}): it was prepared anew since. Evaluate again, or leave the frames out."
        )
    requests = [ClipRequest(rows[v], np.array([store.frames[rows[v]] // 2], np.int64)) for v in videos]
    frames_BTHWC = decoder.decode(requests).cpu().numpy()
    return dict(zip(videos, frames_BTHWC[:, 0], strict=True))


def _draw(
    axes: Axes, frame_HWC: np.ndarray, place: tuple[float, float, float], colour: str, style, *lines: str
) -> None:
    from matplotlib.patches import Rectangle

    x, y, height = place
    axes.imshow(frame_HWC, extent=(x, x + _CELL, y + height, y))
    axes.add_patch(Rectangle((x, y), _CELL, height, fill=False, edgecolor=colour, linestyle=style, linewidth=3))
    for number, line in enumerate(lines):
        axes.text(x + _CELL / 2, y + height + 0.17 + 0.14 * number, line, fontsize=8, ha="center")


def _name(names: Sequence[str], label: int) -> str:
    name = names[label] if names else f"class {label}"
    return name if len(name) <= _LETTERS else name[: _LETTERS - 2] + ".."
