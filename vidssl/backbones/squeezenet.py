"""SqueezeNet in 3D, versions 1.1 and 1.0, with batch normalisation and bypasses.

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and
<0.5MB model size", arXiv:1602.07360, 2016; in three dimensions by Kopuklu, Kose, Gunduz, Rigoll, "Resource Efficient 3D
Convolutional Neural Networks", ICCV Workshops 2019 (okankop/Efficient-3DCNNs:models/squeezenet.py), whose weights load
here under their own key names. Two habits of the 3D network that the 2D one lacks: every convolution is followed by a
norm (and keeps its bias), and the second Fire of each width adds its input to its output.

What differs: the classifier is left out, which in the original is a convolution, a ReLU and a pool of fixed size; so a
clip of any length and size is taken, and its feature is the mean of the last map, which the original never forms.
Kernels start as Kaiming normal by fan out, biases at torch's defaults, norms at 1 and 0, as there.
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import ConfigError
from .base import Backbone

Fires = tuple[tuple[int, int] | None, ...]

STEMS = {"1.1": (64, 3), "1.0": (96, 7)}
"""version -> channels and kernel of the first convolution."""

FIRES: dict[str, Fires] = {
    "1.1": ((16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), None, (64, 256), (64, 256)),
    "1.0": ((16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), None, (64, 256)),
}
"""version -> squeezed width and width of either branch of every Fire after the first pool; None is a further pool."""


class SqueezeNet(Backbone):
    """The network up to its last map, [B, 512, T/16, H/32, W/32], each size rounded up; any clip is taken.

    Args:
        version: "1.1", the benchmark's, or "1.0", whose wider stem and later pools cost six times as much. A number
            will do: `--set backbone.version=1.0` arrives as one.
        input: see `Backbone`.

    Raises ConfigError where the version is neither.
    """

    feature_dim = 512
    stride = (16, 32, 32)
    origin = "Iandola et al., arXiv 2016; okankop/Efficient-3DCNNs"
    variants = ({"version": "1.0"},)
    public_input = "efficient3d"

    def __init__(self, version: str | float = "1.1", input: str = "unit") -> None:
        super().__init__(input)
        version = str(version)
        if version not in FIRES:
            raise ConfigError(f"squeezenet: version={version!r} is not one of {', '.join(FIRES)}.")
        channels, kernel = STEMS[version]
        layers: list[nn.Module] = [
            nn.Conv3d(3, channels, kernel, stride=(1, 2, 2), padding=kernel // 2),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, stride=2, padding=1),
        ]
        taps = [2, 3]
        for widths in FIRES[version]:
            if widths is None:
                layers.append(nn.MaxPool3d(3, stride=2, padding=1))
                continue
            squeezed, branch = widths
            taps.append(len(layers))
            layers.append(Fire(channels, squeezed, branch))
            channels = 2 * branch
        self.features = nn.Sequential(*layers)
        self.taps = tuple(f"features.{number}" for number in taps)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.features(x_BCTHW)


class Fire(nn.Module):
    """1x1x1 to `squeezed`, then 1x1x1 and 3x3x3 side by side to `branch` channels each, concatenated.

    The input is added (a bypass) where it has as many channels as come out.
    """

    def __init__(self, channels_in: int, squeezed: int, branch: int) -> None:
        super().__init__()
        self.use_bypass = channels_in == 2 * branch
        self.squeeze = nn.Conv3d(channels_in, squeezed, 1)
        self.squeeze_bn = nn.BatchNorm3d(squeezed)
        self.expand1x1 = nn.Conv3d(squeezed, branch, 1)
        self.expand1x1_bn = nn.BatchNorm3d(branch)
        self.expand3x3 = nn.Conv3d(squeezed, branch, 3, padding=1)
        self.expand3x3_bn = nn.BatchNorm3d(branch)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        squeezed = self.relu(self.squeeze_bn(self.squeeze(x_BCTHW)))
        narrow = self.expand1x1_bn(self.expand1x1(squeezed))
        wide = self.expand3x3_bn(self.expand3x3(squeezed))
        out = torch.cat([narrow, wide], 1)
        return self.relu(out + x_BCTHW if self.use_bypass else out)
