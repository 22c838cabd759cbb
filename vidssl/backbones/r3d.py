"""R3D: the 3D residual network of Tran et al. with one residual block per stage (ten layers), or with more.

Tran, Wang, Torresani, Ray, LeCun, Paluri, "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR
2018, as xudejing/video-clip-order-prediction:models/r3d.py builds it (Xu et al., CVPR 2019) and yuanyao366/PRP copies
it. Weights of both load here; the key names are theirs.

With two blocks per stage it computes what torchvision's `r3d_18` computes (here: backbone `r3d_18`), under other names.
Against VCOP's code only the classifier and the mean over the map are left out. Weights start at torch's defaults, as
there (torchvision's start as Kaiming normal).

`ResidualNet` is shared with R(2+1)D (`r21d.py`), which differs in nothing but what a convolution is.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import torch
from torch import nn

from ..errors import ConfigError
from .base import Backbone

Size = tuple[int, int, int]


class MakeConv(Protocol):
    """Builds "a convolution" of the network: odd kernel and stride as (T, H, W), padding half the kernel, no bias."""

    def __call__(self, channels_in: int, channels_out: int, kernel: Size, stride: Size) -> nn.Module: ...


class ResidualNet(Backbone):
    """Stem and four residual stages without a pool between, the map [B, 512, T/8, H/16, W/16], each rounded up.

    Any clip is taken: every convolution is padded.

    Args:
        make_conv: what a convolution is; residual blocks, their shortcuts and the stem are built of it.
        blocks: residual blocks per stage.
        input: see `Backbone`.

    Raises ConfigError where `blocks` is not a whole number above 0.
    """

    feature_dim = 512
    stride = (8, 16, 16)
    variants = ({"blocks": 2},)

    def __init__(self, make_conv: MakeConv, blocks: int, input: str) -> None:
        super().__init__(input)
        if not isinstance(blocks, int) or isinstance(blocks, bool) or blocks < 1:
            raise ConfigError(
                f"{type(self).__name__}: blocks={blocks!r} is not a whole number from 1 on. "
                "Usual: 1 (VCOP, PRP, RSPNet), 2 (18 layers)."
            )
        self.conv1 = make_conv(3, 64, (3, 7, 7), (1, 2, 2))
        self.bn1 = nn.BatchNorm3d(64)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = Stage(make_conv, 64, 64, blocks)
        self.conv3 = Stage(make_conv, 64, 128, blocks)
        self.conv4 = Stage(make_conv, 128, 256, blocks)
        self.conv5 = Stage(make_conv, 256, 512, blocks)
        names = ["block1", *(f"blocks.{number}" for number in range(blocks - 1))]
        # The stem by its ReLU: `conv1` alone would be the one tap before norm and ReLU.
        self.taps = ("relu1", *(f"conv{stage}.{name}" for stage in (2, 3, 4, 5) for name in names))

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.bn1(self.conv1(x_BCTHW)))
        return self.conv5(self.conv4(self.conv3(self.conv2(x))))


class Stage(nn.Module):
    """Residual blocks in a row; the first one halves T, H and W where the channels change."""

    def __init__(self, make_conv: MakeConv, channels_in: int, channels_out: int, blocks: int) -> None:
        super().__init__()
        self.block1 = Block(make_conv, channels_in, channels_out)
        self.blocks = nn.ModuleList(Block(make_conv, channels_out, channels_out) for _ in range(blocks - 1))

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        x_BCTHW = self.block1(x_BCTHW)
        for block in self.blocks:
            x_BCTHW = block(x_BCTHW)
        return x_BCTHW


class Block(nn.Module):
    """Convolution, norm, ReLU, convolution, norm, added to the input, ReLU.

    Where the channels change, the first convolution strides, and so does one of kernel 1 on the shortcut, with a norm.
    """

    def __init__(self, make_conv: MakeConv, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.halves = channels_in != channels_out
        stride = (2, 2, 2) if self.halves else (1, 1, 1)
        if self.halves:
            self.downsampleconv = make_conv(channels_in, channels_out, (1, 1, 1), stride)
            self.downsamplebn = nn.BatchNorm3d(channels_out)
        self.conv1 = make_conv(channels_in, channels_out, (3, 3, 3), stride)
        self.bn1 = nn.BatchNorm3d(channels_out)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = make_conv(channels_out, channels_out, (3, 3, 3), (1, 1, 1))
        self.bn2 = nn.BatchNorm3d(channels_out)
        self.outrelu = nn.ReLU(inplace=True)

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x_BCTHW)))
        out = self.bn2(self.conv2(out))
        shortcut = self.downsamplebn(self.downsampleconv(x_BCTHW)) if self.halves else x_BCTHW
        return self.outrelu(shortcut + out)


class R3D(ResidualNet):
    """The residual network of full 3D convolutions; map and clip sizes as `ResidualNet`.

    Args:
        blocks: residual blocks per stage, 1 or more. 1 is the benchmark's, VCOP's and PRP's; 2 makes 18 layers.
        input: see `Backbone`.

    Raises ConfigError where `blocks` is not a whole number above 0.
    """

    origin = "Tran et al., CVPR 2018; xudejing/video-clip-order-prediction"

    def __init__(self, blocks: int = 1, input: str = "unit") -> None:
        super().__init__(full_conv, blocks, input)


def full_conv(channels_in: int, channels_out: int, kernel: Size, stride: Size) -> nn.Module:
    time, height, width = kernel
    padding = (time // 2, height // 2, width // 2)
    conv = nn.Conv3d(channels_in, channels_out, kernel, stride=stride, padding=padding, bias=False)
    return nn.Sequential(OrderedDict(temporal_spatial_conv=conv))
