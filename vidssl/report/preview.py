"""Pictures of exactly what a network sees in a task, with the labels it is trained on.

`draw_preview` takes the way of a training step (request, draw, decode, views); a task draws its own views in its
`picture` method. Nothing is shown that did not come out of `views`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.decode.base import ClipRequest, Decoder
from ..data.plan import uniforms
from ..data.store import Store
from ..errors import ConfigError, DataError, RunError
from ..tasks.base import Draw, Task
from .figures import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec, SubplotSpec

_COLUMNS = 8
_SEEN, _SCORED, _UNSCORED = "#2b7bba", "#2a9d4a", "#b8b8b8"


@plain_text
def draw_preview(task: Task, store: Store, decoder: Decoder, out: Path, seed: int = 0, num_samples: int = 4) -> Path:
    """Writes a PNG of what a task makes of a few videos.

    Args:
        task: any that has a `picture` method.
        seed: decides videos, frames and transformations; the same seed draws the same picture.
        num_samples: how many videos. They are chosen so that all labels of the task are shown, as far as they go.

    Raises ConfigError for a task that draws no picture, RunError where `out` cannot be written.
    """
    draw_picture = getattr(task, "picture", None)
    if draw_picture is None:
        raise ConfigError(f"task {task.name!r} draws no picture of its views.")
    rows, drawn = _choose_samples(task, store, seed, num_samples)
    indices = drawn.frame_indices
    frames = decoder.decode([ClipRequest(int(row), index) for row, index in zip(rows, indices, strict=True)])
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)).to(frames.device) for name, a in drawn.params.items()}
    with torch.no_grad():
        views = task.views(frames, tensors)
    extended = np.zeros(len(rows), bool) if drawn.extended is None else drawn.extended
    names = [
        f"{store.ids[row]}, {store.frames[row]} frames{', too short: extended' if short else ''}"
        for row, short in zip(rows, extended, strict=True)
    ]
    figure = draw_picture({name: view.cpu() for name, view in views.items()}, names, indices)
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=100, facecolor="white")
    except (OSError, ValueError) as error:
        raise RunError(
            f"the preview cannot be written to {out}: {error}. Give --out a PNG file in a folder."
        ) from error
    return Path(out)


def _choose_samples(task: Task, store: Store, seed: int, num_samples: int) -> tuple[np.ndarray, Draw]:
    """Store rows [N] and the draw of N samples whose labels differ as much as they can."""
    if num_samples < 1:
        raise ConfigError(f"samples={num_samples}; legal: 1 and more.")
    if len(store) == 0:
        raise DataError(f"{store.path} holds no videos.")
    order = np.argsort(uniforms(seed, 0, store.keys, 1)[:, 0], kind="stable")
    order = order[task.usable(store.frames[order])]
    if not len(order):
        raise DataError(
            f"all videos of {store.path.name!r} are shorter than the {task.request().min_frames} frames that "
            f"{task.name} needs. Take another --set task.short_videos."
        )
    # A small set is gone through again with fresh numbers, so that it too can show every label.
    epochs = range(1, 1 + max(1, -(-16 * num_samples // len(order))))
    rows = np.concatenate([order for _ in epochs])
    request = task.request()
    u = np.concatenate([uniforms(seed, epoch, store.keys[order], request.num_uniforms) for epoch in epochs])
    drawn = task.draw(u, store.frames[rows])
    label = drawn.params.get(getattr(task, "label_param", ""), np.zeros(len(rows), np.int64))
    # the first of each label, then the second of each, ...; then in the order of the labels
    rank = np.zeros(len(rows), np.int64)
    for value in np.unique(label):
        mine = np.flatnonzero(label == value)
        rank[mine] = np.arange(len(mine))
    chosen = np.lexsort((label, rank))[:num_samples]
    chosen = chosen[np.argsort(label[chosen], kind="stable")]
    extended = None if drawn.extended is None else drawn.extended[chosen]
    params = {name: array[chosen] for name, array in drawn.params.items()}
    return rows[chosen], Draw(drawn.frame_indices[chosen], params, extended)


def preview_prp(
    views: dict[str, torch.Tensor], names: list[str], frame_indices: np.ndarray, dilations: tuple[int, ...]
) -> Figure:
    """The picture of PRP: for each sample the input, the target of the reconstruction, and the attention over it.

    Every second frame of the target is a frame of the input, so the target is drawn in pairs: what the network sees is
    framed in blue, what it has to add in green, what is shown but not scored (the midpoints at dilation 1) in grey.

    Args:
        views: of `PRP.views`, on the host. names: one a sample.
        frame_indices: int64 [N, T], the decode request, for the frame numbers.
        dilations: class -> dilation.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, views["clip_BCTHW"].shape[2])
    cell, margin, header, block = 1.4, 1.2, 0.8, 5.1  # inches; a block is one sample with its heading
    width, height = margin + columns * cell + 0.1, header + block * len(names)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.suptitle(
        "PRP: name the dilation s from the input, rebuild the target at twice its frame rate",
        x=0.1 / width, y=1 - 0.12 / height, ha="left", va="top", fontsize=12, weight="bold",
    )  # fmt: skip
    legend = (
        "blue: seen by the network    green: to be rebuilt, scored    grey: midpoint of two frames, not scored    "
        "glow: motion attention    numbers: frames of the video"
    )
    figure.text(0.1 / width, 1 - 0.45 / height, legend, ha="left", va="top", fontsize=8.5)
    for b, name in enumerate(names):
        top = 1 - (header + block * b) / height
        label = int(views["label_B"][b])
        heading = f"s = {dilations[label]}   (class {label})   {_short(name)}"
        figure.text(margin / width, top, heading, fontsize=10, weight="bold", va="top")
        grid = figure.add_gridspec(
            3, columns, left=margin / width, right=1 - 0.1 / width, top=top - 0.42 / height,
            bottom=top - (block - 0.2) / height, hspace=0.16, wspace=0.05,
        )  # fmt: skip
        _draw_sample(figure, grid, {key: view[b] for key, view in views.items()}, frame_indices[b])
    return figure


