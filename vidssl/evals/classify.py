"""Fine-tuning as a task: one clip at a random place, centre crop, a linear classifier on the pooled map.

The benchmark fine-tunes with resize and centre crop for every method (arXiv 2306.06010, supplementary 2.3); stride 1
and no input statistics follow its lineage (VCOP, PRP). Test: evenly spaced clips, mean softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..backbones.base import Backbone
from ..data.plan import choose
from ..data.sampling import extend
from ..tasks.base import ClipSpec, Draw, Request, Task
from ..transforms.geometry import centre_clip


class Classify(Task):
    """Supervised classification of clips; labels come with the samples."""

    name = "finetune"

    @dataclass(frozen=True)
    class Args:
        num_classes: int = 2

    def __init__(self, backbone: Backbone, clip: ClipSpec, args: Args) -> None:
        super().__init__(backbone, clip)
        self.args = args
        self.classifier = nn.Linear(backbone.feature_dim, args.num_classes)

    def request(self) -> Request:
        return Request(num_frames=self.clip.frames, num_uniforms=1, min_frames=self.clip.frames)

    def draw(self, uniforms_NU: np.ndarray, video_frames_N: np.ndarray) -> Draw:
        room = np.maximum(video_frames_N - self.clip.frames, 0)
        start = choose(uniforms_NU[:, 0], room + 1)
        indices = start[:, None] + np.arange(self.clip.frames)
        return Draw(extend(indices, video_frames_N, "loop"), extended=video_frames_N < self.clip.frames)

    def views(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"clip_BCTHW": centre_clip(frames_BTHWC, self.clip.size), "label_B": params["label"]}

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
