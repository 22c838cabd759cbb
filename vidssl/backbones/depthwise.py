"""Depthwise 3x3x3 convolution whose training step is not slow on a CPU.

Grouped and depthwise 3D convolutions are slow in every framework (pytorch/pytorch#37406, #110885). With channels
innermost oneDNN's forward is near what memory allows, while both of its gradients take ten times as long and more. Here
- the gradient of the input at stride 1 is a forward pass of the turned kernel,
- the gradient of the weights, and of the input at stride 2, are loops over rows whose innermost index is the channel,
  clips shared out among as many threads as torch uses (numba's own would spin beside torch's, in every process).
Sums run in a fixed order whatever the number of threads. Figures: `benchmarks/results/NOTES.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

_FMA = {"contract"}  # a multiply-add may round once; sums keep their order
_THREADS = ThreadPoolExecutor(thread_name_prefix="depthwise")  # starts none before it has work for it


class DepthwiseConv3d(nn.Conv3d):
    """nn.Conv3d(channels, channels, 3, stride, padding=1, groups=channels, bias=False); same weights, same result.

    Args:
        stride: 1 or 2, in time, height and width alike.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ours = x.device.type == "cpu" and x.dtype == self.weight.dtype and x.dtype in (torch.float32, torch.float64)
        if ours and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
            return depthwise(x, self.weight, self.stride[0])
        return super().forward(x)


# Custom operators, so that torch.compile takes each as one piece instead of looking into it.
@torch.library.custom_op("vidssl::depthwise", mutates_args=(), device_types="cpu")
def depthwise(x_BCTHW: torch.Tensor, weight_C1333: torch.Tensor, stride: int) -> torch.Tensor:
    """The convolution, [B, C, T, H, W] -> [B, C, T', H', W'] with sizes divided by the stride and rounded up."""
    y = F.conv3d(_innermost(x_BCTHW), weight_C1333, stride=stride, padding=1, groups=x_BCTHW.shape[1])
    return _innermost(y)


@depthwise.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    sizes = [-(-size // stride) for size in x.shape[2:]]
    return x.new_empty((*x.shape[:2], *sizes)).contiguous(memory_format=torch.channels_last_3d)


@torch.library.custom_op("vidssl::depthwise_backward", mutates_args=(), device_types="cpu")
def depthwise_backward(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the input and of the weights."""
    gradient, x = _innermost(gradient), _innermost(x)
    g_BTHWC, x_BTHWC = gradient.permute(0, 2, 3, 4, 1).numpy(), x.permute(0, 2, 3, 4, 1).numpy()
    channels = x.shape[1]
    products = np.zeros((len(x), 27, channels), x_BTHWC.dtype)
    _share_out(len(x), lambda first, last: _weight_gradient(first, last, x_BTHWC, g_BTHWC, stride, products))
    of_weight = torch.from_numpy(products.sum(0).T.copy()).view_as(weight)
    if stride == 1:
        of_x = F.conv3d(gradient, weight.flip(2, 3, 4), padding=1, groups=channels)
        return _innermost(of_x), of_weight
    of_x = torch.zeros_like(x)
    of_x_BTHWC = of_x.permute(0, 2, 3, 4, 1).numpy()
    weight_KC = weight.view(channels, 27).T.contiguous().numpy()
    _share_out(len(x), lambda first, last: _input_gradient(first, last, g_BTHWC, weight_KC, stride, of_x_BTHWC))
    return of_x, of_weight


@depthwise_backward.register_fake
def _(gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x, memory_format=torch.channels_last_3d), torch.empty_like(weight)


def _keep(ctx, inputs, output) -> None:
    x, weight, ctx.stride = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    return *depthwise_backward(gradient, *ctx.saved_tensors, ctx.stride), None


depthwise.register_autograd(_backward, setup_context=_keep)


def _innermost(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def _share_out(num_clips: int, work: Callable[[int, int], None]) -> None:
    """Calls work(first, last) for runs of clips, one run a thread."""
    parts = max(1, min(torch.get_num_threads(), num_clips))
    runs = list(pairwise(num_clips * part // parts for part in range(parts + 1)))
    others = [_THREADS.submit(work, *run) for run in runs[1:]]
    work(*runs[0])
    for other in others:
        other.result()


@numba.njit(nogil=True, cache=True, inline="always")
def _run(tap: int, stride: int, width: int, out_width: int) -> tuple[int, int]:
    """The outputs [first, last) along one axis whose `tap` (0, 1, 2) lies within the input."""
    first = 1 if tap == 0 else 0
    return first, min(out_width, (width - tap) // stride + 1)


@numba.njit(nogil=True, fastmath=_FMA, cache=True)
def _weight_gradient(first_clip, last_clip, x_BTHWC, g_BTHWC, stride, products_BKC):
    """Adds, for each clip and tap K, input times output gradient over all positions."""
    length, height, width, channels = x_BTHWC.shape[1:]
    out_length, out_height, out_width = g_BTHWC.shape[1:4]
    for b in range(first_clip, last_clip):
        for t in range(out_length):
            for h in range(out_height):
                for tap in range(27):
                    ti, hi, shift = t * stride + tap // 9 - 1, h * stride + tap // 3 % 3 - 1, tap % 3 - 1
                    if 0 <= ti < length and 0 <= hi < height:
                        first, last = _run(tap % 3, stride, width, out_width)
                        row, g, total = x_BTHWC[b, ti, hi], g_BTHWC[b, t, h], products_BKC[b, tap]
                        for w in range(first, last):
                            for c in range(channels):
                                total[c] += row[w * stride + shift, c] * g[w, c]


@numba.njit(nogil=True, fastmath=_FMA, cache=True)
def _input_gradient(first_clip, last_clip, g_BTHWC, weight_KC, stride, of_x_BTHWC):
    """Adds, at each input position, weight times output gradient over the outputs that saw it."""
    length, height, width, channels = of_x_BTHWC.shape[1:]
    out_length, out_height, out_width = g_BTHWC.shape[1:4]
    for b in range(first_clip, last_clip):
        for t in range(out_length):
            for h in range(out_height):
                for tap in range(27):
                    ti, hi, shift = t * stride + tap // 9 - 1, h * stride + tap // 3 % 3 - 1, tap % 3 - 1
                    if 0 <= ti < length and 0 <= hi < height:
                        first, last = _run(tap % 3, stride, width, out_width)
                        row, g, weight = of_x_BTHWC[b, ti, hi], g_BTHWC[b, t, h], weight_KC[tap]
                        for w in range(first, last):
                            for c in range(channels):
                                row[w * stride + shift, c] += weight[c] * g[w, c]
