"""V-MAE, masked autoencoding of video: Tong, Song, Wang, Wang, "VideoMAE: Masked Autoencoders are Data-Efficient
Learners for Self-Supervised Video Pre-Training", NeurIPS 2022 (MCG-NJU/VideoMAE).

Most tubelets of 2x16x16 pixels are hidden, the same places in all frames, and the network rebuilds them from the rest.
A clip of 16 frames of 112 px has 8x7x7 tubelets; at a ratio of 0.9, 44 of the 49 places are hidden and 40 tubelets
seen. The target is each hidden tubelet's pixels, per channel with mean 0 and deviation 1; the loss is the mean squared
error. On a `ViT` this is VideoMAE to the last weight, on all others our reading (`mae_decoder`).

The metric, one value a sample, is `explained`: how much of the variation within hidden tubelets is explained, that is
1 - (mean squared error) / (mean square of the target, less each tubelet's mean per channel). Naming every tubelet's
mean colour scores 0, the chance level; rebuilding every pixel scores 1. No sample counts less than -1, lest a clip of
still, even pictures, in which there is nothing to explain, drown the others.

What differs from the original, and why:
- The benchmark lists the augmentation of its other tasks and none for this one. `recipe="paper"` has what those share
  (rotation, crop, colour, flip), input and target alike; `recipe="original"` has the original's crop of several scales
  and shapes alone. The mask and the step of 4 frames are the original's in both.
- The window is as long as what is shown of it, (T - 1) * stride + 1 frames, 61 where the original asks for 64. In a
  shorter video time runs back from its end ("reflect"); the original repeats a late frame, and stills are easily
  rebuilt.
- Clips are of the benchmark's 112 px, the original's of 224, which has 8x14x14 tubelets.
- Pixels are scaled as the backbone's `input` says; the original has ImageNet's mean and deviation (`input="imagenet"`).
- Weight decay spares what it spares in the original (one-dimensional weights, the mask token), on every backbone; the
  learning rate falls to 0, not to a fifteenth of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ..backbones.base import Backbone
from ..backbones.vit import TUBELET, ViT
from ..data.plan import choose
from ..data.sampling import SHORT_POLICIES, extend
from ..errors import ConfigError, unknown_name
from ..transforms.augment import AugmentationArgs, SharedAugmentation
from ..transforms.masking import Size3, cut, join, num_hidden, over_time, pick, to_pixels, tube_places
from ..transforms.multiscale import MultiScaleCrop
from .base import ClipSpec, Draw, Request, Task
from .mae_decoder import HEAD_WIDTH, MapReconstructor, TokenReconstructor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES = ("paper", "original")

_MAP_WIDTH = 512  # channels of R(2+1)D's last map, the network that the benchmark trained


@dataclass(frozen=True)
class VMAEArgs(AugmentationArgs):
    """Settings of V-MAE, and of the augmentation where the recipe is "paper".

    Args:
        mask_ratio: share of the places that are hidden, rounded down. The original has 0.9, and 0.75 on UCF101.
        stride: frames from one frame of the clip to the next.
        normalise_target: whether each tubelet is brought to mean 0 and deviation 1, channel by channel.
        decoder_width: multiplies the decoder's channels: on a ViT half its own, rounded to heads of 64; elsewhere 512.
        decoder_blocks: of a ViT's decoder. The original has 4, and 12 for its large network.
        recipe: "paper" (the benchmark's shared augmentation) or "original" (crop of several scales and shapes).
        short_videos: "reflect", "loop", "clamp" or "skip".
    """

    mask_ratio: float = 0.9
    stride: int = 4
    normalise_target: bool = True
    decoder_width: float = 1.0
    decoder_blocks: int = 4
    recipe: str = "paper"
    short_videos: str = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"vmae: mask_ratio={self.mask_ratio} is not between 0 and 1; the original has 0.9.")
        if self.stride < 1:
            raise ConfigError(f"vmae: stride={self.stride} is no step; legal: 1 and more, the original has 4.")
        if not 0 < self.decoder_width <= 4:
            raise ConfigError(f"vmae: decoder_width={self.decoder_width} is outside 0 to 4; 1.0 is the original's.")
        if self.decoder_blocks < 1:
            raise ConfigError(f"vmae: decoder_blocks={self.decoder_blocks}; legal: 1 and more, the original has 4.")
        if self.recipe not in RECIPES:
            raise unknown_name("recipe of vmae", self.recipe, RECIPES)
        if self.short_videos not in SHORT_POLICIES:
            raise unknown_name("policy for short videos", self.short_videos, SHORT_POLICIES)


class VMAE(Task):
    """What do the hidden tubelets hold?

    `views` gives clip_BCTHW (whole, in 0 to 1), visible_BV and hidden_BM (cells of the grid of tubelets, numbered
    fastest along W, then H, then T), and target_BMP, P = 1536 values a tubelet in the order t, h, w, c.
    """

    name = "vmae"
    Args: ClassVar[type] = VMAEArgs
    metric = "explained"
    group = "ST"
    paper = "Tong, Song, Wang, Wang, NeurIPS 2022"
    # The original states its rate for 256 clips and trains with 1024 or 2048 of them; of 800 epochs 40 are warm-up.
    recipe: ClassVar[dict[str, Any]] = {
        "pretrain.optimizer": "adamw",
        "pretrain.lr": 1.5e-4,
        "pretrain.weight_decay": 0.05,
        "pretrain.batch": 256,
        "pretrain.schedule": "cosine",
        "pretrain.warmup_epochs": 10.0,
    }

    def __init__(self, backbone: Backbone, clip: ClipSpec, args: VMAEArgs | None = None) -> None:
        super().__init__(backbone, clip)
        self.args = args or VMAEArgs()
        self.grid = _grid(clip, self.args.mask_ratio)
        self.places = self.grid[1] * self.grid[2]
        self.labels = (
            f"{self.grid[0] * num_hidden(self.places, self.args.mask_ratio)} of {self.grid[0] * self.places} tubelets "
            "to rebuild"
        )
        self.augmentation: SharedAugmentation | MultiScaleCrop
        if self.args.recipe == "original":
            self.augmentation = MultiScaleCrop(clip.size)
        else:
            self.augmentation = SharedAugmentation(self.args, clip.size)
        self.reconstructor: TokenReconstructor | MapReconstructor
        if isinstance(backbone, ViT):
            heads = max(1, round(backbone.feature_dim / 2 * self.args.decoder_width / HEAD_WIDTH))
            self.reconstructor = TokenReconstructor(backbone.feature_dim, heads * HEAD_WIDTH, self.args.decoder_blocks)
        else:
            width = max(8, round(_MAP_WIDTH * self.args.decoder_width / 8) * 8)
            self.reconstructor = MapReconstructor(backbone.feature_dim, backbone.stride, width)

    def request(self) -> Request:
        return Request(
            num_frames=self.clip.frames,
            num_uniforms=1 + SharedAugmentation.num_uniforms + self.places,  # as many whatever the recipe
            min_frames=(self.clip.frames - 1) * self.args.stride + 1,
        )

    def draw(self, uniforms_NU: np.ndarray, video_frames_N: np.ndarray) -> Draw:
        """`visible` and `hidden`, int64 [N, ...]: places of the picture, the same in all time slots."""
        length = np.asarray(video_frames_N, np.int64)
        window = self.request().min_frames
        start = choose(uniforms_NU[:, 0], np.maximum(length - window, 0) + 1)
        positions = start[:, None] + np.arange(self.clip.frames) * self.args.stride
        visible, hidden = tube_places(uniforms_NU[:, -self.places :], self.args.mask_ratio)
        params = {"visible": visible, "hidden": hidden, **self.augmentation.draw(uniforms_NU[:, 1 : -self.places])}
        return Draw(extend(positions, length, self.args.short_videos), params, extended=length < window)

    def views(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        clip = self.augmentation.apply(frames_BTHWC, params)
        hidden = over_time(params["hidden"], self.grid)
        target = pick(cut(clip, TUBELET), hidden)
        return {
            "clip_BCTHW": clip,
            "visible_BV": over_time(params["visible"], self.grid),
            "hidden_BM": hidden,
            "target_BMP": normalised(target) if self.args.normalise_target else target,
        }

    def forward(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rebuilt = self.reconstructor(self.backbone, views)
        target = views["target_BMP"]
        error_B = (rebuilt.float() - target).square().mean((1, 2))
        variation_B = target.unflatten(2, (-1, 3)).var(2, correction=0).mean((1, 2))
        explained = 1 - error_B.detach() / variation_B.clamp_min(1e-12)
        return {"loss": error_B.mean(), "explained": explained.clamp_min(-1)}

    def chance(self) -> float:
        """Of `explained`: what the mean colour of every tubelet scores."""
        return 0.0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Matrices and kernels; then what is not decayed. AdamW's second moments average over 20 steps, not 1000."""
        trained = [p for p in self.parameters() if p.requires_grad]
        spared = [p for p in trained if p.dim() == 1 or p is self.reconstructor.mask_token]
        decayed = [p for p in trained if all(p is not other for other in spared)]
        common = {"lr_scale": 1.0, "betas": (0.9, 0.95)}
        return [{"params": decayed, **common}, {"params": spared, "weight_decay": 0.0, **common}]

    def picture(self, views: dict[str, torch.Tensor], names: list[str], frame_indices_NT: np.ndarray) -> Figure:
        """A figure of what the network sees; see `vidssl.report.preview`."""
        from ..report.clip_sheet import SheetRow, SheetSample, clip_sheet

        clip, cells = views["clip_BCTHW"], views["hidden_BM"]
        hidden = to_pixels(cells, self.grid, TUBELET)
        # three deviations either way fill the range from black to white
        target = views["target_BMP"] / 6 + 0.5 if self.args.normalise_target else views["target_BMP"]
        blank = torch.ones(len(clip), self.places * self.grid[0], target.shape[2])
        target = blank.scatter(1, cells[:, :, None].expand_as(target), target)
        parts = {
            "seen": torch.where(hidden, 0.5, clip),
            "to rebuild": join(target, self.grid, TUBELET),
            "whole clip": clip,
        }
        samples = []
        for b, (name, indices) in enumerate(zip(names, frame_indices_NT, strict=True)):
            numbers = [[str(index) for index in indices], [], []]
            rows = [
                SheetRow(label, part[b].permute(1, 2, 3, 0).numpy(), titles)
                for (label, part), titles in zip(parts.items(), numbers, strict=True)
            ]
            samples.append(SheetSample(name, rows))
        share = f"{cells.shape[1] // self.grid[0]} of {self.places} places"
        return clip_sheet(
            f"V-MAE: rebuild what is hidden ({share}, tubelets of {'x'.join(map(str, TUBELET))})",
            "grey: hidden    white: not asked for    to rebuild: as the loss sees it, each tubelet on its own scale    "
            "numbers: frames of the video",
            samples,
        )


def normalised(tubelets_BMP: torch.Tensor) -> torch.Tensor:
    """Each tubelet's channels less their mean, divided by their deviation (unbiased) + 1e-6; P counts (t, h, w, c)."""
    x = tubelets_BMP.unflatten(2, (-1, 3))
    variance, mean = torch.var_mean(x, dim=2, keepdim=True)
    return ((x - mean) / (variance.sqrt() + 1e-6)).flatten(2)


def _grid(clip: ClipSpec, mask_ratio: float) -> Size3:
    frames, side = TUBELET[0], TUBELET[1]
    if clip.frames % frames or clip.size % side or clip.frames < frames or clip.size < side:
        raise ConfigError(
            f"vmae: a clip of {clip.frames} frames of {clip.size} px cannot be cut into tubelets of 2x16x16; legal: "
            f"multiples of {frames} frames (--set data.frames=...) and of {side} px (--set data.size=...)."
        )
    rows = clip.size // side
    hidden = num_hidden(rows * rows, mask_ratio)
    if not 0 < hidden < rows * rows:
        raise ConfigError(
            f"vmae: mask_ratio={mask_ratio} hides {hidden} of the {rows * rows} places of a picture of {clip.size} px; "
            "at least one must be hidden and one seen. Take another ratio or a larger --set data.size."
        )
    return clip.frames // frames, rows, rows
