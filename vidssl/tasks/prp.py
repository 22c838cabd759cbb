"""PRP, video playback rate perception: Yao, Liu, Luo, Zhou, Ye, "Video Playback Rate Perception for Self-supervised
Spatio-Temporal Representation Learning", CVPR 2020 (yuanyao366/PRP).

A clip is sampled with a dilation s of 1, 2, 4 or 8 frames. The network names s (discriminative branch) and rebuilds the
same window at twice the clip's frame rate (generative branch), where moving regions weigh more (motion attention).

With a clip of T frames (16) the window has T * s frames. The target has 2 T frames: every (s/2)-th of the window; at
s = 1 the T real frames with midpoints between neighbours, of which only the real ones are scored. For the attention
the window is cut into s slices of T frames; four frames of each (0, 5, 10, 15) give one map, and the map holds for the
slice's share of the target.

What differs from the original, and why:
- The benchmark's augmentation (rotation, random crop, colour, flip) is applied, the same to input, target and
  attention; `recipe="original"` has the original's centre crop alone.
- The original's clips are 112 px, its pool 28 with steps of 7; here they are a quarter and a sixteenth of the size.
- A video too short for the dilation is extended (`short_videos`), not replaced by another one, which would tie long
  dilations to long videos. But what is extended tells s: in a video of 16 to 116 frames every clip at s = 8 has frames
  that run back ("reflect"), and none at s = 1; a seam ("loop") or a still ("clamp") tells as much. Nothing is told from
  T * (largest s) + 1 frames on: 33, 65 or 129 at complexity 1, 2 or 3. For shorter videos take a lower complexity, or
  leave them out ("skip").
- The start is uniform over all windows that leave one frame to spare, as the original's check asks. The original then
  steps one frame back from every start but 0, so that its frame 0 is twice as likely.
- No videos are held out and the last weights are kept; the rate falls along a cosine. The original lowers its rate by
  10 when the loss of 800 held-out videos stands still for 50 of 300 epochs, and keeps the weights with the best one.
- The decoder doubles as often as the backbone's stride asks; at a stride of (8, 16, 16) it is the original's.
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
from ..transforms.augment import CENTRE_ONLY, AugmentationArgs, SharedAugmentation
from ..transforms.time import random_start
from .base import ClipSpec, Draw, Request, Task
from .decoder import ConvBlock, Decoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DILATIONS = {1: (1, 2), 2: (1, 2, 4), 3: (1, 2, 4, 8)}
"""complexity -> dilations; a sample's class is the index of its dilation."""

RECIPES = ("paper", "original")

_SNAPSHOTS = 4  # frames of a slice that the attention compares


@dataclass(frozen=True)
class PRPArgs(AugmentationArgs):
    """Settings of PRP, and of the augmentation where the recipe is "paper".

    Args:
        complexity: 1, 2 or 3: two, three or four dilations.
        generative_weight: of the reconstruction in the loss.
        discriminative_weight: of the cross-entropy in the loss.
        attention_low: weight of the stillest region of a slice. attention_high: of the one that moves most.
        decoder_width: multiplies the channels of the generative branch (512, 256, 128, ...); 1.0 is the original's.
        head_width: multiplies the channels (512) of the discriminative branch.
        recipe: "paper" (the benchmark's shared augmentation) or "original" (centre crop only).
        short_videos: "reflect", "loop", "clamp" or "skip".
    """

    complexity: int = 3
    generative_weight: float = 1.0
    discriminative_weight: float = 0.1
    attention_low: float = 0.8
    attention_high: float = 2.0
    decoder_width: float = 1.0
    head_width: float = 1.0
    recipe: str = "paper"
    short_videos: str = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.complexity not in DILATIONS:
            raise ConfigError(f"prp: complexity={self.complexity!r} is none of 1, 2, 3 (two, three or four dilations).")
        if self.recipe not in RECIPES:
            raise unknown_name("recipe of prp", self.recipe, RECIPES)
        if self.short_videos not in SHORT_POLICIES:
            raise unknown_name("policy for short videos", self.short_videos, SHORT_POLICIES)
        for field in ("decoder_width", "head_width"):
            if not 0 < getattr(self, field) <= 4:
                raise ConfigError(f"prp: {field}={getattr(self, field)} is outside 0 to 4; 1.0 is the original's.")
        if not 0 <= self.attention_low <= self.attention_high:
            raise ConfigError(
                f"prp: attention_low={self.attention_low} and attention_high={self.attention_high} must be "
                "0 <= low <= high; the original has 0.8 and 2.0."
            )
        if self.generative_weight < 0 or self.discriminative_weight < 0:
            raise ConfigError("prp: generative_weight and discriminative_weight must not be negative.")


