"""What treats each pixel of a clip alone: gamma, solarise, channels and rectangles that are not seen.

Each clip has its own parameters, the same for all its frames. Nothing is asked of the device, so that the host does
not wait for it: a clip that is left alone has parameters that leave it alone.
"""

from __future__ import annotations

import torch

from .geometry import offsets


def power(x_BCTHW: torch.Tensor, gamma_B: torch.Tensor) -> torch.Tensor:
    """x to the power of gamma, in place; x in [0, 1]. 1 leaves it as it is, less makes it brighter."""
    return x_BCTHW.pow_(_per_clip(gamma_B))


def solarise(x_BCTHW: torch.Tensor, chosen_B: torch.Tensor) -> torch.Tensor:
    """The chosen clips with every value from 0.5 on inverted (x becomes 1 - x), in place; x in [0, 1]."""
    # |1 - x| inverts and |0 - x| does not; the smaller of it and x is what solarising leaves
    inverted = (x_BCTHW - _per_clip(chosen_B).to(x_BCTHW.dtype)).abs_()
    return torch.minimum(x_BCTHW, inverted, out=x_BCTHW)


def seen(dropped_B: torch.Tensor, erase_B4: torch.Tensor, size: int) -> torch.Tensor:
    """1 where a clip's pixel is seen and 0 where it is black: float32 [B, 3, 1, size, size].

    Args:
        dropped_B: int64, the channel that is black; -1 for none.
        erase_B4: a rectangle's height and width as shares of `size`, and where it lies in the room that it has, from
            the top and from the left, in [0, 1). 0 high or wide is none.
    """
    channel = torch.arange(3, device=dropped_B.device) != dropped_B[:, None]
    sides_B2 = (erase_B4[:, :2] * size).round().long()
    start_B2 = offsets(erase_B4[:, 2:], size - sides_B2)
    pixel = torch.arange(size, device=dropped_B.device)
    inside_B2S = (pixel >= start_B2[:, :, None]) & (pixel < (start_B2 + sides_B2)[:, :, None])
    rectangle = inside_B2S[:, 0, :, None] & inside_B2S[:, 1, None, :]
    return (channel[:, :, None, None] & ~rectangle[:, None])[:, :, None].float()


def _per_clip(values_B: torch.Tensor) -> torch.Tensor:
    return values_B[:, None, None, None, None]
