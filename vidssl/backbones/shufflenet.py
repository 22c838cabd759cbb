"""ShuffleNet V1 in 3D.

Zhang, Zhou, Lin, Sun, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", CVPR 2018;
in three dimensions by Kopuklu, Kose, Gunduz, Rigoll, "Resource Efficient 3D Convolutional Neural Networks", ICCV
Workshops 2019 (okankop/Efficient-3DCNNs), whose weights load here under their own key names.

Two habits of the 3D network that a reader of the 2D paper would not expect, and that are kept:
- the width multiplies the stem too, and the very first pointwise convolution is ungrouped only when the stem has
  exactly 24 channels (width 1.0); at the default width 2.0 it has `groups` groups;
- the shuffle mixes over `groups` groups even there.

What differs: the classifier is left out (a task or an evaluation brings its own), and a clip of any length is taken.
The original fails below 16 frames, because a unit's shortcut halves an odd T downwards while its branch halves it
upwards; here an odd T is extended by its last slice before the shortcut's pool. Nothing changes at multiples of 16.

On a CPU the same sums are done in a cheaper order (see `DepthwiseConv3d` and `ShuffleNet.feature_map`);
`benchmarks/step.py` times it beside the plain order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ConfigError
from .base import Backbone
from .depthwise import DepthwiseConv3d

BASE_WIDTHS = {
    1: (24, 144, 288, 567),
    2: (24, 200, 400, 800),
    3: (24, 240, 480, 960),
    4: (24, 272, 544, 1088),
    8: (24, 384, 768, 1536),
}
"""groups -> channels of the stem and the three stages at width 1.0."""

UNITS = (4, 8, 4)


class ShuffleNet(Backbone):
    """The network up to its last map, [B, feature_dim, T/16, H/32, W/32].

    Args:
        width: multiplies every number of channels. 2.0 is the benchmark's.
        groups: 1, 2, 3, 4 or 8, of the pointwise convolutions.
        input: see `Backbone`.

    Raises ConfigError where the groups are none of these, or do not divide the channels that the width makes.
    """

    stride = (16, 32, 32)
    origin = "Zhang et al., CVPR 2018; okankop/Efficient-3DCNNs"
    variants = ({"width": 0.5}, {"width": 1.0}, {"width": 1.5})
    public_input = "efficient3d"

    def __init__(self, width: float = 2.0, groups: int = 3, input: str = "unit") -> None:
        super().__init__(input)
        stem, *stages = _channels(width, groups)
        self.groups = groups
        self.width = width
        self.conv1 = nn.Sequential(
            nn.Conv3d(3, stem, 3, stride=(1, 2, 2), padding=1, bias=False), nn.BatchNorm3d(stem), nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        self.layer1 = _stage(stem, stages[0], UNITS[0], groups)
        self.layer2 = _stage(stages[0], stages[1], UNITS[1], groups)
        self.layer3 = _stage(stages[1], stages[2], UNITS[2], groups)
        self.feature_dim = stages[2]
        units = [f"layer{stage}.{unit}" for stage, count in enumerate(UNITS, 1) for unit in range(count)]
        self.taps = ("conv1", "maxpool", *units)

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        if x_BCTHW.device.type == "cpu":
            # Channels innermost is this network's faster layout on a CPU; three channels cost next to nothing to turn.
            x_BCTHW = x_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        if self.training:
            # ReLU and max pooling commute, exactly and in their gradients; after the pool it has an eighth of the work.
            # `conv1` as a tap is therefore called in eval mode only.
            convolution, norm, relu = self.conv1
            x = relu(self.maxpool(norm(convolution(x_BCTHW))))
        else:
            x = self.maxpool(self.conv1(x_BCTHW))
        return self.layer3(self.layer2(self.layer1(x)))


class Unit(nn.Module):
    """Pointwise (grouped), shuffle, depthwise 3x3x3, pointwise (grouped); added to the input, or, where it strides,
    concatenated with the pooled input."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, groups: int) -> None:
        super().__init__()
        mid = channels_out // 4  # of the full width, also where the shortcut brings part of it
        branch = channels_out - channels_in if stride == 2 else channels_out
        self.stride = stride
        self.groups = groups
        self.conv1 = nn.Conv3d(channels_in, mid, 1, groups=1 if channels_in == 24 else groups, bias=False)
        self.bn1 = nn.BatchNorm3d(mid)
        self.conv2 = DepthwiseConv3d(mid, stride)
        self.bn2 = nn.BatchNorm3d(mid)
        self.conv3 = nn.Conv3d(mid, branch, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm3d(branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(shuffle(out, self.groups)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return F.relu(out + x, inplace=True)
        return F.relu(torch.cat([out, _halve(x)], 1), inplace=True)


def shuffle(x_BCTHW: torch.Tensor, groups: int) -> torch.Tensor:
    """Channel g * (C / groups) + c goes to c * groups + g. Keeps the memory format."""
    if groups == 1:
        return x_BCTHW
    if x_BCTHW.is_contiguous(memory_format=torch.channels_last_3d):
        x_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1)
        return x_BTHWC.unflatten(-1, (groups, -1)).transpose(-1, -2).flatten(-2).permute(0, 4, 1, 2, 3)
    return x_BCTHW.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _halve(x: torch.Tensor) -> torch.Tensor:
    """The shortcut's average pool; an odd T is first extended by its last slice (ceil_mode would touch H and W too)."""
    if x.shape[2] % 2:
        x = torch.cat([x, x[:, :, -1:]], 2)
    if min(x.shape[3:]) < 3:  # a clip of 32 pixels: torch wants three before it pads
        return F.avg_pool3d(F.pad(x, (1, 1, 1, 1)), (2, 3, 3), stride=2)
    return F.avg_pool3d(x, (2, 3, 3), stride=2, padding=(0, 1, 1))


def _stage(channels_in: int, channels_out: int, units: int, groups: int) -> nn.Sequential:
    first = Unit(channels_in, channels_out, 2, groups)
    return nn.Sequential(first, *(Unit(channels_out, channels_out, 1, groups) for _ in range(units - 1)))


def _channels(width: float, groups: int) -> list[int]:
    if groups not in BASE_WIDTHS:
        raise ConfigError(f"shufflenet: groups={groups!r} is not one of {', '.join(map(str, BASE_WIDTHS))}.")
    if not isinstance(width, int | float) or isinstance(width, bool) or not 0 < width <= 16:
        raise ConfigError(f"shufflenet: width={width!r} is not a number above 0, up to 16; usual: 0.5, 1.0, 1.5, 2.0.")
    channels = _widths(width, groups)
    if not _divisible(channels, groups):
        legal = [w / 4 for w in range(1, 13) if _divisible(_widths(w / 4, groups), groups)]
        raise ConfigError(
            f"shufflenet: width={width} with groups={groups} gives {channels} channels, which {groups} groups do not "
            f"divide. Widths that work with groups={groups}: {', '.join(map(str, legal))}."
        )
    return channels


def _widths(width: float, groups: int) -> list[int]:
    return [int(c * width) for c in BASE_WIDTHS[groups]]


def _divisible(channels: list[int], groups: int) -> bool:
    """Whether every grouped convolution of the network has channels for each group."""
    stem, *stages = channels
    grouped = [c // 4 for c in stages] + [b - a for a, b in zip(channels, stages, strict=False)] + stages
    if stem != 24:
        grouped.append(stem)
    return min(channels + grouped) >= 1 and all(c % groups == 0 for c in grouped)