def _draw_sample(figure: Figure, grid: GridSpec, views: dict[str, torch.Tensor], indices: np.ndarray) -> None:
    target = views["target_BCTHW"].permute(1, 2, 3, 0).clamp(0, 1).numpy()
    scored = views["scored_BT"].numpy() > 0
    attention = views["attention_BCGHW"].mean(0).numpy()
    share, columns = len(target) // len(attention), grid.ncols
    # the input spread over the whole clip; of the target the first frames, where one sees what lies between
    for column, k in enumerate(_spread(len(target) // 2, columns)):
        axes = _image(figure, grid[0, column], target[2 * k], _SEEN, f"{indices[2 * k]}")
        if column == 0:
            _row_label(axes, f"input\n{columns} of {len(target) // 2}")
    for k in range(columns):
        colour = (_SEEN if k % 2 == 0 else _SCORED) if scored[k] else _UNSCORED
        number = f"{indices[k]}" if scored[k] else f"{indices[k]} | {indices[min(k + 1, len(target) - 1)]}"
        axes = _image(figure, grid[1, k], target[k], colour, number)
        if k == 0:
            _row_label(axes, f"target\n{columns} of {len(target)}")
    for column, g in enumerate(_spread(len(attention), columns)):
        first, last = g * share, (g + 1) * share - 1
        axes = _image(figure, grid[2, column], target[first], "none", f"{indices[first]} to {indices[last]}")
        axes.imshow(attention[g], cmap="inferno", alpha=0.55, vmin=attention.min(), vmax=attention.max() + 1e-6)
        if column == 0:
            _row_label(axes, f"attention\n{attention.min():.1f} to {attention.max():.1f}")


def _spread(count: int, places: int) -> list[int]:
    """`places` numbers from 0 to count - 1, the first and the last among them."""
    return [round(k * (count - 1) / max(places - 1, 1)) for k in range(places)]


def _image(figure: Figure, cell: SubplotSpec, picture_HWC: np.ndarray, colour: str, title: str) -> Axes:
    axes = figure.add_subplot(cell)
    axes.imshow(picture_HWC, interpolation="nearest")
    axes.set_title(title, fontsize=7.5, pad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(2.5)
    return axes


def _row_label(axes: Axes, text: str) -> None:
    axes.text(-0.12, 0.5, text, transform=axes.transAxes, fontsize=9, ha="right", va="center")


def _short(name: str, longest: int = 70) -> str:
    return name if len(name) <= longest else "..." + name[-longest + 3 :]
