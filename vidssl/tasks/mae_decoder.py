"""From what is seen of a clip to the pixels of its hidden tubelets: one way for tokens, one for feature maps.

`TokenReconstructor` is VideoMAE (Tong, Song, Wang, Wang, NeurIPS 2022; MCG-NJU/VideoMAE:modeling_pretrain.py) under its
own key names, the encoder being the task's backbone. It never shows hidden tokens to the encoder, which is then cheap.

A network of convolutions or shifted windows cannot leave places out. `MapReconstructor` is our reading of how the
benchmark trained one: it gives no details. Hidden tubelets are painted over with a learned tubelet, the whole clip goes
through the backbone, and its map is decoded linearly, so that what a cell needs to know must stand in the map. The
painted regions are visible to convolutions and batch norm; how much that costs is not known to us.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..backbones.base import INPUTS, Backbone
from ..backbones.vit import TUBELET, Block, ViT, initialise, sin_cos_positions
from ..transforms.masking import pick, to_pixels

TUBELET_VALUES = 3 * math.prod(TUBELET)

HEAD_WIDTH = 64
"""Channels of one head of attention, in encoder and decoder of every size."""


class TokenReconstructor(nn.Module):
    """Encodes the tokens that are seen and decodes those that are hidden.

    Args:
        feature_dim: of the encoder.
        width: of the decoder, a multiple of 64.
        blocks: of the decoder.
    """

    def __init__(self, feature_dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.encoder_to_decoder = nn.Linear(feature_dim, width, bias=False)
        self.mask_token = nn.Parameter(_small_normal(1, 1, width))
        self.decoder = TokenDecoder(width, blocks)

    def forward(self, backbone: ViT, views: dict[str, torch.Tensor]) -> torch.Tensor:
        """What hidden tubelets hold, [B, M, 1536], in the order of `hidden_BM`.

        Args:
            views: of the task: clip_BCTHW in 0 to 1, visible_BV (cells that the encoder sees), hidden_BM (all others).
        """
        visible_BV, hidden_BM = views["visible_BV"], views["hidden_BM"]
        tokens_BND = backbone.embed(backbone.scaled(views["clip_BCTHW"]))
        seen_BVD = self.encoder_to_decoder(backbone.encode(pick(tokens_BND, visible_BV)))
        positions_ND = sin_cos_positions(tokens_BND.shape[1], self.mask_token.shape[2], tokens_BND.device)
        positions_ND = positions_ND.to(self.mask_token.dtype)
        # hidden ones come last, wherever in the clip they lie: a token knows its place by its position alone
        all_BND = torch.cat([seen_BVD + positions_ND[visible_BV], self.mask_token + positions_ND[hidden_BM]], dim=1)
        return self.decoder(all_BND, hidden_BM.shape[1])


class TokenDecoder(nn.Module):
    """Blocks of attention over all tokens, then the pixels of the last ones."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, width // HEAD_WIDTH) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, TUBELET_VALUES)
        initialise(self, nn.init.xavier_uniform_)

    def forward(self, tokens_BND: torch.Tensor, hidden: int) -> torch.Tensor:
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return self.head(self.norm(tokens_BND[:, -hidden:]))


class MapReconstructor(nn.Module):
    """Decodes the map of any backbone.

    A transposed convolution divides each step of the map into the cells that it covers: 4 in time for a stride of
    (8, 16, 16), 8 in time and 2x2 in the picture for (16, 32, 32). What a map that was rounded up has too much is cut
    off; one that still is of another size than the grid is resized (trilinear). A linear layer (a 1x1x1 convolution,
    computed for hidden cells only) gives the pixels.

    Args:
        feature_dim, stride: of the backbone.
        width: channels after the transposed convolution; where none is needed the map keeps its own.
    """

    def __init__(self, feature_dim: int, stride: tuple[int, int, int], width: int) -> None:
        super().__init__()
        cells = max(1, stride[0] // TUBELET[0]), max(1, stride[1] // TUBELET[1]), max(1, stride[2] // TUBELET[2])
        self.up: nn.Module = nn.Identity()
        if cells != (1, 1, 1):
            # resizing instead would leave neighbours in the grid with mixtures of the same few vectors
            self.up = nn.ConvTranspose3d(feature_dim, width, cells, stride=cells)
            feature_dim = width
        self.head = nn.Linear(feature_dim, TUBELET_VALUES)
        grey = torch.tensor(INPUTS["imagenet"][0]).view(1, 3, 1, 1, 1)  # the mean of photographs: no edge to begin with
        self.mask_token = nn.Parameter(grey + _small_normal(1, 3, *TUBELET))

    def forward(self, backbone: Backbone, views: dict[str, torch.Tensor]) -> torch.Tensor:
        """See `TokenReconstructor.forward`; here all cells that are not hidden are seen."""
        clip_BCTHW, hidden_BM = views["clip_BCTHW"], views["hidden_BM"]
        slots, rows, columns = (size // step for size, step in zip(clip_BCTHW.shape[2:], TUBELET, strict=True))
        grid = (slots, rows, columns)
        painted = torch.where(to_pixels(hidden_BM, grid, TUBELET), self.mask_token.repeat(1, 1, *grid), clip_BCTHW)
        x = self.up(backbone(painted))[:, :, :slots, :rows, :columns]
        if x.shape[2:] != grid:
            x = F.interpolate(x, grid, mode="trilinear", align_corners=False)
        return self.head(pick(x.flatten(2).transpose(1, 2), hidden_BM))


def _small_normal(*shape: int) -> torch.Tensor:
    return nn.init.trunc_normal_(torch.empty(*shape), std=0.02, a=-0.02, b=0.02)
