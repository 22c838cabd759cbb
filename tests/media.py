"""Small videos for tests, written with PyAV. All are functions of their arguments: no random numbers, no clock."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (235, 235, 235)


def moving_square(count: int, size: tuple[int, int] = (64, 48), speed: int = 2, phase: int = 0) -> np.ndarray:
    """uint8 [T, H, W, 3]: a bright square that moves over a gradient, another picture in every frame."""
    width, height = size
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(20, 120, width, dtype=np.uint8)
    frames[..., 1] = np.linspace(20, 120, height, dtype=np.uint8)[:, None]
    side = max(2, height // 4)
    for n in range(count):
        x = (phase + n * speed) % max(1, width - side)
        frames[n, side : 2 * side, x : x + side] = (240, 240 - (phase % 8) * 20, 60)
    return frames


def corners(size: tuple[int, int], count: int = 9) -> np.ndarray:
    """uint8 [T, H, W, 3]: red top left, green top right, blue bottom left, white bottom right."""
    width, height = size
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, : height // 2, : width // 2] = RED
    frames[:, : height // 2, width // 2 :] = GREEN
    frames[:, height // 2 :, : width // 2] = BLUE
    frames[:, height // 2 :, width // 2 :] = WHITE
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    rate: int | Fraction = 25,
    aspect: Fraction | None = None,
    matrix: tuple[int, int, int, int] | None = None,
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Encodes uint8 [T, H, W, 3] (or [T, H, W] for grey).

    Args:
        aspect: sample aspect ratio.
        matrix: signs a, b, c, d of the display matrix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=muxer or {}) as out:
        defaults = {"preset": "ultrafast", "crf": "12", "g": "12"} if codec == "libx264" else {}
        stream = out.add_stream(codec, rate=rate, options={**defaults, **(options or {})})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            a, b, c, d = (value << 16 for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24" if picture.ndim == 3 else "gray")
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path


def read_rgb(source) -> np.ndarray:
    """uint8 [T, H, W, 3] of a file, path or bytes in a buffer, by a plain PyAV decode."""
    with av.open(source if hasattr(source, "read") else str(source)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
