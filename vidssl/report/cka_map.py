"""A map of CKA as the benchmark's paper draws it: layers of one network against layers of another, from below left.

The benchmark's (arXiv 2306.06010, supplementary figures 7 and 9): magma, the first layers at the lower left. Here the
scale is always 0 to 1, so that maps can be laid side by side, and the largest block of like layers is framed and named.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from ..analysis.cka_map import CKAMap
from .figures import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMES = 24
"""Layers up to which each is named; more are counted."""
_FRAME, _UNDEFINED = "#37c8c3", "#bdbdbd"


@plain_text
def draw_cka(cka: CKAMap, title_x: str, title_y: str) -> Figure:
    """The map, x upwards and y to the right.

    Args:
        cka: of `vidssl.analysis.cka.compare`.
        title_x, title_y: what the networks are called.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    most = max(cka.values_LL.shape)
    named = most <= MOST_NAMES
    cell = (5.0 + 0.12 * most * named) / most
    height, width = (max(2.5, cell * layers) for layers in cka.values_LL.shape)
    figure = Figure(figsize=(width + 1.2, height + 1.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = matplotlib.colormaps["magma"].with_extremes(bad=_UNDEFINED)
    image = axes.imshow(
        cka.values_LL, cmap=colours, vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest"
    )
    bar = figure.colorbar(image, ax=axes, aspect=30, pad=0.03)
    bar.set_label("CKA", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    block = cka.blocks()
    if block is not None and block.share:
        size = block.last - block.first + 1
        corner = (block.first - 0.5, block.first - 0.5)
        axes.add_patch(
            Rectangle(corner, size, size, fill=False, edgecolor=_FRAME, linewidth=1.6, clip_on=False, zorder=3)
        )
    _layers(axes, cka, title_x, title_y, named)
    axes.set_title(f"{title_x} vs {title_y}", fontsize=11)
    lines = [part for note in _notes(cka) for part in textwrap.wrap(note, int(14 * figure.get_figwidth()))]
    figure.supxlabel("\n".join(lines), fontsize=7.5, color="#444444")
    return figure


def _layers(axes: Axes, cka: CKAMap, title_x: str, title_y: str, named: bool) -> None:
    axes.set_xlabel(f"layers of {title_y}", fontsize=9)
    axes.set_ylabel(f"layers of {title_x}", fontsize=9)
    axes.tick_params(labelsize=8 if not named else 7)
    if named:
        axes.set_xticks(range(len(cka.names_y)), cka.names_y, rotation=90)
        axes.set_yticks(range(len(cka.names_x)), cka.names_x)


def _notes(cka: CKAMap) -> list[str]:
    lines = []
    block = cka.blocks()
    if block is not None:
        words = f"no two layers in a row with CKA of {block.threshold:g} or more"
        if block.share:
            size = block.last - block.first + 1
            words = (
                f"framed: {size} of {len(cka.names_x)} layers in a row ({cka.names_x[block.first]} to "
                f"{cka.names_x[block.last]}), every pair with CKA of {block.threshold:g} or more"
            )
        lines.append(words)
        if block.mean is not None:
            lines.append(f"mean CKA of two different layers: {block.mean:.2f}")
    short = f"; {cka.dropped} more in a short one do not count" if cka.dropped else ""
    lines.append(f"{cka.videos} clips in {cka.batches} minibatches{short}")
    if cka.undefined:
        more = f" and {len(cka.undefined) - 3} more" if len(cka.undefined) > 3 else ""
        lines.append(f"grey: the same output for every clip ({', '.join(cka.undefined[:3])}{more})")
    return lines
