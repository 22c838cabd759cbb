"""VideoMAE's crop of several scales and shapes, for whole clips.

Sides are 1, 0.875, 0.75 or 0.66 of the picture's shorter side, width and height at most one step of this list apart,
and the crop lies at one of 13 places: corners, centre, middles of the sides, and halfway between corners and centre
(Wang et al., "Temporal Segment Networks", ECCV 2016; MCG-NJU/VideoMAE:transforms.py). The result is resized to a
square, so that shapes vary by up to a seventh.

The original crops and resizes frame by frame with PIL. Here every clip has its own two matrices, one for rows and one
for columns, that do both at once with the same filter (a triangle, widened where the picture shrinks). The original
takes a crop within 2 pixels of the network's size for a crop of exactly that size; here it keeps its own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from ..data.plan import choose
from .geometry import apply_separable, check_size, resize_matrix, to_clip

SCALES = (1.0, 0.875, 0.75, 0.66)

SHAPES = tuple((i, j) for i in range(len(SCALES)) for j in range(len(SCALES)) if abs(i - j) <= 1)
"""Which scales (height, width) go together."""

PLACES = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    *((2, 0), (2, 4), (4, 2), (0, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)
"""Where the crop may lie, as quarters (from the top, from the left) of the room that it has."""


class MultiScaleCrop:
    """Draws and applies the crop.

    Args:
        size: side of the picture that the network takes, pixels.
    """

    num_uniforms: ClassVar[int] = 2

    def __init__(self, size: int) -> None:
        check_size(size)
        self.size = size

    def settings(self) -> dict[str, Any]:
        """What is done."""
        return {"scales": list(SCALES), "places": len(PLACES)}

    def draw(self, uniforms_NU: np.ndarray) -> dict[str, np.ndarray]:
        """`shape` and `place`, int64 [N], rows of SHAPES and PLACES."""
        return {"shape": choose(uniforms_NU[:, 0], len(SHAPES)), "place": choose(uniforms_NU[:, 1], len(PLACES))}

    def apply(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> torch.Tensor:
        """uint8 frames and the drawn parameters on the same device -> float [B, 3, T, size, size] in [0, 1]."""
        height, width = frames_BTHWC.shape[2:4]
        shape_B, place_B, device = params["shape"], params["place"], frames_BTHWC.device
        sides = torch.tensor([int(min(height, width) * scale) for scale in SCALES], device=device)
        tall_B, wide_B = sides[torch.tensor(SHAPES, device=device)[shape_B]].unbind(1)
        down_B, right_B = torch.tensor(PLACES, device=device)[place_B].unbind(1)
        top_B, left_B = down_B * ((height - tall_B) // 4), right_B * ((width - wide_B) // 4)
        with torch.autocast(device.type, enabled=False):  # eight bits of mantissa are too few for pixels
            rows_BSH = resize_matrix(top_B, tall_B, height, self.size)
            columns_BSW = resize_matrix(left_B, wide_B, width, self.size)
            return apply_separable(to_clip(frames_BTHWC), rows_BSH, columns_BSW).div_(255)
