"""Video Swin Transformer, as torchvision builds it.

Liu, Ning, Cao, Wei, Zhang, Lin, Hu, "Video Swin Transformer", CVPR 2022;
pytorch/vision:torchvision/models/video/swin_transformer.py, which computes what the authors' code does
(SwinTransformer/Video-Swin-Transformer). Weights of both load here: key names are torchvision's, and `rename_public`
translates the authors'. Those for Something-Something do not fit, being of a window 16 long.

The window is (8, 7, 7) tokens of 2x4x4 pixels, clipped to the map and then not shifted. At 16x112x112 that means: no
shift in time anywhere, one window a clip in the third stage, and 4x4 of the 7x7 window in the fourth.

What differs from torchvision: the pooling and the classifier (`head`) are left out, the map is turned to
[B, D, T', H', W'], and `drop_path` defaults to the authors' rates (torchvision has 0.1 at every size).
"""

from __future__ import annotations

import re

import torch
from torchvision.models.video import swin3d_b, swin3d_s, swin3d_t

from ..errors import ConfigError, unknown_name
from .base import Backbone
from .vit import drop_path_rates

SIZES = {"tiny": (swin3d_t, 0.1), "small": (swin3d_s, 0.1), "base": (swin3d_b, 0.3)}
"""size -> torchvision's builder, and the rate of drop path in the authors' Kinetics-400 recipe from ImageNet-1K."""


class VideoSwin(Backbone):
    """The network up to its normalised last map, [B, feature_dim, T/2, H/32, W/32]; sizes are rounded up.

    Clips of any size are taken: what a patch, a window or a merging of 2x2 lacks is filled with zeros. Taps give
    [B, T', H', W', D].

    Args:
        size: "tiny" and "small" (768 features), or "base" (1024).
        drop_path: how often a residual branch is left out of a training sample in the last block, rising linearly from
            0 in the first: from 0 to below 1, or "auto" for the authors' rate, which is 0.1 for tiny and small and 0.3
            for base (they take 0.2 where base starts from ImageNet-22K).
        input: see `Backbone`.

    Raises ConfigError on another size, or a rate out of its range.
    """

    stride = (2, 32, 32)
    origin = "Liu et al., CVPR 2022; torchvision swin3d_t, swin3d_s, swin3d_b"
    variants = ({"size": "small"}, {"size": "base"})
    public_input = "imagenet"

    def __init__(self, size: str = "tiny", drop_path: float | str = "auto", input: str = "unit") -> None:
        super().__init__(input)
        if size not in SIZES:
            raise unknown_name("size of videoswin", size, SIZES)
        build, authors_rate = SIZES[size]
        if drop_path == "auto":
            drop_path = authors_rate
        elif isinstance(drop_path, str):
            raise ConfigError(f"videoswin: drop_path={drop_path!r} is neither auto nor a number from 0 to below 1.")
        network = build()
        self.patch_embed = network.patch_embed
        self.features = network.features
        self.norm = network.norm
        self.feature_dim = network.num_features

        blocks = [block for stage in self.features[::2] for block in stage]
        for block, rate in zip(blocks, drop_path_rates(drop_path, len(blocks)), strict=True):
            block.stochastic_depth.p = rate

        inner: list[str] = []
        for place, stage in enumerate(self.features):
            merging = place % 2 == 1
            inner += [f"features.{place}"] if merging else [f"features.{place}.{block}" for block in range(len(stage))]
        self.taps = ("patch_embed", *inner, "norm")

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        x_BTHWD = self.norm(self.features(self.patch_embed(x_BCTHW)))
        return x_BTHWD.permute(0, 4, 1, 2, 3)

    @classmethod
    def rename_public(cls, key: str) -> str:
        """From the authors' names to torchvision's; torchvision's pass."""
        match = re.match(r"layers\.(\d)\.(blocks\.|downsample\.)(.*)", key)
        if match is None:
            return key
        stage, kind, rest = int(match[1]), match[2], match[3]
        if kind == "downsample.":
            return f"features.{2 * stage + 1}.{rest}"
        return f"features.{2 * stage}.{rest}".replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")
