"""Robustness to noise as pictures: accuracy and relative drop over the severity, and what the noises look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.decode.base import ClipRequest, Decoder
from ..spec import EvalSpec
from ..transforms.geometry import crop_side
from ..transforms.noise import TABLES, add_noise, frame_keys
from .figures import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"gaussian": "#2b7bba", "shot": "#2a9d4a", "impulse": "#d1662b", "speckle": "#8a5fbf"}
_CHANCE, _MEAN = "#9a9a9a", "#222222"

# pixels of the picture of the noises
_MARGIN, _GAP, _CAPTION, _HEADER = 96, 8, 20, 84
_WIDE_ENOUGH = 150
_DPI = 110  # that of `curves.png`, so that a pixel of the store is a whole number of pixels there


@plain_text
def draw_noise_curves(result: dict[str, Any], title: str) -> Figure:
    """Two panels over the severity, a line a kind: top-1 with its 95 % band, and the relative drop with its mean.

    Args:
        result: of `evals.robustness.robustness`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    height, width = result["resolution"]
    made = f'{result["videos"]} videos, table "{result["table"]}", noise at {width}x{height}'
    figure.suptitle(f"{title}\n{made}, network at {result['network_size']}", fontsize=10)
    top1, drop = figure.subplots(1, 2)
    clean = result["clean"]
    for kind, severities in result["noises"].items():
        at = [0, *map(int, severities)]
        entries = [clean, *severities.values()]
        low, high = zip(*(entry["interval"] for entry in entries), strict=True)
        top1.fill_between(at, low, high, color=_COLOURS[kind], alpha=0.12, linewidth=0)
        top1.plot(at, [entry["top1"] for entry in entries], "-o", color=_COLOURS[kind], label=kind, markersize=4)
        if clean["top1"]:
            drops = [0.0, *(entry["relative_drop"] for entry in severities.values())]
            drop.plot(at, drops, "-o", color=_COLOURS[kind], label=kind, markersize=4)
    top1.axhline(result["chance"], color=_CHANCE, linestyle="--", label="chance")
    top1.set_ylim(0, 1)
    _name(top1, at, "top-1 (bands: 95 %)")
    if clean["top1"]:
        means = [value for key, value in result["relative_drop"].items() if key != "mean"]
        drop.plot(at, [0.0, *means], ":", color=_MEAN, label="mean of the noises", linewidth=2)
        # without it a curve that has nothing left to lose would look like one that noise no longer harms
        drop.axhline(1 - result["chance"] / clean["top1"], color=_CHANCE, linestyle="--", label="down to chance")
        drop.set_ylim(bottom=min(0.0, drop.get_ylim()[0]))
        overall = result["relative_drop"]["mean"]
        _name(drop, at, f"relative drop (lower is better), mean {overall:.3f}")
    else:
        drop.text(0.5, 0.5, "no relative drop:\nclean accuracy is 0", ha="center", transform=drop.transAxes)
        _name(drop, at, "relative drop", legend=False)
    return figure


@plain_text
def draw_noise_sheet(decoder: Decoder, video: int, spec: EvalSpec, seed: int) -> Figure:
    """The middle frame of a video, clean and under each noise: rows are kinds, columns severities.

    These are the bytes that `evals.robustness` makes of that frame, at the store's resolution, before the centre crop;
    the dashed square on the clean picture is what the network gets of it. Saved by `curves.png`, each of their pixels
    is a square of whole pixels: any resampling would soften the noise.

    Args:
        video: row of the decoder's store.
        spec: noise_table, noise_kinds and noise_severities.
        seed: the run's.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    store = decoder.store
    frame = np.array([store.frames[video] // 2])
    clean = decoder.decode([ClipRequest(video, frame)])
    keys_11 = frame_keys(torch.from_numpy(store.keys[[video]].view(np.int64)), torch.from_numpy(frame[None]), seed)
    tall, wide = clean.shape[2:4]
    scale = max(1, -(-_WIDE_ENOUGH // wide))
    cell_width, cell_height = wide * scale + _GAP, tall * scale + _CAPTION + _GAP
    width = _MARGIN + cell_width * (1 + len(spec.noise_severities))
    height = _HEADER + cell_height * len(spec.noise_kinds)
    # a hundredth of a pixel more, because matplotlib cuts a size that is a rounding error below a whole number
    figure = Figure(figsize=((width + 0.01) / _DPI, (height + 0.01) / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    canvas = np.full((height, width, 3), 255, np.uint8)
    axes.text(_GAP, 10, f'Noises of table "{spec.noise_table}"', fontsize=12, weight="bold", va="top")
    where = f"frame {frame[0]} of {store.ids[video]}, {wide}x{tall} pixels, before the crop"
    square = "dashed: what the network gets of it; c: the strength"
    axes.text(_GAP, 36, f"{where}\n{square}", fontsize=8, va="top")
    for row, kind in enumerate(spec.noise_kinds):
        y = _HEADER + row * cell_height + _CAPTION
        axes.text(_MARGIN - _GAP, y + tall * scale / 2, kind, fontsize=10, ha="right", va="center")
        for column, severity in enumerate([0, *spec.noise_severities]):
            x = _MARGIN + column * cell_width
            seen = add_noise(clean, kind, severity, spec.noise_table, seed=keys_11) if severity else clean
            picture = seen[0, 0].cpu().numpy().repeat(scale, 0).repeat(scale, 1)
            canvas[y : y + tall * scale, x : x + wide * scale] = picture
            caption = (
                f"severity {severity}, c = {TABLES[spec.noise_table][kind][severity - 1]:g}" if severity else "clean"
            )
            axes.text(x + wide * scale / 2, y - 4, caption, fontsize=7.5, ha="center", va="bottom")
            if not severity:
                _draw_crop(axes, x, y, scale, tall, wide)
    axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure


def _draw_crop(axes: Axes, x: int, y: int, scale: int, height: int, width: int) -> None:
    from matplotlib.patches import Rectangle

    side = crop_side(height, width)
    corner = x + round((width - side) / 2) * scale, y + round((height - side) / 2) * scale
    axes.add_patch(
        Rectangle(corner, side * scale, side * scale, fill=False, edgecolor="white", linewidth=1, linestyle="--")
    )


def _name(axes: Axes, severities: list[int], title: str, legend: bool = True) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("severity (0: clean)", fontsize=8)
    axes.set_xticks(severities)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    if legend:
        axes.legend(fontsize=7)
