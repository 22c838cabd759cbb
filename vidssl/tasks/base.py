"""The contract of every task: a pretext task, a classification, a distillation.

A task says which frames it needs (`request`, `draw`: on the host, pure, vectorised over samples), builds what the
network sees from them (`views`: on the device, batched, no randomness of its own), and computes the loss (`forward`).
It never opens a video and never sees Accelerate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ..backbones.base import Backbone


@dataclass(frozen=True)
class ClipSpec:
    """The clip a network sees. `size` is the side in pixels of the square picture; `frames` its length T."""

    frames: int = 16
    size: int = 112


@dataclass(frozen=True)
class Request:
    """What a task needs of each sample.

    Args:
        num_frames: T of the decode request (the same for every sample).
        num_uniforms: how many random numbers `draw` uses a sample.
        min_frames: a video shorter than this is extended (see `vidssl.data.sampling`) and counted.
    """

    num_frames: int
    num_uniforms: int
    min_frames: int


@dataclass(frozen=True)
class Draw:
    """What was decided for N samples: `frame_indices` int64 [N, T] within the videos, `params` name -> array [N, ...].

    `extended` bool [N]: the video was too short and its frames come more than once.
    """

    frame_indices: np.ndarray
    params: dict[str, np.ndarray] = field(default_factory=dict)
    extended: np.ndarray | None = None


class Task(nn.Module):
    """Base of all tasks. A subclass sets `name`, `Args`, `metric` and implements the five methods below.

    `Args` is a frozen dataclass; its defaults are the paper's values.
    """

    name: ClassVar[str]
    Args: ClassVar[type]
    metric: ClassVar[str] = "accuracy"
    """Which entry of the dict that `forward` returns is shown and summarised."""

    below_chance: ClassVar[str] = ""
    """Where the metric may be at chance or below while the network learns: why, and what to look at instead; sentences
    that follow the warning."""
    recipe: ClassVar[dict[str, Any]] = {}
    """Entries of the run's spec that this task's own paper states (optimizer, batch); presets and the user win."""
    group: ClassVar[str] = ""
    """"S", "T" or "ST": which sort of transformation is to be recognised (the benchmark's taxonomy)."""
    contrastive: ClassVar[bool] = False
    paper: ClassVar[str] = ""
    """Authors, venue, year."""
    clips_per_sample: int = 1
    """How many clips the networks see of each sample."""
    labels: str = "-"
    """What is told apart, in words: "4 dilations"."""
    kept: ClassVar[tuple[str, ...]] = ()
    """Entries of `forward`'s dict that `after_step` is given; they are not logged."""
    whole_steps: ClassVar[bool] = False
    """The loss compares the samples of a step, so that a step cannot be split into passes."""

    def __init__(self, backbone: Backbone, clip: ClipSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.clip = clip

    def request(self) -> Request:
        raise NotImplementedError

    def draw(self, uniforms_NU: np.ndarray, video_frames_N: np.ndarray) -> Draw:
        """Decides frames and parameters of N samples from their random numbers. Host, pure, no loop over samples."""
        raise NotImplementedError

    def usable(self, video_frames_N: np.ndarray) -> np.ndarray:
        """bool [N]: which videos take part. All, but with `short_videos="skip"` those that are too short."""
        if getattr(getattr(self, "args", None), "short_videos", "") != "skip":
            return np.ones(len(video_frames_N), bool)
        return np.asarray(video_frames_N) >= self.request().min_frames

    def views(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """uint8 frames -> the tensors that `forward` takes; same device, under no_grad."""
        raise NotImplementedError

    def forward(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns `loss` (scalar), the metric as a float tensor [B] with one value a sample, and what else is logged.

        A scalar `chance` among it replaces `chance()` where guessing depends on the size of the step. Changes nothing
        of the task but the statistics of batch norm.
        """
        raise NotImplementedError

    def chance(self) -> float:
        """What guessing scores on the metric."""
        raise NotImplementedError

    def augmentation_in_use(self) -> list[dict[str, Any]]:
        """What `views` does to the pictures, one entry for each sort of view: the values behind the recipe."""
        used = getattr(self, "augmentations", None) or [getattr(self, "augmentation", None)]
        return [each.settings() for each in used if each is not None]

    def after_step(self, kept: dict[str, torch.Tensor]) -> None:
        """Called after each optimizer step of a training, under no_grad: key encoders and queues move here.

        Args:
            kept: the `kept` entries over all passes of the step, [N, ...]: this process's samples, in their order.
        """

    def check_data(self, num_videos: int, batch: int) -> list[str]:
        """What the user should read before a training on so many videos in steps of `batch` samples.

        Raises ConfigError where it cannot work.
        """
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups; `lr_scale` multiplies the learning rate of a group."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr_scale": 1.0}]
