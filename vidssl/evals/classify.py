"""Fine-tuning as a task: one clip at a random place, a linear classifier on the pooled map.

The benchmark fine-tunes with resize and centre crop for every method (arXiv 2306.06010, supplementary 2.3); stride 1
and no input statistics follow its lineage (VCOP, PRP). Works of that lineage crop at random; see `protocols`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..backbones.base import Backbone
from ..data.plan import choose
from ..data.sampling import extend
from ..errors import ConfigError, unknown_name
from ..tasks.base import ClipSpec, Draw, Request, Task
from ..transforms.geometry import centre_clip
from ..transforms.views import ViewArgs, ViewAugmentation

CROPS: dict[str, ViewArgs | None] = {
    "centre": None,
    "random": ViewArgs(rotation_degrees=0.0, jitter=(0.0,) * 4),
    "resized": ViewArgs(geometry="resized", area=(0.25, 1.0), aspect=(3 / 4, 4 / 3), jitter=(0.0,) * 4),
}
"""Area of RSPNet's fine-tuning; shapes are torchvision's."""


@dataclass(frozen=True)
class ClassifyArgs:
    """Settings of a classifier of clips.

    Args:
        num_classes: of the target.
        stride: frames from one frame of a clip to the next.
        crop: a name of `CROPS`.
        flip: probability of mirroring.
    """

    num_classes: int = 2
    stride: int = 1
    crop: str = "centre"
    flip: float = 0.0

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise unknown_name("crop of the fine-tuning", self.crop, CROPS)
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"eval.flip={self.flip} is no probability; legal: 0 to 1.")
        if self.crop == "centre" and self.flip:
            raise ConfigError(
                f"eval.flip={self.flip} goes with eval.crop=random or resized; the centre crop is taken as it is."
            )


class Classify(Task):
    """Supervised classification of clips; labels come with the samples."""

    name = "finetune"
    Args = ClassifyArgs

    def __init__(self, backbone: Backbone, clip: ClipSpec, args: ClassifyArgs) -> None:
        super().__init__(backbone, clip)
        self.args = args
        self.classifier = nn.Linear(backbone.feature_dim, args.num_classes)
        view = CROPS[args.crop]
        self.augmentation = ViewAugmentation(replace(view, flip=args.flip), clip.size) if view else None

    def request(self) -> Request:
        length = (self.clip.frames - 1) * self.args.stride + 1
        uniforms = 1 + (self.augmentation.num_uniforms if self.augmentation else 0)
        return Request(num_frames=self.clip.frames, num_uniforms=uniforms, min_frames=length)

    def draw(self, uniforms_NU: np.ndarray, video_frames_N: np.ndarray) -> Draw:
        length = self.request().min_frames
        room = np.maximum(video_frames_N - length, 0)
        start = choose(uniforms_NU[:, 0], room + 1)
        indices = start[:, None] + np.arange(self.clip.frames) * self.args.stride
        params = self.augmentation.draw(uniforms_NU[:, 1:]) if self.augmentation else {}
        return Draw(extend(indices, video_frames_N, "loop"), params, extended=video_frames_N < length)

    def views(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.augmentation:
            clip_BCTHW = self.augmentation.apply(frames_BTHWC, params)
        else:
            clip_BCTHW = centre_clip(frames_BTHWC, self.clip.size)
        return {"clip_BCTHW": clip_BCTHW, "label_B": params["label"]}

    def logits(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone.pooled(x_BCTHW))

    def probabilities(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """float [B, classes]"""
        return self.logits(x_BCTHW).float().softmax(dim=1)

    def forward(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        logits_BK = self.logits(views["clip_BCTHW"])
        return {
            "loss": F.cross_entropy(logits_BK, views["label_B"]),
            "accuracy": (logits_BK.argmax(dim=1) == views["label_B"]).float(),
        }

    def chance(self) -> float:
        return 1 / self.args.num_classes
