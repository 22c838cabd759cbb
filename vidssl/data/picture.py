"""From a decoded frame to the store's frame: crop, scale, turn upright, pad; one libav filter graph.

- `cover` cuts the middle of the source to the picture's shape and scales it; `squash` scales without cutting.
- Pixel aspect and display rotation (the phone's display matrix, flips included) are applied: the stored picture is
  what a player shows. Rotations that are no multiple of 90 degrees go to the nearest one.
- What the coded frame has beyond the picture repeats the picture's edge.
- Crop and scale come before the transposition: turning 171x128 pixels is cheaper than turning the source's.
- bicubic with `accurate_rnd+bitexact`, because swscale's fast paths differ between CPU types and the same source is to
  give the same bytes everywhere; it costs nothing that can be measured.
- Colours become BT.601: limited range for H.264, full range for JPEG (the only range a JPEG has). An unmarked source
  is taken as BT.601 limited, as libav takes it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.filter

_MATRIX = {1: "bt709", 4: "fcc", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}  # libav's colour-space numbers
_FULL_RANGE = 2
_IDENTITY = (1, 0, 0, 1)


@dataclass(frozen=True)
class Recipe:
    """What to make of a video. Sizes are (width, height) in pixels; plain values, so that it travels to a worker."""

    format: str
    fit: str
    picture: tuple[int, int]
    coded: tuple[int, int]
    gop: int


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """The signs (a, b, c, d) of the display matrix: a point (x, y) of the frame is shown at (ax + cy, bx + dy)."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return _IDENTITY
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    upright = abs(a) + abs(d) >= abs(b) + abs(c)
    sign = [(value > 0) - (value < 0) for value in (a, b, c, d)]
    return (sign[0] or 1, 0, 0, sign[3] or 1) if upright else (0, sign[1] or 1, sign[2] or 1, 0)


def crop_box(size: tuple[int, int], aspect: Fraction, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """The middle of a frame that has the shape of `shape` when shown.

    Args:
        size: width and height of the frame.
        aspect: width of one pixel over its height.
        shape: wanted width and height, in square pixels.

    Returns:
        width, height, left, top of the cut; left and top even, because chroma is stored for pairs.
    """
    width, height = size
    wanted = Fraction(*shape) / aspect
    if Fraction(width, height) > wanted:
        cut_width, cut_height = max(1, round(height * wanted)), height
    else:
        cut_width, cut_height = width, max(1, round(width / wanted))
    cut_width, cut_height = min(cut_width, width), min(cut_height, height)
    return cut_width, cut_height, (width - cut_width) // 4 * 2, (height - cut_height) // 4 * 2


def _even(size: int) -> int:
    # chroma is stored for pairs, and libav's pad drops the odd last column: 171 is made as 172, of which 171 are shown
    return size + size % 2


class PictureMaker:
    """Turns frames of one stream into store frames. Rebuilds its graph where the frames change in mid-stream."""

    def __init__(self, recipe: Recipe, aspect: Fraction | None) -> None:
        self._recipe = recipe
        self._aspect = aspect if aspect and aspect > 0 else Fraction(1)
        self._rotation: int | None = None
        self._matrix = _IDENTITY
        self._key: tuple | None = None
        self._graph: av.filter.Graph | None = None

    def make(self, frame: av.VideoFrame, number: int, time_base: Fraction) -> av.VideoFrame:
        """The store's frame, stamped with its number. Raises av.error.FFmpegError for formats libav cannot scale."""
        matrix = self._matrix_of(frame)
        key = (frame.width, frame.height, frame.format.name, frame.color_range, frame.colorspace, matrix)
        if key != self._key or self._graph is None:
            self._graph, self._key = self._build(frame, matrix, time_base), key
        frame.pts = number  # the source's times may be missing, doubled or irregular: frames count, clocks do not
        frame.time_base = time_base
        self._graph.push(frame)
        made = self._graph.pull()
        assert isinstance(made, av.VideoFrame)
        made.pts = number
        made.time_base = time_base
        return made

    def _matrix_of(self, frame: av.VideoFrame) -> tuple[int, int, int, int]:
        # Asked for its side data, PyAV's frame and the answer refer to each other, and hundreds of decoded frames would
        # wait for Python's garbage collection: 0.4 GB of a 1080p video. The angle tells where the matrix changes.
        if frame.rotation != self._rotation:
            self._rotation, self._matrix = frame.rotation, display_matrix(frame)
        return self._matrix

    def _build(self, frame: av.VideoFrame, matrix: tuple[int, int, int, int], time_base: Fraction) -> av.filter.Graph:
        recipe = self._recipe
        transposed = matrix[0] == 0
        even = (_even(recipe.picture[0]), _even(recipe.picture[1]))
        width, height = even[::-1] if transposed else even
        pixel_format, out_range = ("yuvj420p", "pc") if recipe.format == "mjpeg" else ("yuv420p", "tv")
        name = frame.format.name
        full = frame.color_range == _FULL_RANGE or frame.format.is_rgb or name.startswith("yuvj") or name == "pal8"
        graph = av.filter.Graph()
        graph.threads = 1  # by default it starts one a processor in every worker, for frames this small
        nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)]
        if recipe.fit == "cover":
            cut = crop_box((frame.width, frame.height), self._aspect, (width, height))
            if cut[:2] != (frame.width, frame.height):
                w, h, x, y = map(str, cut)
                nodes.append(graph.add("crop", w=w, h=h, x=x, y=y, exact="1"))
        nodes.append(
            graph.add(
                "scale",
                w=str(width),
                h=str(height),
                flags="bicubic+accurate_rnd+bitexact",
                in_range="pc" if full else "tv",
                in_color_matrix=_MATRIX.get(int(frame.colorspace), "bt601"),
                out_range=out_range,
                out_color_matrix="bt601",
            )
        )
        nodes.append(graph.add("format", pix_fmts=pixel_format))
        if transposed:
            nodes.append(graph.add("transpose", dir="cclock_flip"))  # (x, y) -> (y, x), nothing else
        across, down = (matrix[2], matrix[1]) if transposed else (matrix[0], matrix[3])
        nodes += [graph.add(flip) for flip, sign in (("hflip", across), ("vflip", down)) if sign < 0]
        if even != recipe.coded:
            right, bottom = recipe.coded[0] - even[0], recipe.coded[1] - even[1]
            nodes.append(graph.add("pad", w=str(recipe.coded[0]), h=str(recipe.coded[1]), x="0", y="0"))
            # the edge repeated: black would bleed into the last columns through chroma and the codec's blocks
            nodes.append(
                graph.add("fillborders", left="0", top="0", right=str(right), bottom=str(bottom), mode="smear")
            )
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph
