"""The 18-layer networks of Tran et al., as torchvision builds them: R3D-18, MC3-18 and R(2+1)D-18.

Tran, Wang, Torresani, Ray, LeCun, Paluri, "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR
2018; pytorch/vision:torchvision/models/video/resnet.py, whose weights load here under their own key names.

Three names that are easily taken for these, and are others:
- `r3d` and `r21d` are the benchmark's, with one block a stage (xudejing/video-clip-order-prediction);
- `r3d_18_hara` is the 3D ResNet-18 of Hara et al.: a 7x7x7 stem, then max pooling, a fifth of the multiplications;
- VCOP's R(2+1)D with two blocks a stage is not `r2plus1d_18`: its stem has 83 channels inside where this one has 45,
  it computes the middle width for each convolution where this one does once a block, and its shortcuts are factored
  too. VCOP's R3D with two blocks a stage is `r3d_18`, under other key names.

What differs from torchvision: the pooling and the classifier (`fc`) are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torchvision.models import video

from .base import Backbone


class VideoResNet18(Backbone):
    """What the three share: a stem and four stages of two basic blocks, [B, 512, T', H/16, W/16].

    The stem halves H and W only; there is no max pooling. Sizes are rounded up.

    Args:
        input: see `Backbone`.
    """

    builder: ClassVar[Callable[[], video.resnet.VideoResNet]]
    feature_dim = 512
    taps = ("stem", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)))
    public_input = "kinetics"

    def __init__(self, input: str = "unit") -> None:
        super().__init__(input)
        network = type(self).builder()
        self.stem = network.stem
        self.layer1 = network.layer1
        self.layer2 = network.layer2
        self.layer3 = network.layer3
        self.layer4 = network.layer4

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x_BCTHW)))))


class R3D18(VideoResNet18):
    """Every convolution 3x3x3; stages 2 to 4 halve T, H and W."""

    builder = staticmethod(video.r3d_18)
    stride = (8, 16, 16)
    origin = "Tran et al., CVPR 2018 (R3D-18); torchvision r3d_18"


class MC318(VideoResNet18):
    """Mixed convolutions: 3x3x3 in the first stage, 1x3x3 after it; T is never reduced."""

    builder = staticmethod(video.mc3_18)
    stride = (1, 16, 16)
    origin = "Tran et al., CVPR 2018 (MC3-18); torchvision mc3_18"


class R2Plus1D18(VideoResNet18):
    """Every 3x3x3 convolution becomes a 1x3x3 one, batch norm, ReLU and a 3x1x1 one; the former strides in space, the
    latter in time. The channels between them are as many as give the pair the weights of a 3x3x3 convolution; they are
    computed for the first pair of a block, and the second takes them over.
    """

    builder = staticmethod(video.r2plus1d_18)
    stride = (8, 16, 16)
    origin = "Tran et al., CVPR 2018 (R(2+1)D-18); torchvision r2plus1d_18"
