"""Transformations in time: which frames of a video, in which order. On the host, for all samples at once.

Positions are int64 and count from a video's first frame. They may lie past its end; `vidssl.data.sampling.extend` says
which frames are shown there.
"""

from __future__ import annotations

import numpy as np

from ..data.plan import choose


def random_start(u_N: np.ndarray, video_frames_N: np.ndarray, span: np.ndarray | int) -> np.ndarray:
    """int64 [N]: where a window of `span` frames starts, each place as likely; 0 in a video that is shorter.

    Args:
        u_N: random numbers in [0, 1).
        span: one for all or one a sample.
    """
    return choose(u_N, np.maximum(np.asarray(video_frames_N) - span, 0) + 1)


def dilate(start: np.ndarray, count: int, step: np.ndarray | int) -> np.ndarray:
    """Every step-th position from each start on: int64 [..., count], with `start` and `step` [...] or one number."""
    return np.asarray(start)[..., None] + np.arange(count) * np.asarray(step)[..., None]


def clip_tuple(start_N: np.ndarray, clips: int, frames: int, gap_N: np.ndarray | int) -> np.ndarray:
    """int64 [N, K, T]: K clips of T consecutive frames, one after the other.

    Args:
        gap_N: frames between the end of a clip and the start of the next.
    """
    return dilate(dilate(start_N, clips, np.asarray(gap_N) + frames), frames, 1)


def shrink_gap(video_frames_N: np.ndarray, clips: int, frames: int, gap: int) -> np.ndarray:
    """int64 [N]: the largest gap, up to `gap`, with which `clips` clips of `frames` frames fit into each video; 0 where
    they do not fit even without."""
    return np.clip((np.asarray(video_frames_N) - clips * frames) // (clips - 1), 0, gap)


def shuffle(clips_NKT: np.ndarray, order_NK: np.ndarray) -> np.ndarray:
    """The clips in the order shown: the k-th is clip order[k]."""
    return np.take_along_axis(clips_NKT, order_NK[:, :, None], 1)


def reverse(positions_NT: np.ndarray, chosen_N: np.ndarray) -> np.ndarray:
    """The chosen samples' frames last to first, the others as they are."""
    return np.where(chosen_N[:, None], positions_NT[:, ::-1], positions_NT)
