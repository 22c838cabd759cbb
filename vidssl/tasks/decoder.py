"""A convolutional decoder from a feature map back to pixels, for tasks that rebuild what was not shown.

The layers are those of PRP's generative branch (Yao et al., CVPR 2020; yuanyao366/PRP `models/sscn.py`); what differs
is that the number of doublings in time, height and width follows the backbone's stride, and that on a CPU the last,
largest stages are computed in one step (`double_and_convolve`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ConfigError


class ConvBlock(nn.Sequential):
    """3x3x3 convolution (with bias, as in the original), batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(SameConv3d(channels_in, channels_out), nn.BatchNorm3d(channels_out), nn.ReLU(inplace=True))


class SameConv3d(nn.Conv3d):
    """nn.Conv3d(channels_in, channels_out, 3, padding=1) that skips the taps which see only padding."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] == 1:  # the light backbones' maps have one step in time: a third of the work gives the same
            return F.conv3d(x, self.weight[:, :, 1:2], self.bias, padding=(0, 1, 1))
        return super().forward(x)


class Decoder(nn.Module):
    """From a map [B, channels, T', H', W'] to pixels [B, 3, *output].

    Each stage doubles by a transposed convolution and halves the channels by a `ConvBlock`; the last stage ends in
    three channels. The final ReLU keeps pixels at 0 or more. A map that was rounded up (112 / 32 = 4) is cut after
    each doubling to what the output needs; one that was rounded down (S3D's 3) is first stretched.

    Args:
        channels: of the map.
        stride: of the backbone, (T, H, W), powers of two.
        output: (T, H, W) to make. frames: T of the clip that the map was made of.
    """

    def __init__(self, channels: int, stride: tuple[int, int, int], output: tuple[int, int, int], frames: int) -> None:
        super().__init__()
        factors = (stride[0] * output[0] // frames, stride[1], stride[2])
        doublings = [f.bit_length() - 1 for f in factors]
        if any(f != 1 << n for f, n in zip(factors, doublings, strict=True)):
            raise ConfigError(
                f"prp: the decoder doubles, and a backbone stride of {stride} is not made of powers of two."
            )
        stages = max(doublings)
        self.least = tuple(-(-o // f) for o, f in zip(output, (1 << n for n in doublings), strict=True))
        self.up = nn.ModuleList()
        self.block = nn.ModuleList()
        self.sizes: list[tuple[int, ...]] = []
        for left in reversed(range(stages)):
            # an axis that needs fewer doublings than there are stages has them last, where the maps before stay small
            factor = (1 + (left < doublings[0]), 1 + (left < doublings[1]), 1 + (left < doublings[2]))
            self.up.append(nn.ConvTranspose3d(channels, channels, factor, stride=factor))
            narrower = max(channels // 2, 1) if left else 3
            self.block.append(ConvBlock(channels, narrower))
            channels = narrower
            self.sizes.append(tuple(-(-o // (1 << min(left, n))) for o, n in zip(output, doublings, strict=True)))

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        x = x_BCTHW
        if any(there < least for there, least in zip(x.shape[2:], self.least, strict=True)):
            size = [max(pair) for pair in zip(x.shape[2:], self.least, strict=True)]
            x = F.interpolate(x, size, mode="trilinear", align_corners=False)
        for up, block, (frames, height, width) in zip(self.up, self.block, self.sizes, strict=True):
            assert isinstance(up, nn.ConvTranspose3d)
            assert isinstance(block, ConvBlock)
            conv, norm, relu = block[0], block[1], block[2]
            assert isinstance(conv, nn.Conv3d)
            doubled = tuple(2 * n for n in x.shape[2:]) == (frames, height, width)
            if x.device.type == "cpu" and doubled and x[:, 0].numel() > 4 * up.in_channels:
                x = relu(norm(double_and_convolve(x, up, conv)))  # few cells would not repay the work on the kernels
            else:
                x = block(up(x)[:, :, :frames, :height, :width])
        return x


def double_and_convolve(x: torch.Tensor, up: nn.ConvTranspose3d, conv: nn.Conv3d) -> torch.Tensor:
    """conv(up(x)) for a transposed convolution k2 s2 and a 3x3x3 convolution with padding 1, without the map between.

    Nothing nonlinear stands between the two, so a pixel is a linear function of the 2x2x2 cells of x around it, one
    function for each of the 8 places that a pixel can have towards them. All 8 are one 2x2x2 convolution over x with
    8 times the channels, whose outputs ("corners", one more than cells along each axis) are then laid out as pixels.
    The sums are the same; there are 3.6 times fewer products, the widest map of the network is never stored, and oneDNN
    meets 24 channels instead of 3.
    """
    assert up.bias is not None
    assert conv.bias is not None
    out_channels, cells = conv.out_channels, x.shape[2:]
    # The transposed convolution's bias counts inside the picture only: it rides along as a channel of ones.
    kernel_up = torch.cat([up.weight, up.bias.view(1, -1, 1, 1, 1).expand(1, -1, 2, 2, 2)])
    pairs = conv.weight.flatten(2).transpose(1, 2).flatten(0, 1) @ kernel_up.flatten(2).transpose(0, 1).flatten(1)
    pairs = pairs.view(out_channels, 3, 3, 3, len(kernel_up), 2, 2, 2)
    place = _places(x.device, pairs.dtype)
    kernel = torch.einsum("oxyzcuvw,gdxu,heyv,ifzw->ghiocdef", pairs, place, place, place).flatten(0, 3)
    corners = F.conv3d(x, kernel[:, :-1], padding=1)
    edges = F.conv3d(torch.ones(1, 1, 3, 3, 3, dtype=kernel.dtype, device=x.device), kernel[:, -1:], padding=1)
    for axis, count in enumerate(cells, 2):  # outside left, inside, outside right
        first, inside, last = edges.narrow(axis, 0, 1), edges.narrow(axis, 1, 1), edges.narrow(axis, 3, 1)
        edges = torch.cat([first, inside.expand(*(count - 1 if a == axis else -1 for a in range(5))), last], axis)
    corners = corners + (edges + conv.bias.repeat(8).view(1, -1, 1, 1, 1)).to(corners.dtype)
    pixels = corners.permute(0, 2, 3, 4, 1).unflatten(-1, (2, 2, 2, out_channels)).permute(0, 1, 4, 2, 5, 3, 6, 7)
    pixels = pixels.flatten(5, 6).flatten(3, 4).flatten(1, 2)
    return pixels[:, 1:-1, 1:-1, 1:-1].permute(0, 4, 1, 2, 3)


def _places(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """[2, 2, 3, 2], along one axis: whether the pixel at place g of a corner reaches the half u of cell d by tap x.

    Corner j lies between cells j - 1 (d = 0) and j (d = 1); its pixels are 2 j - 1 (g = 0) and 2 j (g = 1).
    """
    g, d, x, u = torch.meshgrid(*(torch.arange(n, device=device) for n in (2, 2, 3, 2)), indexing="ij")
    return ((d == (g + x) // 2) & (u == (g + x) % 2)).to(dtype)
