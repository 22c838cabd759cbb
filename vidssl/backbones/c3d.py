"""C3D with batch normalisation and a global pool.

Tran, Bourdev, Fergus, Torresani, Paluri, "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015,
in the form that self-supervised video learning uses: Xu, Xiao, Zhao, Shao, Xie, Zhuang, "Self-supervised Spatiotemporal
Learning via Video Clip Order Prediction", CVPR 2019 (xudejing/video-clip-order-prediction:models/c3d.py; the same in
PeihaoChen/RSPNet and, under other names, in yuanyao366/PRP). Weights of all three load here.

Against the paper of 2015 this form normalises after every convolution (whose bias stays, though the normalisation takes
it out again) and ends with the fifth stage's map instead of a pool and two layers of 4096. Against VCOP's code only the
classifier and the mean over the map are left out. Weights start at torch's defaults, as there.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from .base import Backbone

LAYERS = (
    ("1", 3, 64, (1, 2, 2)),
    ("2", 64, 128, (2, 2, 2)),
    ("3a", 128, 256, None),
    ("3b", 256, 256, (2, 2, 2)),
    ("4a", 256, 512, None),
    ("4b", 512, 512, (2, 2, 2)),
    ("5a", 512, 512, None),
    ("5b", 512, 512, None),
)
"""Name, channels in, channels out, and the pool (T, H, W) that follows, of every convolution."""

PRP_KEY = re.compile(r"conv(\d)(?:_(\d))?\.conv3d\.([01])\.(.+)")
"""PRP's names: stage, place in the stage where it has two, convolution or norm, tensor."""


class C3D(Backbone):
    """Eight 3x3x3 convolutions, the map [B, 512, T/8, H/16, W/16], each size rounded down.

    A clip has 8 frames and 16x16 pixels or more: four pools without padding halve it (time: three).
    """

    feature_dim = 512
    stride = (8, 16, 16)
    taps = ("pool1", "pool2", "pool3", "pool4", "relu5b")
    origin = "Tran et al., ICCV 2015; xudejing/video-clip-order-prediction"
    smallest = (8, 16, 16)

    def __init__(self, input: str = "unit") -> None:
        super().__init__(input)
        for name, channels_in, channels_out, pool in LAYERS:
            self.add_module(f"conv{name}", nn.Conv3d(channels_in, channels_out, 3, padding=1))
            self.add_module(f"bn{name}", nn.BatchNorm3d(channels_out))
            self.add_module(f"relu{name}", nn.ReLU(inplace=True))
            if pool:
                self.add_module(f"pool{name[0]}", nn.MaxPool3d(pool))

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x_BCTHW = layer(x_BCTHW)
        return x_BCTHW

    @classmethod
    def rename_public(cls, key: str) -> str:
        """PRP's `conv3_1.conv3d.0.weight` is `conv3a.weight` here, its `conv3_1.conv3d.1.weight` is `bn3a.weight`."""
        prp = PRP_KEY.fullmatch(key)
        if prp is None:
            return key
        stage, place, which, tensor = prp.groups()
        letter = {None: "", "1": "a", "2": "b"}[place]
        return f"{'conv' if which == '0' else 'bn'}{stage}{letter}.{tensor}"
