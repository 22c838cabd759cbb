"""RSPNet, relative speed perception: Chen, Huang, He, Long, Zeng, Wen, Tan, Gan, "RSPNet: Relative Speed Perception for
Unsupervised Video Representation Learning", AAAI 2021 (PeihaoChen/RSPNet `moco/builder_diffspeed_diffloss.py`,
`datasets/classification/__init__.py`, `config/pretrain/`).

Two windows of a video, each at a random place: the query from the first, two keys from the second, one at the query's
speed and one at the other. Two heads look at each clip. For motion (M) the key at the query's speed is to be nearer
than the key at the other speed, by a margin. For appearance (A) both keys are to be nearer than the keys of other
videos in a queue, whatever their speed. The slow speed takes every frame, the fast one every second.

What differs from the original, and why:
- Each sample has slow or fast as its query's speed with probability 1/2. The original gives either speed to a half of
  each process's batch; drawn so, a sample depends neither on what else is in its batch nor on how many processes there
  are.
- The benchmark adds to the shared augmentation of its other tasks "some temporal augmentation" that it does not
  describe. `recipe="paper"` has the shared one; the random windows and speeds, which are the method's own, are taken
  for the temporal part. `recipe="original"` has the original's crop, grey, colours and flip.
- A window is as long as what is shown of it, (T - 1) * speed + 1 frames, 31 where the original reads 32. In a shorter
  video time runs back from its end ("reflect"); the original starts again at the first frame ("loop").
- The rate is the original's for R(2+1)D and S3D-G, 0.05 for 64 samples; ResNet-18 and C3D have 0.1 there. It falls to
  0, not to a thousandth.
- Pixels are scaled as the backbone's `input` says; the original has a mean and deviation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ..backbones.base import Backbone
from ..data.plan import choose
from ..data.sampling import SHORT_POLICIES, extend
from ..errors import ConfigError, unknown_name
from ..transforms.time import dilate, random_start
from ..transforms.views import ViewArgs, ViewAugmentation
from .base import ClipSpec, Draw, Request
from .momentum import MomentumTask, check_contrast, encode_keys, info_nce, is_first

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES = ("paper", "original")

_ORIGINAL = ViewArgs(
    geometry="resized", area=(0.4, 1.0), aspect=(3 / 4, 4 / 3), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.4), grey=0.2
)
_SLOW, _FAST = "#2b7bba", "#e0a100"  # in the picture


@dataclass(frozen=True)
class RSPNetArgs(ViewArgs):
    """Settings of RSPNet, and of the augmentation where the recipe is "paper".

    Args:
        speed: frames from one frame of a fast clip to the next; a slow one has every frame.
        queue: K, keys of other videos.
        temperature: similarities are divided by it.
        margin: of the ranking, in similarities divided by the temperature.
        momentum: of the key network.
        recipe: "paper" (the benchmark's shared augmentation) or "original" (random resized crop, grey, colours, flip).
        short_videos: "reflect", "loop", "clamp" or "skip".
    """

    speed: int = 2
    queue: int = 16384
    temperature: float = 0.07
    margin: float = 2.0
    momentum: float = 0.999
    recipe: str = "paper"
    short_videos: str = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_contrast("rspnet", self.temperature, self.momentum, self.queue, least=1, original=16384)
        if self.speed < 2:
            raise ConfigError(f"rspnet: speed={self.speed} is not faster; legal: 2 and more, the original has 2 or 4.")
        if self.margin < 0:
            raise ConfigError(f"rspnet: margin={self.margin}; legal: 0 and more, the original has 2.")
        if self.recipe not in RECIPES:
            raise unknown_name("recipe of rspnet", self.recipe, RECIPES)
        if self.short_videos not in SHORT_POLICIES:
            raise unknown_name("policy for short videos", self.short_videos, SHORT_POLICIES)


class RSPNet(MomentumTask):
    """Which clip has the same speed, and which the same video?

    `views` gives query_BCTHW, same_BCTHW (the query's speed), other_BCTHW (the other speed), fast_B (whether the query
    is), and two numbers for `encode_keys`. The accuracy of a sample is 1 where the motion head finds the key at its
    speed nearer than the other; `instance` is the share of samples whose key at their speed beats the queue
    (guessing: 1 / (1 + K)).
    """

    name = "rspnet"
    Args: ClassVar[type] = RSPNetArgs
    group = "ST"
    paper = "Chen, Huang, He, Long, Zeng, Wen, Tan, Gan, AAAI 2021"
    clips_per_sample = 3
    recipe: ClassVar[dict[str, Any]] = {
        "pretrain.optimizer": "sgd",
        "pretrain.lr": 0.05,
        "pretrain.weight_decay": 1e-4,
        "pretrain.batch": 64,
        "pretrain.schedule": "cosine",
    }
    label_param: ClassVar[str] = "fast"
    """Which of `draw`'s parameters the preview shows every value of."""

    fast_places: torch.Tensor

    def __init__(self, backbone: Backbone, clip: ClipSpec, args: RSPNetArgs | None = None) -> None:
        args = args or RSPNetArgs()
        super().__init__(backbone, clip, 2, args.queue, args.momentum)
        self.args = args
        self.labels = f"2 speeds, and the video among {1 + args.queue} keys"
        self.augmentation = ViewAugmentation(_ORIGINAL if args.recipe == "original" else args, clip.size)
        # the frames of the second window that either speed shows: first the slow clip's, then what the fast one adds
        slow, fast = (dilate(np.array(0), clip.frames, step) for step in (1, args.speed))
        self.shown = np.union1d(slow, fast)
        self.register_buffer("fast_places", torch.tensor(np.searchsorted(self.shown, fast)), persistent=False)

    def request(self) -> Request:
        return Request(
            num_frames=self.clip.frames + len(self.shown),
            num_uniforms=5 + 2 * ViewAugmentation.num_uniforms,
            min_frames=(self.clip.frames - 1) * self.args.speed + 1,
        )

    def draw(self, uniforms_NU: np.ndarray, video_frames_N: np.ndarray) -> Draw:
        """Frames of the query, then those of the second window; parameters of the augmentation [N, 2, ...]."""
        length = np.asarray(video_frames_N, np.int64)
        window = self.request().min_frames
        fast = choose(uniforms_NU[:, 0], 2).astype(bool)
        first, second = (random_start(uniforms_NU[:, k], length, window) for k in (1, 2))
        query = dilate(first, self.clip.frames, np.where(fast, self.args.speed, 1))
        positions = np.concatenate([query, second[:, None] + self.shown], 1)
        each = self.augmentation.draw(uniforms_NU[:, 5:].reshape(-1, ViewAugmentation.num_uniforms))
        params = {name: values.reshape(len(length), 2, *values.shape[1:]) for name, values in each.items()}
        params |= {"fast": fast, "same_order": uniforms_NU[:, 3], "other_order": uniforms_NU[:, 4]}
        return Draw(extend(positions, length, self.args.short_videos), params, extended=length < window)

    def views(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # what was drawn for each window has an axis for it, what was drawn for the sample has none
        query, window = (
            self.augmentation.apply(frames, {key: values[:, k] for key, values in params.items() if values.dim() > 1})
            for k, frames in enumerate(frames_BTHWC.split([self.clip.frames, len(self.shown)], 1))
        )
        slow, fast = window[:, :, : self.clip.frames], window.index_select(2, self.fast_places)
        is_fast = params["fast"][:, None, None, None, None]
        return {
            "query_BCTHW": query,
            "same_BCTHW": torch.where(is_fast, fast, slow),
            "other_BCTHW": torch.where(is_fast, slow, fast),
            "fast_B": params["fast"],
            "same_order_B": params["same_order"],
            "other_order_B": params["other_order"],
        }

    def forward(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        query_A, query_M = self.embed(views["query_BCTHW"]).unbind(1)
        same_A, same_M = encode_keys(self.key_encoder, views["same_BCTHW"], views["same_order_B"]).unbind(1)
        other_A, other_M = encode_keys(self.key_encoder, views["other_BCTHW"], views["other_order_B"]).unbind(1)
        # appearance: either speed of this video against the queue
        negatives, near_A, far_A = self.queue(query_A), (query_A * same_A).sum(1), (query_A * other_A).sum(1)
        temperature = self.args.temperature
        instance_loss = info_nce(near_A, negatives, temperature) + info_nce(far_A, negatives, temperature)
        # motion: the same speed against the other
        near_M, far_M = (query_M * same_M).sum(1), (query_M * other_M).sum(1)
        ranking_loss = ranking(near_M, far_M, temperature, self.args.margin)
        out = {
            "loss": instance_loss + ranking_loss,
            "accuracy": is_first(near_M, far_M[:, None]),
            "instance": is_first(near_A, negatives),
            "instance_loss": instance_loss.detach(),
            "ranking_loss": ranking_loss.detach(),
        }
        return {**out, "keys": other_A} if self.training else out

    def chance(self) -> float:
        return 0.5

    def picture(self, views: dict[str, torch.Tensor], names: list[str], frame_indices_NT: np.ndarray) -> Figure:
        """A figure of what the network sees; see `vidssl.report.preview`."""
        from ..report.clip_sheet import SheetRow, SheetSample, clip_sheet

        samples = []
        for b, name in enumerate(names):
            query, window = np.split(frame_indices_NT[b], [self.clip.frames])
            keys = {True: window[self.fast_places.cpu().numpy()], False: window[: self.clip.frames]}
            fast = bool(views["fast_B"][b])
            clips = (("query", "query", fast, query), ("same", "same speed", fast, keys[fast]),
                     ("other", "other speed", not fast, keys[not fast]))  # fmt: skip
            rows = [
                SheetRow(
                    f"{label}\n(speed {self.args.speed if speedy else 1})",
                    views[f"{view}_BCTHW"][b].permute(1, 2, 3, 0).numpy(),
                    [str(number) for number in numbers],
                    _FAST if speedy else _SLOW,
                )
                for view, label, speedy, numbers in clips
            ]
            samples.append(SheetSample(name, rows))
        return clip_sheet(
            "RSPNet: which clip has the speed of the query?",
            f"blue: every frame    yellow: one frame in {self.args.speed}    both keys are of one other window of the "
            "video    numbers: frames of the video",
            samples,
        )


def ranking(near_B: torch.Tensor, far_B: torch.Tensor, temperature: float, margin: float) -> torch.Tensor:
    """Mean of how much `near` misses being `margin` above `far`, both divided by the temperature."""
    near, far = near_B / temperature, far_B / temperature
    return F.margin_ranking_loss(near, far, torch.ones_like(near), margin)
