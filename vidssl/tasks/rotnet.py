"""RotNet for video (3DRotNet): Jing, Yang, Liu, Tian, "Self-Supervised Spatiotemporal Feature Learning via Video
Rotation Prediction", arXiv 1811.11387, 2018 (LongLong-Jing/3DRotNet `train.py`, `Video_dataloader.py`).

A clip is turned by a multiple of 90 degrees, all frames alike, and the network names the angle. All turned copies of a
clip go through the network in one batch, so that the classes are balanced in every step and nothing but the angle
tells the copies apart.

What differs from the original, and why:
- The levels of complexity are the benchmark's: 2, 3 or 4 angles. Which angles it keeps is not stated; here the first
  of 0, 90, 180, 270 degrees, counter-clockwise.
- The benchmark's augmentation has colour jitter beside the original's small rotation, crop and flip;
  `recipe="original"` leaves it out. All of it comes before the turn: a flip after it would swap 90 and 270 degrees.
- The window is as long as what is shown of it, (T - 1) * stride + 1 frames, 31 where the original asks for 32.
- Pixels are scaled as the backbone's `input` says; the original has a mean and deviation of its own.
- The original divides its learning rate by 10 every 24,000 steps of its data set; a cosine fits any number of steps.
- `copies="one"` and `dropout` are those of a later implementation (microsoft/CtP `configs/rot3d`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..backbones.base import Backbone
from ..data.plan import choose
from ..data.sampling import SHORT_POLICIES, extend
from ..errors import ConfigError, unknown_name
from ..transforms.augment import AugmentationArgs, SharedAugmentation
from ..transforms.geometry import quarter_turns
from ..transforms.time import dilate, random_start
from .base import ClipSpec, Draw, Request, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEGREES = (0, 90, 180, 270)
"""class -> angle, counter-clockwise. Complexity 1, 2, 3 has the first two, three, four."""

RECIPES = ("paper", "original")
COPIES = ("all", "one")

_ORIGINAL = AugmentationArgs(jitter=(0.0, 0.0, 0.0, 0.0))


@dataclass(frozen=True)
class RotNetArgs(AugmentationArgs):
    """Settings of RotNet, and of the augmentation where the recipe is "paper".

    Args:
        complexity: 1, 2 or 3: two, three or four angles.
        copies: "all" turned copies of each clip, or "one" at an angle that is drawn. With "all" the network sees
            `complexity` + 1 clips a sample, so that a batch of 32 is 128 clips at complexity 3.
        stride: frames from one frame of the clip to the next.
        dropout: before the classifier.
        recipe: "paper" (the benchmark's shared augmentation) or "original" (rotation by up to 10 degrees, crop, flip).
        short_videos: "reflect", "loop", "clamp" or "skip".
    """

    complexity: int = 3
    copies: str = "all"
    stride: int = 2
    dropout: float = 0.0
    recipe: str = "paper"
    short_videos: str = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.complexity not in (1, 2, 3):
            raise ConfigError(f"rotnet: complexity={self.complexity!r} is none of 1, 2, 3 (two, three or four angles).")
        if self.copies not in COPIES:
            raise unknown_name("copies of rotnet", self.copies, COPIES)
        if self.stride < 1:
            raise ConfigError(f"rotnet: stride={self.stride} is no step; legal: 1 and more, the original has 2.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"rotnet: dropout={self.dropout} is outside 0 to 1 (1 excluded); the original has none.")
        if self.recipe not in RECIPES:
            raise unknown_name("recipe of rotnet", self.recipe, RECIPES)
        if self.short_videos not in SHORT_POLICIES:
            raise unknown_name("policy for short videos", self.short_videos, SHORT_POLICIES)


class RotNet(Task):
    """By which angle.

    `views` gives clips_BVCTHW and label_BV: V turned copies of each clip, one with `copies="one"`. The accuracy of a
    sample is the mean over its copies.
    """

    name = "rotnet"
    Args: ClassVar[type] = RotNetArgs
    group = "S"
    paper = "Jing, Yang, Liu, Tian, arXiv 2018"
    recipe: ClassVar[dict[str, Any]] = {
        "pretrain.optimizer": "sgd",
        "pretrain.lr": 0.1,
        "pretrain.weight_decay": 1e-3,
        "pretrain.batch": 32,
        "pretrain.schedule": "cosine",
    }
    label_param: ClassVar[str] = "turns"
    """Drawn with `copies="one"` only; else each sample shows every label."""

    def __init__(self, backbone: Backbone, clip: ClipSpec, args: RotNetArgs | None = None) -> None:
        super().__init__(backbone, clip)
        self.args = args or RotNetArgs()
        self.num_classes = self.args.complexity + 1
        self.labels = f"{self.num_classes} angles"
        self.clips_per_sample = self.num_classes if self.args.copies == "all" else 1
        self.augmentation = SharedAugmentation(_ORIGINAL if self.args.recipe == "original" else self.args, clip.size)
        self.dropout = nn.Dropout(self.args.dropout)
        self.fc = nn.Linear(backbone.feature_dim, self.num_classes)

    def request(self) -> Request:
        return Request(
            num_frames=self.clip.frames,
            num_uniforms=2 + SharedAugmentation.num_uniforms,
            min_frames=(self.clip.frames - 1) * self.args.stride + 1,
        )

    def draw(self, uniforms_NU: np.ndarray, video_frames_N: np.ndarray) -> Draw:
        length = np.asarray(video_frames_N, np.int64)
        window = self.request().min_frames
        positions = dilate(random_start(uniforms_NU[:, 1], length, window), self.clip.frames, self.args.stride)
        params = self.augmentation.draw(uniforms_NU[:, 2:])
        if self.args.copies == "one":
            params["turns"] = choose(uniforms_NU[:, 0], self.num_classes)
        return Draw(extend(positions, length, self.args.short_videos), params, extended=length < window)

    def views(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = self.augmentation.apply(frames_BTHWC, params)
        if self.args.copies == "one":
            return {"clips_BVCTHW": quarter_turns(x, params["turns"])[:, None], "label_BV": params["turns"][:, None]}
        copies = [x.rot90(turns, (3, 4)) for turns in range(self.num_classes)]
        label = torch.arange(self.num_classes, device=x.device).expand(len(x), -1)
        return {"clips_BVCTHW": torch.stack(copies, 1), "label_BV": label}

    def forward(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        clips, label = views["clips_BVCTHW"], views["label_BV"]
        logits = self.fc(self.dropout(self.backbone.pooled(clips.flatten(0, 1)))).float()
        right = logits.argmax(1).view_as(label) == label
        return {"loss": F.cross_entropy(logits, label.flatten()), "accuracy": right.float().mean(1)}

    def chance(self) -> float:
        return 1 / self.num_classes

    def picture(self, views: dict[str, torch.Tensor], names: list[str], frame_indices_NT: np.ndarray) -> Figure:
        """A figure of what the network sees; see `vidssl.report.preview`."""
        from ..report.clip_sheet import SheetRow, SheetSample, clip_sheet

        samples = []
        for name, clips, labels, indices in zip(
            names, views["clips_BVCTHW"], views["label_BV"].tolist(), frame_indices_NT, strict=True
        ):
            numbers = [str(index) for index in indices]
            rows = [
                SheetRow(f"{DEGREES[label]} degrees\nclass {label}", clip.permute(1, 2, 3, 0).numpy(), titles)
                for label, clip, titles in zip(labels, clips, [numbers, *[[]] * (len(labels) - 1)], strict=True)
            ]
            samples.append(SheetSample(name, rows))
        return clip_sheet(
            "RotNet: by which angle was the clip turned?",
            "each row is a clip that the network sees, turned counter-clockwise    numbers: frames of the video",
            samples,
        )
