"""VCOP, video clip order prediction: Xu, Xiao, Zhao, Shao, Xie, Zhuang, "Self-supervised Spatiotemporal Learning via
Video Clip Order Prediction", CVPR 2019 (xudejing/video-clip-order-prediction `train_vcop.py`, `models/vcopn.py`).

K clips of a video, a constant gap between one and the next, are shown in a random order; the network names the order.
The class is the place of the order in the lexicographic list of all K! orders, and an order lists the true place of
each clip shown: (2, 0, 1) shows the last clip first.

What differs from the original, and why:
- The benchmark's augmentation (rotation, random crop, colour, flip) is applied, drawn for each clip of the tuple, as
  the original draws its crop; `recipe="original"` has that random crop alone.
- A video too short for the tuple is used (`short_videos`), where the original leaves it out of its list, and counted.
  "shrink" tells nothing of the order while the clips fit without a gap: from T * K frames on, 48, 64 or 80 for three,
  four or five clips. In shorter videos it is the later places that run back, so that a clip whose frames do is no first
  one; with "reflect", "loop" and "clamp" that begins below the length with gaps (64, 88, 112). For such videos take a
  lower complexity, or leave them out ("skip").
- The K clips go through the backbone in one batch, so that batch norm sees all of them; the original passes first
  clips, second clips, ... one after the other.
- All training videos are trained on for `pretrain.epochs`, and the last weights are kept. The original holds out 800
  videos and keeps the weights with the best loss of theirs in 300 epochs.

Memory grows with K: the benchmark halves its batch from 3 to 5 clips (`--set pretrain.batch=4`; or bound it with
`engine.micro_batch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations
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
from ..transforms.time import clip_tuple, random_start, shrink_gap, shuffle
from .base import ClipSpec, Draw, Request, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLIPS = {1: 3, 2: 4, 3: 5}
"""complexity -> K, clips of a tuple."""

RECIPES = ("paper", "original")
POLICIES = ("shrink", *SHORT_POLICIES)

_ORIGINAL = AugmentationArgs(rotation_degrees=0.0, flip=0.0, jitter=(0.0, 0.0, 0.0, 0.0))
_PAIR_WIDTH = 512
_COLOURS = ("#2b7bba", "#2a9d4a", "#e0a100", "#d1495b", "#7b4ea3")  # of the true places, in the picture


@dataclass(frozen=True)
class VCOPArgs(AugmentationArgs):
    """Settings of VCOP, and of the augmentation where the recipe is "paper".

    Args:
        complexity: 1, 2 or 3: three, four or five clips. The benchmark does not state its own; the original has three.
        gap: frames between the end of a clip and the start of the next.
        dropout: before the last layer.
        recipe: "paper" (the benchmark's shared augmentation) or "original" (random crop only).
        short_videos: "shrink" makes the gap as small as it must be; a video that does not hold the clips without any
            gap runs back from its end ("reflect"). "reflect", "loop" and "clamp" keep the gap; "skip", the
            original's way, leaves such videos out.
    """

    complexity: int = 1
    gap: int = 8
    dropout: float = 0.5
    recipe: str = "paper"
    short_videos: str = "shrink"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.complexity not in CLIPS:
            raise ConfigError(f"vcop: complexity={self.complexity!r} is none of 1, 2, 3 (three, four or five clips).")
        if self.gap < 0:
            raise ConfigError(f"vcop: gap={self.gap} would overlap the clips; legal: 0 and more, the original has 8.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"vcop: dropout={self.dropout} is outside 0 to 1 (1 excluded); the original has 0.5.")
        if self.recipe not in RECIPES:
            raise unknown_name("recipe of vcop", self.recipe, RECIPES)
        if self.short_videos not in POLICIES:
            raise unknown_name("policy for short videos", self.short_videos, POLICIES)


class VCOP(Task):
    """In which order.

    `views` gives clips_BKCTHW as they are shown, label_B (the place of the order in `orders`), and gap_B in frames,
    which is logged. `Draw.extended` marks every video that is too short for the gap asked for, also where a smaller
    one was enough.
    """

    name = "vcop"
    Args: ClassVar[type] = VCOPArgs
    group = "T"
    paper = "Xu, Xiao, Zhao, Shao, Xie, Zhuang, CVPR 2019"
    recipe: ClassVar[dict[str, Any]] = {
        "pretrain.optimizer": "sgd",
        "pretrain.lr": 1e-3,
        "pretrain.weight_decay": 5e-4,
        "pretrain.batch": 8,
        "pretrain.schedule": "constant",
    }
    label_param: ClassVar[str] = "permutation"
    """Which of `draw`'s parameters is the label (the preview shows every label)."""

    def __init__(self, backbone: Backbone, clip: ClipSpec, args: VCOPArgs | None = None) -> None:
        super().__init__(backbone, clip)
        self.args = args or VCOPArgs()
        self.num_clips = CLIPS[self.args.complexity]
        self.orders = np.array(list(permutations(range(self.num_clips))))  # itertools lists them lexicographically
        self.labels = f"{len(self.orders)} orders of {self.num_clips} clips"
        self.clips_per_sample = self.num_clips
        self.pairs = list(combinations(range(self.num_clips), 2))
        self.augmentation = SharedAugmentation(_ORIGINAL if self.args.recipe == "original" else self.args, clip.size)
        self.fc7 = nn.Linear(2 * backbone.feature_dim, _PAIR_WIDTH)
        self.dropout = nn.Dropout(self.args.dropout)
        self.fc8 = nn.Linear(_PAIR_WIDTH * len(self.pairs), len(self.orders))

    def request(self) -> Request:
        frames = self.num_clips * self.clip.frames
        return Request(
            num_frames=frames,
            num_uniforms=2 + self.num_clips * SharedAugmentation.num_uniforms,
            min_frames=frames + (self.num_clips - 1) * self.args.gap,
        )

    def draw(self, uniforms_NU: np.ndarray, video_frames_N: np.ndarray) -> Draw:
        """Frames of the K clips in the order in which they are shown; parameters of the augmentation [N, K, ...]."""
        length = np.asarray(video_frames_N, np.int64)
        request = self.request()
        permutation = choose(uniforms_NU[:, 0], len(self.orders))
        gap, policy = np.full(len(length), self.args.gap), self.args.short_videos
        if policy == "shrink":
            gap, policy = shrink_gap(length, self.num_clips, self.clip.frames, self.args.gap), "reflect"
        window = request.num_frames + (self.num_clips - 1) * gap
        clips = clip_tuple(random_start(uniforms_NU[:, 1], length, window), self.num_clips, self.clip.frames, gap)
        positions = shuffle(clips, self.orders[permutation]).reshape(len(length), -1)
        each = self.augmentation.draw(uniforms_NU[:, 2:].reshape(-1, SharedAugmentation.num_uniforms))
        params = {name: values.reshape(len(length), self.num_clips, *values.shape[1:]) for name, values in each.items()}
        params |= {"permutation": permutation, "gap": gap}
        return Draw(extend(positions, length, policy), params, extended=length < request.min_frames)

    def views(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        shown = frames_BTHWC.unflatten(1, (self.num_clips, self.clip.frames)).flatten(0, 1)
        # what was drawn for each clip has a clip axis, what was drawn for the sample has none
        each = {name: values.flatten(0, 1) for name, values in params.items() if values.dim() > 1}
        clips = self.augmentation.apply(shown, each).unflatten(0, (-1, self.num_clips))
        return {"clips_BKCTHW": clips, "label_B": params["permutation"], "gap_B": params["gap"]}

    def forward(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        clips, label = views["clips_BKCTHW"], views["label_B"]
        features = self.backbone.pooled(clips.flatten(0, 1)).unflatten(0, (-1, self.num_clips))
        logits = self.classify(features).float()
        return {
            "loss": F.cross_entropy(logits, label),
            "accuracy": (logits.argmax(1) == label).float(),
            "gap": views["gap_B"].float(),
        }

    def classify(self, features_BKD: torch.Tensor) -> torch.Tensor:
        """Scores of the orders, float [B, K!]: a vector of each pair of clips as shown, then a layer over all pairs."""
        feature = features_BKD.unbind(1)
        joined = torch.stack([torch.cat([feature[i], feature[j]], 1) for i, j in self.pairs], 1)
        return self.fc8(self.dropout(F.relu(self.fc7(joined)).flatten(1)))

    def chance(self) -> float:
        return 1 / len(self.orders)

    def picture(self, views: dict[str, torch.Tensor], names: list[str], frame_indices_NT: np.ndarray) -> Figure:
        """A figure of what the network sees; see `vidssl.report.preview`."""
        from ..report.clip_sheet import SheetRow, SheetSample, clip_sheet

        samples = []
        for b, name in enumerate(names):
            label, gap = int(views["label_B"][b]), int(views["gap_B"][b])
            order = self.orders[label].tolist()
            indices = frame_indices_NT[b].reshape(self.num_clips, -1)
            rows = [
                SheetRow(
                    f"shown {ordinal}.\nis clip {place}",
                    clip.permute(1, 2, 3, 0).numpy(),
                    [str(index) for index in numbers],
                    _COLOURS[place],
                )
                for ordinal, (place, clip, numbers) in enumerate(
                    zip(order, views["clips_BKCTHW"][b], indices, strict=True), 1
                )
            ]
            heading = f"order {' '.join(map(str, order))}   (class {label} of {len(self.orders)})   gap {gap}   {name}"
            samples.append(SheetSample(heading, rows))
        return clip_sheet(
            "VCOP: in which order are the clips shown?",
            "each row is a clip, shown from top to bottom; clip 0 comes first in the video, and each place has its "
            "colour    numbers: frames of the video",
            samples,
        )
