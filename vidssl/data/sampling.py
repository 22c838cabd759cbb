"""Frame arithmetic that tasks and evaluations share: windows, and what happens past the end of a video."""

from __future__ import annotations

import numpy as np

from ..errors import unknown_name

END_POLICIES = ("reflect", "loop", "clamp")
SHORT_POLICIES = (*END_POLICIES, "skip")
"""What a task may do with videos that are too short for it."""


def extend(indices: np.ndarray, video_frames: np.ndarray, policy: str) -> np.ndarray:
    """Maps indices past the end of a video into it.

    reflect: runs back from the last frame (... 3 4 3 2 ...): no jump and no still picture, so a speed stays visible.
    loop: starts again at frame 0 (RSPNet's way). clamp: repeats the last frame. skip: there must be none; videos that
    are too short were left out before.

    All but skip show that the video ended. Where a label says how far a clip reaches (PRP's dilation, VCOP's place),
    that tells something of the label.

    Args:
        indices: int64 [N, T], >= 0.
        video_frames: int64 [N], lengths, >= 1.
    """
    length = np.asarray(video_frames)[:, None]
    if policy == "loop":
        return indices % length
    if policy == "clamp":
        return np.minimum(indices, length - 1)
    if policy == "reflect":
        period = np.maximum(2 * length - 2, 1)
        folded = indices % period
        return np.where(folded < length, folded, period - folded)
    if policy == "skip":
        if (indices >= length).any():
            raise ValueError("frames past the end of a video that should have been left out")
        return indices
    raise unknown_name("policy for short videos", policy, SHORT_POLICIES)


def uniform_starts(video_frames: np.ndarray, span: int, clips: int) -> np.ndarray:
    """Starts of `clips` evenly spaced windows of `span` frames, int64 [N, clips].

    The first starts at frame 0 and the last ends with the video; a video shorter than `span` starts all at 0.
    RSPNet's rule (PeihaoChen/RSPNet); VCOP spaces the centres instead and fails below 16 frames.
    """
    room = np.maximum(np.asarray(video_frames) - span, 0)[:, None]
    if clips == 1:
        return room // 2
    return (room * np.arange(clips) / (clips - 1)).astype(np.int64)
