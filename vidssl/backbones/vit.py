"""The plain vision transformer on tubelets: VideoMAE's encoder.

Tong, Song, Wang, Wang, "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
Pre-Training", NeurIPS 2022 (MCG-NJU/VideoMAE:modeling_pretrain.py and modeling_finetune.py), whose weights load here
under their own key names. Their pre-training encoder and their fine-tuned network are one network but for the last
layer norm and the initialisation; `norm` chooses between them.

Habits of it that are kept: layer norms have eps 1e-6; queries and values have a bias, keys have none; there is no class
token; positions are not learnt and not in the state dict.

What differs: the classifier is left out, a clip of any grid is taken (the original is built for one size), and
positions keep their float32 precision under autocast (the original rounds them to the type of the tokens).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from ..errors import ConfigError, unknown_name
from .base import Backbone

SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""size -> width, blocks, heads."""

NORMS = ("tokens", "mean")

TUBELET = (2, 16, 16)
"""Frames and pixels of one token."""


class ViT(Backbone):
    """Tokens of 2x16x16 pixels through blocks of attention; the map is [B, feature_dim, T/2, H/16, W/16].

    Args:
        size: "small" (384 features), "base" (768) or "large" (1024).
        drop_path: how often a residual branch is left out of a training sample in the last block, rising linearly from
            0 in the first. VideoMAE pre-trains with 0 and fine-tunes small to large with 0.1 (UCF101: 0.2).
        norm: "tokens" normalises every token (`norm`) before anything is pooled and starts from Xavier's uniform
            weights, as VideoMAE pre-trains; "mean" normalises the mean of the tokens (`fc_norm`) and starts from
            truncated normal weights, as VideoMAE fine-tunes. With "mean" the map is not normalised, `pooled` is.
        input: see `Backbone`.

    Raises ConfigError on another size or norm, or a rate out of its range.
    """

    stride = TUBELET
    origin = "Tong et al., NeurIPS 2022; MCG-NJU/VideoMAE"
    variants = ({"size": "small"}, {"size": "large"}, {"norm": "mean"}, {"size": "small", "norm": "mean"})
    smallest = TUBELET
    multiple = TUBELET
    public_input = "imagenet"

    def __init__(self, size: str = "base", drop_path: float = 0.0, norm: str = "tokens", input: str = "unit") -> None:
        super().__init__(input)
        if size not in SIZES:
            raise unknown_name("size of vit", size, SIZES)
        if norm not in NORMS:
            raise unknown_name("norm of vit", norm, NORMS)
        width, depth, heads = SIZES[size]
        self.feature_dim = width
        self.patch_embed = PatchEmbed(width)
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in drop_path_rates(drop_path, depth))
        self.norm = nn.LayerNorm(width, eps=1e-6) if norm == "tokens" else nn.Identity()
        self.fc_norm = nn.LayerNorm(width, eps=1e-6) if norm == "mean" else nn.Identity()
        self.taps = ("patch_embed", *(f"blocks.{block}" for block in range(depth)))
        initialise(self, nn.init.xavier_uniform_ if norm == "tokens" else partial(nn.init.trunc_normal_, std=0.02))

    def embed(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Tokens with their positions added, [B, N, D], of clips scaled as for `feature_map`.

        Tokens count fastest along W, then H, then T, and a position is this count in the clip's own grid: a clip of
        another size has other positions at the same place of the picture, as in VideoMAE.
        """
        self.check_clip(*x_BCTHW.shape[2:])  # masked pre-training does not come through `forward`
        tokens_BND = self.patch_embed(x_BCTHW)
        positions_ND = sin_cos_positions(tokens_BND.shape[1], self.feature_dim, tokens_BND.device)
        return tokens_BND + positions_ND.to(self.patch_embed.proj.weight.dtype)

    def encode(self, tokens_BMD: torch.Tensor) -> torch.Tensor:
        """Blocks and `norm` over any subset of a clip's tokens, [B, M, D] in and out."""
        for block in self.blocks:
            tokens_BMD = block(tokens_BMD)
        return self.norm(tokens_BMD)

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        grid = [size // step for size, step in zip(x_BCTHW.shape[2:], TUBELET, strict=True)]
        return self.encode(self.embed(x_BCTHW)).transpose(1, 2).unflatten(2, grid)

    def pooled(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """The clip's feature, float [B, D]: the mean of the tokens, normalised with `norm="mean"`."""
        return self.fc_norm(super().pooled(x_BCTHW))


class PatchEmbed(nn.Module):
    """[B, 3, T, H, W] to tokens [B, N, D] in the order T, H, W."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, TUBELET, stride=TUBELET)

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.proj(x_BCTHW).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Attention, then a perceptron of four times the width; each after a layer norm and added to its input.

    Args:
        width: D of tokens [B, M, D].
        heads: of attention.
        drop_path: how often a residual branch is left out of a training sample.
    """

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x_BMD: torch.Tensor) -> torch.Tensor:
        x_BMD = x_BMD + self.drop_path(self.attn(self.norm1(x_BMD)))
        return x_BMD + self.drop_path(self.mlp(self.norm2(x_BMD)))


class Attention(nn.Module):
    """Every token looks at every other. A bias of the keys would not change the softmax, so there is none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BMD: torch.Tensor) -> torch.Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x_BMD, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x_BMD: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x_BMD)))


def sin_cos_positions(count: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Fixed positions 0 to count - 1, float32 [count, width]: sines in the even features, cosines in the odd ones.

    The wavelengths rise from 2 pi to 10000 * 2 pi (Vaswani et al., "Attention Is All You Need", NeurIPS 2017). Angles
    are computed in float64, as VideoMAE does: in float32 those of late tokens would lose their last digits. `width`
    is even.
    """
    count_N = torch.arange(count, dtype=torch.float64, device=device)
    wave_E = 10000 ** (torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
    angle_NE = count_N[:, None] / wave_E
    return torch.stack([angle_NE.sin(), angle_NE.cos()], dim=2).flatten(1).float()


def initialise(module: nn.Module, weight_init: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Starts the linear layers of a module: weights by `weight_init`, biases at zero. What else there is keeps torch's
    own start, as in VideoMAE."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            weight_init(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def drop_path_rates(drop_path: float, blocks: int) -> list[float]:
    """Of each block, rising linearly from 0 to `drop_path`. Raises ConfigError where that is no rate below 1."""
    if not isinstance(drop_path, int | float) or isinstance(drop_path, bool) or not 0 <= drop_path < 1:
        raise ConfigError(f"drop_path={drop_path!r} is not a number from 0 to below 1; usual: 0.0 to 0.3.")
    return [drop_path * block / (blocks - 1) for block in range(blocks)]
