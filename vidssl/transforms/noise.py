"""Gaussian, shot, impulse and speckle noise of decoded frames, at five severities.

Two sets of strengths (`TABLES`). "video": Schiappa et al., A Large-scale Robustness Analysis of Video Action
Recognition Models, CVPR 2023 (Maddy12/ActionRecognitionRobustnessEval:core/video_perturb.py), which the benchmark cites
for its noises. "imagenet-c": Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019 (hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py). Shot and speckle differ.

As in both, a pixel x in [0, 1] becomes

    gaussian  x + N(0, c)           shot     Poisson(c x) / c
    speckle   x + x N(0, c)         impulse  0 or 1, each with probability c / 2, otherwise x

drawn for every pixel, channel and frame, clipped to [0, 1], times 255 and truncated to 8 bits. Truncated, not rounded:
values that the noise leaves off the 8-bit grid come out darker by half a grey level on average.

What differs. The first reference's loader adds noise to a clip with probability 0.75 even when it tests; here noise is
always added. Its noise hangs on the state of a global generator; here it is a pure function of the frame's key, the
kind, the severity, the table and the place in the frame, so that batches, ranks, threads and devices do not matter. For
this all arithmetic on the device is on integers: an 8-bit value that becomes an 8-bit value is drawn from 256
probabilities, which are computed once, and Walker's alias method (ACM Transactions on Mathematical Software, 1977)
draws from them with 32 random bits. The distribution is the references' to within 2**-32.
"""

from __future__ import annotations

import hashlib
import operator
from functools import lru_cache

import numba
import numpy as np
import torch

from ..errors import ConfigError, unknown_name

TABLES: dict[str, dict[str, tuple[float, ...]]] = {
    "video": {
        "gaussian": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot": (250, 100, 50, 30, 15),
        "impulse": (0.03, 0.06, 0.09, 0.17, 0.27),
        "speckle": (0.15, 0.20, 0.25, 0.30, 0.35),
    },
    "imagenet-c": {
        "gaussian": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot": (60, 25, 12, 5, 3),
        "impulse": (0.03, 0.06, 0.09, 0.17, 0.27),
        "speckle": (0.15, 0.20, 0.35, 0.45, 0.60),
    },
}
"""The constant c of each kind at severities 1 to 5."""

KINDS = tuple(TABLES["video"])
SEVERITIES = range(1, 6)

# splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), as in the plan
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

_FULL = 1 << 24
"""Share of one of the 256 columns of an alias table; the eight other random bits choose the column."""

_CHUNK = 1 << 22
"""Values that are drawn at once on a device, with some 50 bytes of intermediate results for each."""


def add_noise(
    frames_BTHWC: torch.Tensor, kind: str, severity: int, table: str = "video", *, seed: int | torch.Tensor
) -> torch.Tensor:
    """The noisy frames, uint8 [B, T, H, W, 3], on the same device; the input stays as it is.

    The references add the noise at decoded resolution, before any crop or resize.

    Args:
        frames_BTHWC: uint8.
        kind: one of `KINDS`.
        severity: 1 (weakest) to 5.
        table: one of `TABLES`.
        seed: int64 [B, T], the key of each frame (see `frame_keys`): the same key gets the same noise wherever it
            stands. Or a plain integer, and a frame's noise then hangs on its place in the batch.

    Raises ConfigError for a kind, severity or table that there is not; TypeError and ValueError for tensors of another
    dtype or shape.
    """
    if table not in TABLES:
        raise unknown_name("noise table", table, TABLES)
    if kind not in KINDS:
        raise unknown_name("noise", kind, KINDS)
    if severity not in SEVERITIES:
        raise ConfigError(f"noise severity {severity!r} is none of {', '.join(map(str, SEVERITIES))} (weak to strong).")
    if frames_BTHWC.dtype != torch.uint8:
        raise TypeError(f"noise is added to decoded frames, uint8, not to {frames_BTHWC.dtype}; add it before scaling.")
    if frames_BTHWC.ndim != 5 or frames_BTHWC.shape[4] != 3:
        raise ValueError(f"frames of shape {list(frames_BTHWC.shape)} are not [B, T, H, W, 3].")
    batch, length, height, width, channels = frames_BTHWC.shape
    if not isinstance(seed, torch.Tensor):
        seed = frame_keys(torch.arange(batch), torch.arange(length).expand(batch, length), seed)
    if seed.dtype != torch.int64 or seed.shape != (batch, length):
        raise ValueError(
            f"frame keys are {seed.dtype} {list(seed.shape)}; these frames need int64 {[batch, length]}: one a frame."
        )
    device = frames_BTHWC.device
    states_N = _mix(seed.to(device).reshape(-1) ^ _number(f"{table} {kind} {int(severity)}"))
    keep, alias = _alias_table(kind, int(severity), table, device)
    frames_NE = frames_BTHWC.reshape(batch * length, height * width * channels)
    draw = _draw_on_host if device.type == "cpu" else _draw_on_device
    return draw(frames_NE, states_N, keep, alias).view(frames_BTHWC.shape)


