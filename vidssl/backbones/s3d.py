"""S3D: Inception with 3D convolutions factored into space and time, as torchvision builds it.

Xie, Sun, Huang, Tu, Murphy, "Rethinking Spatiotemporal Feature Learning: Speed-Accuracy Trade-offs in Video
Classification", ECCV 2018; pytorch/vision:torchvision/models/video/s3d.py, whose weights load here under their own key
names. It is not S3D-G (RSPNet's): there are no gates.

What differs from torchvision: the pooling and the classifier are left out. torchvision pools with a window of 2x7x7
that fits maps of 2x7x7 (13 to 20 frames of 209 to 240 pixels), fails on smaller ones, and counts the middle of a larger
map more often than its edge; here the mean of the map is taken, which is the same at 2x7x7. Batch norm's momentum of
0.001 is kept: running statistics follow slowly, so short trainings are better judged with public weights inside.
"""

from __future__ import annotations

import torch
from torchvision.models.video import s3d

from .base import Backbone

MODULES = (0, 2, 3, 5, 6, 8, 9, 10, 11, 12, 14, 15)
"""Places of stem, pointwise, separable and Inception modules in `features`; max pools lie between."""


class S3D(Backbone):
    """The network up to its last map, [B, 1024, T/8, H/32, W/32].

    T is halved twice upwards and then downwards; H and W are halved four times upwards and then downwards.

    Args:
        input: see `Backbone`.
    """

    feature_dim = 1024
    stride = (8, 32, 32)
    taps = tuple(f"features.{place}" for place in MODULES)
    origin = "Xie et al., ECCV 2018; torchvision s3d"
    smallest = (5, 17, 17)  # the last max pool has a window of two and no padding
    public_input = "kinetics"

    def __init__(self, input: str = "unit") -> None:
        super().__init__(input)
        self.features = s3d().features

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.features(x_BCTHW)
