"""MobileNet V2 in 3D.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018; in three
dimensions by Kopuklu, Kose, Gunduz, Rigoll, "Resource Efficient 3D Convolutional Neural Networks", ICCV Workshops 2019
(okankop/Efficient-3DCNNs:models/mobilenetv2.py), whose weights load here under their own key names.

Channels are cut to whole numbers by the width (the 2D network rounds to multiples of 8), and the last layer keeps its
1280 at widths up to 1. What differs: the classifier is left out; on a CPU the same sums are done in a cheaper order.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ..errors import ConfigError
from .base import Backbone
from .depthwise import DepthwiseConv3d

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels at width 1, blocks, stride of the first (T, H and W alike)."""

STEM, LAST = 32, 1280


class MobileNetV2(Backbone):
    """The network up to its last map, [B, feature_dim, T/16, H/32, W/32].

    Args:
        width: multiplies the channels; 1.0 is the benchmark's. The public weights have 0.2 to 2.0.
        input: see `Backbone`.
    """

    stride = (16, 32, 32)
    origin = "Sandler et al., CVPR 2018; okankop/Efficient-3DCNNs"
    variants = ({"width": 0.45},)
    public_input = "efficient3d"

    def __init__(self, width: float = 1.0, input: str = "unit") -> None:
        super().__init__(input)
        channels = check_width("mobilenet", width, STEM)
        blocks: list[nn.Module] = [convolution(3, channels, 3, (1, 2, 2), nn.ReLU6)]
        for expansion, base, count, stride in STAGES:
            out = int(base * width)
            for number in range(count):
                blocks.append(InvertedResidual(channels, out, stride if number == 0 else 1, expansion))
                channels = out
        self.feature_dim = int(LAST * width) if width > 1 else LAST
        blocks.append(convolution(channels, self.feature_dim, 1, 1, nn.ReLU6))
        self.features = nn.Sequential(*blocks)
        self.taps = tuple(f"features.{number}" for number in range(len(blocks)))
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                fan_out = math.prod(module.kernel_size) * module.out_channels
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        if x_BCTHW.device.type == "cpu":
            x_BCTHW = x_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        return self.features(x_BCTHW)


class InvertedResidual(nn.Module):
    """Pointwise to `expansion` times the channels, depthwise 3x3x3, pointwise down without an activation."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels_out
        expand = convolution(channels_in, hidden, 1, 1, nn.ReLU6) if expansion > 1 else ()
        depthwise = (DepthwiseConv3d(hidden, stride), nn.BatchNorm3d(hidden), nn.ReLU6(inplace=True))
        project = (nn.Conv3d(hidden, channels_out, 1, bias=False), nn.BatchNorm3d(channels_out))
        self.conv = nn.Sequential(*expand, *depthwise, *project)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def convolution(
    channels_in: int, channels_out: int, kernel: int, stride: int | tuple[int, int, int], activation: type[nn.Module]
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm3d(channels_out),
        activation(inplace=True),
    )


def check_width(name: str, width: float, stem: int) -> int:
    """Channels of the stem, or ConfigError where the width leaves none."""
    if not 1 / stem <= width <= 8:
        raise ConfigError(f"{name}: width={width} is outside {1 / stem} to 8; usual: 0.25, 0.5, 1.0, 2.0.")
    return int(stem * width)
