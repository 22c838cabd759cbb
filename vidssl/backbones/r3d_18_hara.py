"""The 3D ResNet-18 of Hara et al.: a 7x7x7 stem, a max pool, and four stages of two basic blocks.

Hara, Kataoka, Satoh, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?", CVPR 2018; code equal
in okankop/Efficient-3DCNNs:models/resnet.py and PeihaoChen/RSPNet:models/resnet.py (its "resnet18"), whose weights load
here under their own key names. About the parameters of torchvision's `r3d_18`, a fifth of its multiplications.

Shortcuts where the shape changes: "B" is a strided 1x1x1 convolution with norm (RSPNet), "A" every second position with
zeros for the new channels, without weights (Efficient-3DCNNs' ResNet-18).

What differs: the classifier and its pool of fixed size are left out, so that clips of any length and size are taken;
and a gradient flows back through shortcut "A", which the originals cut there (they join `.data`). Outputs are equal.
Convolutions start as Kaiming normal by fan out, norms at 1 and 0, as there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ConfigError
from .base import Backbone

SHORTCUTS = ("A", "B")


class R3D18Hara(Backbone):
    """The network up to its last map, [B, 512, T/16, H/32, W/32], each size rounded up; any clip is taken.

    Args:
        shortcut: "B" or "A", see above.
        input: see `Backbone`.

    Raises ConfigError where the shortcut is neither.
    """

    feature_dim = 512
    stride = (16, 32, 32)
    taps = ("relu", "maxpool", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)))
    origin = "Hara et al., CVPR 2018; PeihaoChen/RSPNet, okankop/Efficient-3DCNNs"
    variants = ({"shortcut": "A"},)
    public_input = "efficient3d"

    def __init__(self, shortcut: str = "B", input: str = "unit") -> None:
        super().__init__(input)
        if shortcut not in SHORTCUTS:
            raise ConfigError(f"r3d_18_hara: shortcut={shortcut!r} is not one of {', '.join(SHORTCUTS)}.")
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, shortcut), BasicBlock(64, 64, shortcut))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, shortcut), BasicBlock(128, 128, shortcut))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, shortcut), BasicBlock(256, 256, shortcut))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, shortcut), BasicBlock(512, 512, shortcut))
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x_BCTHW))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions with norms, added to the shortcut; halves T, H and W where the channels change."""

    def __init__(self, channels_in: int, channels_out: int, shortcut: str) -> None:
        super().__init__()
        stride = 1 if channels_in == channels_out else 2
        self.conv1 = nn.Conv3d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv3d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(channels_out)
        self.downsample: nn.Module
        if stride == 1:
            self.downsample = nn.Identity()
        elif shortcut == "A":
            self.downsample = SubsampleAndPad(channels_out - channels_in)
        else:
            self.downsample = nn.Sequential(
                nn.Conv3d(channels_in, channels_out, 1, stride=2, bias=False), nn.BatchNorm3d(channels_out)
            )

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x_BCTHW)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x_BCTHW))


class SubsampleAndPad(nn.Module):
    """Shortcut "A": every second position in T, H and W, then `new_channels` channels of zeros."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        return F.pad(x_BCTHW[:, :, ::2, ::2, ::2], (0, 0, 0, 0, 0, 0, 0, self.new_channels))