class PRP(Task):
    """Which dilation, and what lies between the frames.

    `views` gives clip_BCTHW (T frames), target_BCTHW (2 T), attention_BCGHW (one map for each of G equal runs of target
    frames; G is the largest dilation), scored_BT (0 or 1 a target frame), label_B.
    """

    name = "prp"
    Args: ClassVar[type] = PRPArgs
    group = "ST"
    paper = "Yao, Liu, Luo, Zhou, Ye, CVPR 2020"
    recipe: ClassVar[dict[str, Any]] = {
        "pretrain.optimizer": "sgd",
        "pretrain.lr": 0.01,
        "pretrain.weight_decay": 5e-4,
        "pretrain.batch": 8,
        "pretrain.schedule": "cosine",
    }
    label_param: ClassVar[str] = "step"
    """Which of `draw`'s parameters is the label (the preview shows every label)."""

    def __init__(self, backbone: Backbone, clip: ClipSpec, args: PRPArgs | None = None) -> None:
        super().__init__(backbone, clip)
        self.args = args or PRPArgs()
        self.dilations = DILATIONS[self.args.complexity]
        self.labels = f"{len(self.dilations)} dilations, and {2 * clip.frames} frames to rebuild"
        self.groups = self.dilations[-1]
        _check_clip(clip, self.groups)
        augmentation = CENTRE_ONLY if self.args.recipe == "original" else self.args
        self.augmentation = SharedAugmentation(augmentation, clip.size)
        width, head = _scaled(512, self.args.decoder_width), _scaled(512, self.args.head_width)
        self.conv6_cls = ConvBlock(backbone.feature_dim, head)
        self.fc8 = nn.Linear(head, len(self.dilations))
        self.conv6_rec = ConvBlock(backbone.feature_dim, width)
        self.decoder = Decoder(width, backbone.stride, (2 * clip.frames, clip.size, clip.size), clip.frames)

    def request(self) -> Request:
        return Request(
            num_frames=2 * self.clip.frames + _SNAPSHOTS * self.groups,
            num_uniforms=2 + SharedAugmentation.num_uniforms,
            min_frames=self.clip.frames * self.groups + 1,
        )

    def draw(self, uniforms_NU: np.ndarray, video_frames_N: np.ndarray) -> Draw:
        """Frames in the order [target (2 T), attention (G slices of four)]; at s = 1 each target frame twice."""
        length = np.asarray(video_frames_N, np.int64)
        step = choose(uniforms_NU[:, 0], len(self.dilations))
        s = np.array(self.dilations)[step]
        window = self.clip.frames * s
        start = random_start(uniforms_NU[:, 1], length, window + 1)
        positions = np.concatenate([self._target_positions(s), self._attention_positions(s)], 1)
        indices = extend(start[:, None] + positions, length, self.args.short_videos)
        params = {"step": step, **self.augmentation.draw(uniforms_NU[:, 2:])}
        return Draw(indices, params, extended=length < window + 1)

    def _target_positions(self, s: np.ndarray) -> np.ndarray:
        """int64 [N, 2 T] within the window. Half steps round down, which at s = 1 names each frame twice."""
        return np.arange(2 * self.clip.frames) * s[:, None] // 2

    def _attention_positions(self, s: np.ndarray) -> np.ndarray:
        """int64 [N, 4 G] within the window. With s < G slices, runs that share a slice name its frames again."""
        frames = self.clip.frames
        slices = np.arange(self.groups) * s[:, None] // self.groups
        snapshots = np.arange(_SNAPSHOTS) * (frames - 1) // (_SNAPSHOTS - 1)
        return (slices[:, :, None] * frames + snapshots).reshape(len(s), -1)

    def views(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = self.augmentation.apply(frames_BTHWC, params)
        count = 2 * self.clip.frames
        target, snapshots = x[:, :, :count], x[:, :, count:]
        real = params["step"] == 0  # dilation 1: every second target frame lies between two real ones
        clip = target[:, :, ::2].contiguous()
        follower = torch.cat([clip[:, :, 1:], clip[:, :, -1:]], 2)  # the last has none and stays itself
        half = 0.5 * real.to(x.dtype)[:, None, None, None, None]
        between = torch.lerp(target[:, :, 1::2], follower, half)
        scored = torch.ones(len(x), count, dtype=x.dtype, device=x.device)
        scored[:, 1::2] = (~real).to(x.dtype)[:, None]
        attention = motion_attention(
            snapshots.unflatten(2, (self.groups, _SNAPSHOTS)), self.args.attention_low, self.args.attention_high
        )
        return {
            "clip_BCTHW": clip,
            "target_BCTHW": torch.stack([clip, between], 3).flatten(2, 3),
            "attention_BCGHW": attention,
            "scored_BT": scored,
            "label_B": params["step"],
        }

    def forward(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        features = self.backbone(views["clip_BCTHW"])
        logits = self.fc8(self.conv6_cls(features).mean(dim=(2, 3, 4)))
        rebuilt = self.decoder(self.conv6_rec(features))
        loss_cls = F.cross_entropy(logits.float(), views["label_B"])
        loss_gen = attended_error(rebuilt, views["target_BCTHW"], views["attention_BCGHW"], views["scored_BT"])
        return {
            "loss": self.args.generative_weight * loss_gen + self.args.discriminative_weight * loss_cls,
            "accuracy": (logits.argmax(1) == views["label_B"]).float(),
            "loss_gen": loss_gen.detach(),
            "loss_cls": loss_cls.detach(),
        }

    def rebuild(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        """What the generative branch makes of clips: float [B, 3, 2 T, H, W], >= 0."""
        return self.decoder(self.conv6_rec(self.backbone(clip_BCTHW)))

    def chance(self) -> float:
        return 1 / len(self.dilations)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The last layer of the discriminative branch learns ten times as fast (the original's setting)."""
        head = list(self.fc8.parameters())
        rest = [p for p in self.parameters() if p.requires_grad and all(p is not h for h in head)]
        return [{"params": rest, "lr_scale": 1.0}, {"params": head, "lr_scale": 10.0}]

    def picture(self, views: dict[str, torch.Tensor], names: list[str], frame_indices_NT: np.ndarray) -> Figure:
        """A figure of what the network sees; see `vidssl.report.preview`."""
        from ..report.preview import preview_prp

        return preview_prp(views, names, frame_indices_NT, self.dilations)


def motion_attention(snapshots_BCGNHW: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """How much each region of each slice moves, float [B, C, G, H, W] from `low` to `high`.

    Squared differences of the N neighbouring snapshots, averaged over time and over squares of a quarter of the picture
    in steps of a sixteenth; stretched per channel and slice, enlarged bilinearly. A slice in which no channel changes
    has ones. One channel that does not change while another does gets `high` throughout, by the original's epsilons.
    """
    _, _, groups, _, height, width = snapshots_BCGNHW.shape
    change = snapshots_BCGNHW.diff(dim=3).square().mean(3)
    kernel, step = (height // 4, width // 4), (max(height // 16, 1), max(width // 16, 1))
    regions = F.avg_pool2d(change.flatten(1, 2), kernel, step).unflatten(1, (-1, groups))
    least, most = regions.amin((3, 4), keepdim=True), regions.amax((3, 4), keepdim=True)
    stretched = (regions - least + 1e-6) / (most - least + 1e-6) * (high - low) + low
    still = (most - least).amax(1, keepdim=True) <= 0
    weights = torch.where(still, torch.ones_like(stretched), stretched)
    return F.interpolate(weights.flatten(1, 2), (height, width), mode="bilinear", align_corners=False).unflatten(
        1, (-1, groups)
    )


def attended_error(
    rebuilt_BCTHW: torch.Tensor, target_BCTHW: torch.Tensor, attention_BCGHW: torch.Tensor, scored_BT: torch.Tensor
) -> torch.Tensor:
    """Mean over the samples of each one's mean of attention * error^2 over its scored frames. Scalar, float32.

    So a sample with 16 scored frames (s = 1) weighs as much as one with 32, as in the original.
    """
    groups = attention_BCGHW.shape[2]
    error = (rebuilt_BCTHW.float() - target_BCTHW).square().unflatten(2, (groups, -1))
    share = scored_BT / scored_BT.sum(1, keepdim=True)
    share = share.unflatten(1, (groups, -1))[:, None, :, :, None, None]
    # attention is the same for all frames of a run, so the frames are summed first
    return ((error * share).sum(3) * attention_BCGHW).mean((1, 3, 4)).sum(1).mean()


def _scaled(channels: int, width: float) -> int:
    return max(8, round(channels * width / 8) * 8)


def _check_clip(clip: ClipSpec, groups: int) -> None:
    if 2 * clip.frames % groups or clip.frames < _SNAPSHOTS:
        raise ConfigError(
            f"prp: a clip of {clip.frames} frames cannot be cut for dilation {groups}; legal: multiples of "
            f"{max(groups // 2, 1)} from {_SNAPSHOTS} on. The paper has 16."
        )
    if clip.size < 16:
        raise ConfigError(f"prp: clip size {clip.size} is too small for the motion attention; legal: 16 and more.")
