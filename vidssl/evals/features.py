"""Features of whole videos: evenly spaced clips, centre crop, pooled map of a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import gather_object

from ..backbones.base import Backbone
from ..data.decode.base import ClipRequest, Decoder
from ..data.sampling import extend, uniform_starts
from ..engine.context import Context
from ..tasks.base import ClipSpec
from ..transforms.geometry import centre_clip


def clip_indices(video_frames: np.ndarray, clip: ClipSpec, clips: int, stride: int = 1) -> np.ndarray:
    """Frames of the test clips, int64 [V, clips, T]: every `stride`-th, evenly spaced over the video from its first
    frame to its last; a short video loops (RSPNet's way)."""
    starts = uniform_starts(video_frames, (clip.frames - 1) * stride + 1, clips)
    indices = starts[:, :, None] + np.arange(clip.frames) * stride
    flat = extend(indices.reshape(len(indices), clips * clip.frames), video_frames, "loop")
    return flat.reshape(indices.shape)


def clip_batches(decoder: Decoder, rows: np.ndarray, clip: ClipSpec, clips: int, batch: int, stride: int = 1):
    """Yields (positions into the flat [V * clips] order, x_BCTHW float on the device)."""
    indices = clip_indices(decoder.store.frames[rows], clip, clips, stride).reshape(len(rows) * clips, clip.frames)
    for first in range(0, len(indices), batch):
        positions = np.arange(first, min(first + batch, len(indices)))
        frames = decoder.decode([ClipRequest(int(rows[p // clips]), indices[p]) for p in positions])
        yield positions, centre_clip(frames, clip.size)


def per_clip(
    network: Callable[[torch.Tensor], torch.Tensor],
    decoder: Decoder,
    rows: np.ndarray,
    clip: ClipSpec,
    clips: int,
    batch: int,
    context: Context,
    title: str,
    stride: int = 1,
    average: bool = False,
) -> np.ndarray:
    """Runs a network over the test clips of videos; ranks share the videos.

    Args:
        network: x_BCTHW -> [B, D], in eval mode.
        rows: int64 [V], rows of the decoder's store.
        average: keeps the mean over the clips of a video alone, where all of them would be too much to hold.

    Returns:
        float32 [V, clips, D], or [V, 1, D], the same on every rank.
    """
    world, rank = context.accelerator.num_processes, context.accelerator.process_index
    mine = np.arange(rank, len(rows), world)
    kept = 1 if average else clips
    own = np.zeros((0, 0), np.float32)
    with (
        context.reporter.meter(title, len(mine) * clips) as meter,
        torch.inference_mode(),
        context.accelerator.autocast(),
    ):
        for positions, x_BCTHW in clip_batches(decoder, rows[mine], clip, clips, batch, stride):
            found = network(x_BCTHW).float().cpu().numpy()
            if not own.size:
                own = np.zeros((len(mine) * kept, found.shape[1]), np.float32)
            if average:
                np.add.at(own, positions // clips, found / clips)
            else:
                own[positions] = found
            meter.update(int(positions[-1]) + 1)
    pieces = gather_object([(mine, own)])
    width = max(piece.shape[1] for _, piece in pieces)
    whole = np.empty((len(rows), kept, width), np.float32)
    for positions, piece in pieces:
        if len(positions):
            whole[positions] = piece.reshape(len(positions), kept, width)
    return whole


FEATURES = ("pooled", "map")


def feature(backbone: Backbone, kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """x_BCTHW -> [B, D]: the mean of the map, or ("map", VCOP's) its maximum over squares of 2x2 places, flattened:
    9216 numbers for the benchmark's 3D networks at 16x112x112. A map of a single row or column is left as it is."""
    if kind == "pooled":
        return backbone.pooled

    def flattened(x_BCTHW: torch.Tensor) -> torch.Tensor:
        map_BDTHW = backbone(x_BCTHW)
        height, width = map_BDTHW.shape[3:]
        return F.max_pool3d(map_BDTHW, (1, min(2, height), min(2, width))).flatten(1)

    return flattened


def video_features(
    backbone: Backbone,
    decoder: Decoder,
    rows: np.ndarray,
    clip: ClipSpec,
    clips: int,
    batch: int,
    context: Context,
    title: str,
    stride: int = 1,
    kind: str = "pooled",
) -> np.ndarray:
    """Features of a frozen backbone, float32 [V, clips, D]; see `feature`. Of the map the mean over the clips alone,
    [V, 1, D]: all clips of UCF101 would be 3.5 GB."""
    backbone.to(context.device).eval()
    average = kind == "map"
    return per_clip(feature(backbone, kind), decoder, rows, clip, clips, batch, context, title, stride, average)
