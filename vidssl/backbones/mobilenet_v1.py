"""MobileNet (V1) in 3D.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam, "MobileNets: Efficient Convolutional Neural Networks for
Mobile Vision Applications", arXiv 1704.04861, 2017; in three dimensions by Kopuklu, Kose, Gunduz, Rigoll, "Resource
Efficient 3D Convolutional Neural Networks", ICCV Workshops 2019 (okankop/Efficient-3DCNNs:models/mobilenet.py), whose
weights load here under their own key names. The benchmark's "MobileNet" is V2 (`mobilenet`).

What differs: the classifier is left out; on a CPU the same sums are done in a cheaper order. As there, weights start as
torch's own layers do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .base import Backbone
from .depthwise import DepthwiseConv3d
from .mobilenet import check_width, convolution

STAGES = ((64, 1, 2), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 1))
"""Channels at width 1, blocks, stride of the first (T, H and W alike)."""

STEM = 32


class MobileNetV1(Backbone):
    """The network up to its last map, [B, feature_dim, T/16, H/32, W/32].

    Args:
        width: multiplies the channels.
        input: see `Backbone`.
    """

    stride = (16, 32, 32)
    origin = "Howard et al., 2017; okankop/Efficient-3DCNNs"
    variants = ({"width": 2.0},)
    public_input = "efficient3d"

    def __init__(self, width: float = 1.0, input: str = "unit") -> None:
        super().__init__(input)
        channels = check_width("mobilenet_v1", width, STEM)
        blocks: list[nn.Module] = [convolution(3, channels, 3, (1, 2, 2), nn.ReLU)]
        for base, count, stride in STAGES:
            out = int(base * width)
            for number in range(count):
                blocks.append(Separable(channels, out, stride if number == 0 else 1))
                channels = out
        self.feature_dim = channels
        self.features = nn.Sequential(*blocks)
        self.taps = tuple(f"features.{number}" for number in range(len(blocks)))

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        if x_BCTHW.device.type == "cpu":
            x_BCTHW = x_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        return self.features(x_BCTHW)


class Separable(nn.Module):
    """Depthwise 3x3x3, then pointwise; batch norm and ReLU after each."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = DepthwiseConv3d(channels_in, stride)
        self.bn1 = nn.BatchNorm3d(channels_in)
        self.conv2 = nn.Conv3d(channels_in, channels_out, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)
