"""The contract of every backbone."""

from __future__ import annotations

import torch
from torch import nn


class Backbone(nn.Module):
    """A network from clips to a feature map; no head inside.

    `forward(x_BCTHW float) -> float [B, D, T', H', W']`.

    Attributes:
        feature_dim: D.
        stride: how much smaller the map is than the clip, as (T, H, W); sizes are rounded up.
        taps: ordered names of submodules whose outputs are worth looking at (feature analysis).
    """

    feature_dim: int
    stride: tuple[int, int, int]
    taps: tuple[str, ...]

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def pooled(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """The clip's feature, float [B, D]: the mean of the map."""
        return self.forward(x_BCTHW).mean(dim=(2, 3, 4))


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
