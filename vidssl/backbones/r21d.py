"""R(2+1)D: R3D with every convolution factored into one over space and one over time.

Tran, Wang, Torresani, Ray, LeCun, Paluri, "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR
2018, as xudejing/video-clip-order-prediction:models/r21d.py builds it (Xu et al., CVPR 2019) and yuanyao366/PRP and
PeihaoChen/RSPNet (`r2plus1d-vcop`) copy it. Weights of all three load here; the key names are theirs.

This is not torchvision's `r2plus1d_18` at any number of blocks, and weights do not convert: here every convolution has
the middle width of its own channels (torchvision: one width for both convolutions of a block), the stem's is 83 (there
45), and the convolution on a shortcut is factored too, with a norm and a ReLU in its middle (there it is plain).

Against VCOP's code only the classifier and the mean over the map are left out. Weights start at torch's defaults, as
there.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .r3d import ResidualNet, Size


class R2Plus1D(ResidualNet):
    """The residual network of factored convolutions; map and clip sizes as `ResidualNet`.

    Args:
        blocks: residual blocks per stage, 1 or more. 1 is the benchmark's, VCOP's, PRP's and RSPNet's.
        input: see `Backbone`.

    Raises ConfigError where `blocks` is not a whole number above 0.
    """

    origin = "Tran et al., CVPR 2018; xudejing/video-clip-order-prediction"

    def __init__(self, blocks: int = 1, input: str = "unit") -> None:
        super().__init__(factored_conv, blocks, input)


def factored_conv(channels_in: int, channels_out: int, kernel: Size, stride: Size) -> nn.Module:
    """1 x H x W to the middle width, norm, ReLU, T x 1 x 1; each half strides and pads along its own axes."""
    time, height, width = kernel
    middle = middle_width(channels_in, channels_out, kernel)
    spatial_conv = nn.Conv3d(
        channels_in,
        middle,
        (1, height, width),
        stride=(1, *stride[1:]),
        padding=(0, height // 2, width // 2),
        bias=False,
    )
    temporal_conv = nn.Conv3d(
        middle, channels_out, (time, 1, 1), stride=(stride[0], 1, 1), padding=(time // 2, 0, 0), bias=False
    )
    parts = OrderedDict(
        spatial_conv=spatial_conv, bn=nn.BatchNorm3d(middle), relu=nn.ReLU(inplace=True), temporal_conv=temporal_conv
    )
    return nn.Sequential(parts)


def middle_width(channels_in: int, channels_out: int, kernel: Size) -> int:
    """The width with which both halves hold as many weights as the full convolution, rounded down (section 3.5)."""
    time, height, width = kernel
    area = height * width
    return time * area * channels_in * channels_out // (area * channels_in + time * channels_out)
