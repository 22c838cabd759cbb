"""Masks over tubelets: blocks of a few frames and pixels that are hidden or seen as a whole.

A clip of [T, H, W] cut into tubelets of (t, h, w) has a grid of (T/t, H/h, W/w) cells, numbered fastest along W, then
H, then T, as the tokens of `vidssl.backbones.vit` are. A tube mask (Tong et al., "VideoMAE", NeurIPS 2022) hides the
same places of the picture in all time slots: what stands still could otherwise be copied from the frame before.

Which places are hidden is drawn on the host from given random numbers (NumPy); the rest works on tensors of any device.
"""

from __future__ import annotations

import math

import numpy as np
import torch

Size3 = tuple[int, int, int]
"""Along T, H and W."""


def num_hidden(places: int, ratio: float) -> int:
    """How many of this many places are hidden: int(ratio * places), as in VideoMAE (44 of 49 at 0.9)."""
    return int(ratio * places)


def tube_places(uniforms_NP: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Places of the picture that are seen and that are hidden: int64 [N, P - M] and [N, M], both ascending.

    M is `num_hidden` for every sample, and each choice of M out of P places is as likely: those with the M smallest
    of the sample's P random numbers are hidden.
    """
    count = num_hidden(uniforms_NP.shape[1], ratio)
    order_NP = np.argsort(uniforms_NP, axis=1, kind="stable")
    return np.sort(order_NP[:, count:], axis=1), np.sort(order_NP[:, :count], axis=1)


def over_time(places_BP: torch.Tensor, grid: Size3) -> torch.Tensor:
    """The cells at these places in every time slot: int64 [B, slots * P], ascending if the places are."""
    slots, height, width = grid
    first_S = torch.arange(slots, device=places_BP.device) * (height * width)
    return (first_S[:, None] + places_BP[:, None]).flatten(1)


def to_pixels(cells_BM: torch.Tensor, grid: Size3, tubelet: Size3) -> torch.Tensor:
    """bool [B, 1, T, H, W]: whether a pixel lies in one of the cells."""
    batch = len(cells_BM)
    mask_BN = torch.zeros(batch, math.prod(grid), dtype=torch.bool, device=cells_BM.device).scatter(1, cells_BM, True)
    (slots, rows, columns), (t, h, w) = grid, tubelet
    mask = mask_BN.view(batch, slots, 1, rows, 1, columns, 1).expand(-1, -1, t, -1, h, -1, w)
    return mask.reshape(batch, 1, slots * t, rows * h, columns * w)


def cut(x_BCTHW: torch.Tensor, tubelet: Size3) -> torch.Tensor:
    """Clips to cells [B, N, t * h * w * C]; the channel counts fastest within a cell, then w, h, t (VideoMAE's order).

    T, H and W are multiples of the tubelet's.
    """
    t, h, w = tubelet
    x = x_BCTHW.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(2, (-1, t))
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)


def join(cells_BND: torch.Tensor, grid: Size3, tubelet: Size3) -> torch.Tensor:
    """The inverse of `cut`: cells back to clips [B, C, T, H, W]."""
    x = cells_BND.unflatten(2, (*tubelet, -1)).unflatten(1, grid)
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6).flatten(4, 5).flatten(2, 3)


def pick(x_BND: torch.Tensor, cells_BM: torch.Tensor) -> torch.Tensor:
    """What stands in each sample's own cells, [B, M, D], in the order of `cells_BM`."""
    return x_BND.gather(1, cells_BM[:, :, None].expand(-1, -1, x_BND.shape[2]))
