"""TDL, temporal discriminative learning (VTDL): Wang, Lin, Ma, Yuen, "Self-supervised Temporal Discriminative Learning
for Video Representation Learning", arXiv 2008.02129, 2020 (FingerRec/Self-Supervised-Temporal-Discriminative-
Representation-Learning-for-Video-Action-Recognition `src/train_temporal_dis.py`, `src/data/video_dataset.py`).

Anchor and positive are two augmentations of one interval of a video, the negative is another interval of the same
video. The anchor is to be nearer to the positive than to the negative and to the keys of other videos in a queue, so
that pictures alone do not tell: the two intervals show the same place and people. Every frame of the anchor has a
share of one of its own frames blended in (temporal-consistent augmentation), which scales the differences between
frames and leaves their direction as it is (in the paper's words it is the positive that is augmented so, in the code
the anchor). The positive goes through the key network, anchor and negative through the query network, with gradients
through both.

The negative is made by the anchor's own network and the positive by one that lags behind, so that a lag alone brings
the negative nearer, and both metrics can be worse than guessing while the network does tell the clips apart. After 99
steps of the small preset on the embedded set (momentum 0.99) 2 % of 48 clips were right; with the query's weights in
the key network 44 % of the same clips were.

What differs from the original, and why:
- The two intervals start anywhere in the video, all pairs of starts at least `apart` frames apart being equally likely.
  The original draws again when they are nearer, gives up after a few times and takes an arbitrary place; with jpegs it
  wants 2 frames, from videos 4. Intervals of 61 frames that are 4 apart share most of what they show; so it is there.
- In a video too short for two such starts the anchor starts at any frame, and the negative about a third of the length
  further on, counted around the end: at the place nearest to that with which the two show different frames, or where
  there is none, the same frames in another order (with "loop", 16 frames and a stride of 4: in videos of 3, 5, ... 15
  frames). Both go on past the end by `short_videos`, so that a seam does not tell which is the negative. A video of one
  frame is its own negative: colours and crop alone differ. All of these are counted as extended. The original starts
  again at the first frame ("loop") and may take the same frames for both.
- The share blended in is drawn for each sample, not once for the batch, so that a clip does not depend on what else is
  in its batch.
- The queue is the benchmark's, 500; the original has about as many keys as its training set has videos. The
  benchmark's augmentation (`recipe="paper"`) has a flip beside the original's rotation, crop and colours.
- Clips are of the benchmark's 112 px, the original's of 224. Pixels are scaled as the backbone's `input` says; the
  original has ImageNet's mean and deviation.
- The rate stays or falls as `pretrain.schedule` says; the original divides it by 10 after 120, 160 and 200 of 240
  epochs. A cosine fits any number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ..backbones.base import Backbone
from ..data.plan import choose
from ..data.sampling import SHORT_POLICIES, extend
from ..errors import ConfigError, unknown_name
from ..transforms.augment import AugmentationArgs, SharedAugmentation
from ..transforms.time import dilate
from .base import ClipSpec, Draw, Request
from .momentum import MomentumTask, check_contrast, encode_keys, info_nce, is_first

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES = ("paper", "original")
VIEWS = ("anchor", "positive", "negative")

_ORIGINAL = AugmentationArgs(flip=0.0)
_COLOURS = {"anchor": "#2b7bba", "positive": "#2a9d4a", "negative": "#d1495b"}  # in the picture


@dataclass(frozen=True)
class TDLArgs(AugmentationArgs):
    """Settings of TDL, and of the augmentation where the recipe is "paper".

    Args:
        queue: K, keys of other videos; 0 leaves the same video's negative alone.
        temperature: similarities are divided by it.
        momentum: of the key network.
        stride: frames from one frame of a clip to the next.
        apart: frames between the starts of the two intervals, at least.
        blend: largest share of one frame that is blended into all frames of the anchor; 0 turns it off.
        recipe: "paper" (the benchmark's shared augmentation) or "original" (rotation by up to 10 degrees, crop,
            colours). Both blend.
        short_videos: "reflect", "loop", "clamp" or "skip".
    """

    queue: int = 500
    temperature: float = 0.07
    momentum: float = 0.999
    stride: int = 4
    apart: int = 4
    blend: float = 0.1
    recipe: str = "paper"
    short_videos: str = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_contrast("tdl", self.temperature, self.momentum, self.queue, least=0, original=500)
        if self.stride < 1:
            raise ConfigError(f"tdl: stride={self.stride} is no step; legal: 1 and more, the original has 4.")
        if self.apart < 1:
            raise ConfigError(
                f"tdl: apart={self.apart}: the negative would be the positive; legal: 1 and more, the original has 4."
            )
        if not 0 <= self.blend < 1:
            raise ConfigError(f"tdl: blend={self.blend} is outside 0 to 1 (1 excluded); the original has 0.1.")
        if self.recipe not in RECIPES:
            raise unknown_name("recipe of tdl", self.recipe, RECIPES)
        if self.short_videos not in SHORT_POLICIES:
            raise unknown_name("policy for short videos", self.short_videos, SHORT_POLICIES)


class TDL(MomentumTask):
    """Which clip shows the same moment?

    `views` gives anchor_BCTHW, positive_BCTHW, negative_BCTHW, and order_B for `encode_keys`. The accuracy of a sample
    is 1 where its positive scores highest among positive, queue and negative; `same_video` is the share of samples
    whose positive beats the negative of the same video (guessing: 0.5). Both can be worse than guessing, see above.
    """

    name = "tdl"
    Args: ClassVar[type] = TDLArgs
    group = "T"
    paper = "Wang, Lin, Ma, Yuen, arXiv 2020"
    below_chance = (
        "That alone is no fault: the key network lags behind, which brings the negative nearer than the positive also "
        "where the network tells them apart. Look at the pretext test at the end, and at k-NN and RankMe while it "
        "trains; a lower --set task.momentum lags less."
    )
    clips_per_sample = 3
    recipe: ClassVar[dict[str, Any]] = {
        "pretrain.optimizer": "sgd",
        "pretrain.lr": 3e-3,
        "pretrain.weight_decay": 1e-4,
        "pretrain.batch": 16,
        "pretrain.schedule": "cosine",
    }

    def __init__(self, backbone: Backbone, clip: ClipSpec, args: TDLArgs | None = None) -> None:
        args = args or TDLArgs()
        super().__init__(backbone, clip, 1, args.queue, args.momentum)
        self.args = args
        self.labels = f"the same moment among {args.queue + 2} clips"
        self.augmentation = SharedAugmentation(_ORIGINAL if args.recipe == "original" else args, clip.size)

    def request(self) -> Request:
        return Request(
            num_frames=2 * self.clip.frames,
            num_uniforms=5 + len(VIEWS) * SharedAugmentation.num_uniforms,
            min_frames=(self.clip.frames - 1) * self.args.stride + 1 + self.args.apart,
        )

    def draw(self, uniforms_NU: np.ndarray, video_frames_N: np.ndarray) -> Draw:
        """Frames of the anchor (and positive), then of the negative; parameters of the augmentation [N, 3, ...]."""
        length = np.asarray(video_frames_N, np.int64)
        starts = self._starts(uniforms_NU[:, :2], length)
        positions = dilate(starts, self.clip.frames, self.args.stride).reshape(len(length), -1)
        each = self.augmentation.draw(uniforms_NU[:, 5:].reshape(-1, SharedAugmentation.num_uniforms))
        params = {name: values.reshape(len(length), len(VIEWS), *values.shape[1:]) for name, values in each.items()}
        params |= {
            "order": uniforms_NU[:, 2],
            "blend": (uniforms_NU[:, 3] * self.args.blend).astype(np.float32),
            "blended": choose(uniforms_NU[:, 4], self.clip.frames),
        }
        indices = extend(positions, length, self.args.short_videos)
        return Draw(indices, params, extended=length < self.request().min_frames)

    def _starts(self, uniforms_N2: np.ndarray, length: np.ndarray) -> np.ndarray:
        """First frames of anchor and negative, int64 [N, 2]."""
        window = self.request().min_frames - self.args.apart
        room = length - window
        # two different places among fewer, then moved apart: each pair that is far enough apart is as likely
        places = np.maximum(room - self.args.apart, 0) + 2
        one, other = choose(uniforms_N2[:, 0], places), choose(uniforms_N2[:, 1], places - 1)
        ahead = other >= one
        other = other + ahead
        low, high = np.minimum(one, other), np.maximum(one, other) + self.args.apart - 1
        pair = np.stack([np.where(ahead, low, high), np.where(ahead, high, low)], 1)
        long_enough = room >= self.args.apart
        anchor = choose(uniforms_N2[:, 0], length)
        negative = anchor.copy()
        for each in np.unique(length[~long_enough]).tolist():
            rows = ~long_enough & (length == each)
            others = other_starts(each, self.clip.frames, self.args.stride, self.args.short_videos)
            negative[rows] = others[anchor[rows]]
        return np.where(long_enough[:, None], pair, np.stack([anchor, negative], 1))

    def views(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        first, second = frames_BTHWC.unflatten(1, (2, self.clip.frames)).unbind(1)
        out = {}
        for place, (name, frames) in enumerate(zip(VIEWS, (first, first, second), strict=True)):
            # what was drawn for each view has an axis for it, what was drawn for the sample has none
            each = {key: values[:, place] for key, values in params.items() if values.dim() > 1}
            out[f"{name}_BCTHW"] = self.augmentation.apply(frames, each)
        if self.args.blend:
            out["anchor_BCTHW"] = blend_one(out["anchor_BCTHW"], params["blended"], params["blend"])
        return {**out, "order_B": params["order"]}

    def forward(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # one after the other, as in the original: batch norm of the anchors does not see the negatives
        anchor, negative = (self.embed(views[f"{name}_BCTHW"])[:, 0] for name in ("anchor", "negative"))
        keys = encode_keys(self.key_encoder, views["positive_BCTHW"], views["order_B"])[:, 0]
        same, other = (anchor * keys).sum(1), (anchor * negative).sum(1)
        negatives = torch.cat([self.queue(anchor), other[:, None]], 1)
        out = {
            "loss": info_nce(same, negatives, self.args.temperature),
            "accuracy": is_first(same, negatives),
            "same_video": is_first(same, other[:, None]),
            "positive_similarity": same.detach(),
            "negative_similarity": other.detach(),
        }
        return {**out, "keys": keys} if self.training else out

    def chance(self) -> float:
        return 1 / (self.args.queue + 2)

    def picture(self, views: dict[str, torch.Tensor], names: list[str], frame_indices_NT: np.ndarray) -> Figure:
        """A figure of what the network sees; see `vidssl.report.preview`."""
        from ..report.clip_sheet import SheetRow, SheetSample, clip_sheet

        samples = []
        for b, name in enumerate(names):
            first, second = frame_indices_NT[b].reshape(2, -1)
            rows = [
                SheetRow(
                    f"{view}\nfrom {numbers[0]}",
                    views[f"{view}_BCTHW"][b].permute(1, 2, 3, 0).numpy(),
                    [str(number) for number in numbers],
                    _COLOURS[view],
                )
                for view, numbers in zip(VIEWS, (first, first, second), strict=True)
            ]
            samples.append(SheetSample(name, rows))
        return clip_sheet(
            "TDL: which clip shows the same moment as the anchor?",
            "blue: anchor, one frame blended into all    green: the same frames, augmented anew    red: another "
            "interval of the video    numbers: frames of the video",
            samples,
        )


@cache
def other_starts(length: int, frames: int, stride: int, policy: str) -> np.ndarray:
    """Where the negative starts in a video of `length` frames, int64 [length], for each start of the anchor.

    The place nearest to a third of the video further on (around the end) whose clip, extended by `policy`, shows
    another set of frames than the anchor; where there is none, the frames in another order; in a video of one frame,
    itself.
    """
    starts = np.arange(length)
    indices = extend(dilate(starts, frames, stride), np.full(length, length), policy)
    shown = np.zeros((length, length), bool)
    np.put_along_axis(shown, indices, True, 1)
    shift = np.zeros_like(starts)
    for clips in (shown, indices):
        for candidate in sorted(range(1, length), key=lambda one: abs(3 * one - length)):
            differs = (clips != np.roll(clips, -candidate, 0)).any(1)
            shift[differs & (shift == 0)] = candidate
            if shift.all():
                break
    return (starts + shift) % length


def blend_one(x_BCTHW: torch.Tensor, frame_B: torch.Tensor, share_B: torch.Tensor) -> torch.Tensor:
    """Each frame t of a clip becomes (1 - share) * x_t + share * x_r, r one frame of the same clip."""
    one = x_BCTHW[torch.arange(len(x_BCTHW), device=x_BCTHW.device), :, frame_B][:, :, None]
    return x_BCTHW.lerp(one, share_B.to(x_BCTHW.dtype)[:, None, None, None, None])