def frame_keys(video_keys_B: torch.Tensor, frame_indices_BT: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """int64 [B, T]: a key for each frame of each video, for `add_noise`.

    Args:
        video_keys_B: int64, the store's keys (`keys.view(np.int64)`).
        frame_indices_BT: int64, the frame's number within its video.
        seed: the run's.
    """
    videos_B = _mix(video_keys_B ^ _number(f"seed {operator.index(seed)}"))
    return _mix(videos_B[:, None] + frame_indices_BT * _signed(_GOLDEN))


def _number(text: str) -> int:
    """64 bits, signed, that stand for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def _signed(constant: int) -> int:
    """The int64 of the same bits, because torch has no uint64 arithmetic."""
    return constant - (1 << 64)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """splitmix64's finaliser; int64, wrapping."""
    x = (x ^ _shift(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shift(x, 27)) * _signed(_MIX_2)
    return x ^ _shift(x, 31)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Right shift that fills with zeros; torch's own copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _cumulative(kind: str, c: float) -> torch.Tensor:
    """float64 [V, W], both 256: the probability that value V becomes W or less."""
    x_V1 = torch.arange(256, dtype=torch.float64, device="cpu")[:, None] / 255
    # truncated to W or less is anything below W + 1
    edge_W = torch.arange(1, 257, dtype=torch.float64, device="cpu") / 255
    if kind == "gaussian":
        below = torch.special.ndtr((edge_W - x_V1) / c)
    elif kind == "speckle":
        below = torch.special.ndtr((edge_W - x_V1) / (c * x_V1))  # black divides by zero: infinity, 1, and stays black
    elif kind == "shot":
        counts_W = torch.arange(1, 257, dtype=torch.float64, device="cpu").mul_(c).div_(255).ceil_()
        below = torch.special.gammaincc(counts_W.expand(256, 256), (c * x_V1).expand(256, 256))
    else:
        below = c / 2 + (1 - c) * (edge_W > x_V1).double()
    below[:, 255] = 1  # what is above is clipped
    return below


@lru_cache
def _alias_table(kind: str, severity: int, table: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """`keep` int32 and `alias` uint8, [256 * 256]: column W of value V gives W in `keep` of `_FULL` cases, or `alias`.

    A column with less than its share is filled up from the first one that has more. The choice compares whole numbers
    with the share only, so that the last bit of a library's erf does not rearrange the table.
    """
    below_VW = _cumulative(kind, TABLES[table][kind][severity - 1]).numpy()
    share_VW = np.diff(np.round(below_VW * (256 * _FULL)).astype(np.int64), axis=1, prepend=0)
    keep_VW, alias_VW = np.full_like(share_VW, _FULL), np.tile(np.arange(256), (256, 1))
    rows = np.arange(256)
    for _ in range(255):
        poor, rich = (share_VW < _FULL).argmax(1), (share_VW > _FULL).argmax(1)
        lack = _FULL - share_VW[rows, poor]
        # rows that are done find no poor column and come with column 0, which lacks nothing by now
        alias_VW[rows, poor] = np.where(lack > 0, rich, alias_VW[rows, poor])
        keep_VW[rows, poor] -= lack
        share_VW[rows, poor] += lack
        share_VW[rows, rich] -= lack
    keep = torch.from_numpy(keep_VW.astype(np.int32).ravel())
    return keep.to(device), torch.from_numpy(alias_VW.astype(np.uint8).ravel()).to(device)


def _draw_on_device(
    frames_NE: torch.Tensor, states_N: torch.Tensor, keep: torch.Tensor, alias: torch.Tensor
) -> torch.Tensor:
    """Noisy values, uint8 [N, E]. Value e takes the low (even e) or high half of its frame's random number e // 2."""
    num_frames, size = frames_NE.shape
    out_NE = torch.empty_like(frames_NE)
    steps_P = torch.arange((size + 1) // 2, device=frames_NE.device) * _signed(_GOLDEN)
    at_once = max(1, _CHUNK // max(1, size))
    for first in range(0, num_frames, at_once):
        chunk = slice(first, first + at_once)
        bits = _mix(states_N[chunk, None] + steps_P).view(torch.int32)[:, :size]
        column = (bits >> 24) & 255
        cell = ((frames_NE[chunk].int() << 8) | column).flatten()
        kept = (bits & (_FULL - 1)) < keep.index_select(0, cell).view_as(bits)
        out_NE[chunk] = torch.where(kept, column.to(torch.uint8), alias.index_select(0, cell).view_as(bits))
    return out_NE


def _draw_on_host(
    frames_NE: torch.Tensor, states_N: torch.Tensor, keep: torch.Tensor, alias: torch.Tensor
) -> torch.Tensor:
    """The same bytes in one pass over the memory."""
    out_NE = torch.empty_like(frames_NE, memory_format=torch.contiguous_format)
    states = states_N.numpy().view(np.uint64)
    _draw(frames_NE.contiguous().numpy(), states, keep.numpy(), alias.numpy(), out_NE.numpy())
    return out_NE


# Not the plan's: numba's cache on disk does not see that another file has changed.
@numba.njit(inline="always")
def _mix_uint64(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
    return x ^ (x >> np.uint64(31))


@numba.njit(nogil=True, cache=True)
def _draw(frames_NE, states_N, keep, alias, out_NE):
    num_frames, size = frames_NE.shape
    for n in range(num_frames):
        for pair in range((size + 1) // 2):
            bits = _mix_uint64(states_N[n] + np.uint64(pair) * np.uint64(_GOLDEN))
            for e in range(2 * pair, min(2 * pair + 2, size)):
                column = (bits >> np.uint64(24)) & np.uint64(255)
                cell = np.int64(frames_NE[n, e]) * 256 + np.int64(column)
                low = np.int64(bits & np.uint64(_FULL - 1))
                other = alias[cell]  # read in any case: a branch would often be mispredicted
                out_NE[n, e] = np.uint8(column) if low < keep[cell] else other
                bits >>= np.uint64(32)
