"""CVRL: Qian, Meng, Gong, Yang, Wang, Belongie, Cui, "Spatiotemporal Contrastive Video Representation Learning",
CVPR 2021 (tensorflow/models:official/projects/video_ssl).

Two clips of each video are augmented, each on its own, and embedded; a clip has to recognise its partner among all
other clips of the step. Clips near to each other in time are drawn more often than distant ones: how far the two
starts are apart has the distribution F(k) = 2k/M - k^2/M^2, where M counts the frames at which a clip may start. k is
rounded down, as the original's bisection does, so that interval j in 0 .. M-1 has probability F(j+1) - F(j); the
earlier start is then uniform over the M - j that leave room for it, and which of the two clips comes first is tossed.

What differs from the original, and why:
- `recipe="paper"` is the benchmark's: its shared augmentation with grey and gamma. Its supplement states no figures;
  these are TCLR's, of the same laboratory (DAVEISHAN/TCLR:tclr_pretraining/dl_tclr.py): grey with probability 0.175,
  gamma from 0.75 to 1.25. There, gamma befalls three quarters of the grey clips and no other; here as many clips
  (0.175 * 0.75), grey or not. `recipe="original"` is CVRL's own.
- The accuracy asks for the partner among all 2N - 1 other clips of the step, as the loss does, and of both clips; the
  original's log asks of each first clip which of the N second ones is its partner.
- The learning rate is the original's 0.32 at 1024 videos, in proportion to this recipe's 64, which one GPU can hold
  (R(2+1)D keeps 290 MiB of activations a clip in float32, and a video is two clips). A step is not split into passes
  (`whole_steps`): more videos a step take more GPUs, and a rate that the user states.
- Clips are of the benchmark's 112 px, the original's of 224. Weight decay is on every weight, biases and batch norm
  included; the original's is on kernels alone.
- The hidden layers have no bias, which batch norm would take away again; its running statistics, used when the task is
  scored, move by 0.1 a step instead of 0.003, which a short training never fills.
- In a video shorter than a clip both starts are drawn by the same law with M = all its frames, where the original
  draws the two independently; it is then gone on with by `short_videos`, "loop" in the original.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..backbones.base import Backbone
from ..collective import gather_rows
from ..data.plan import choose
from ..data.sampling import SHORT_POLICIES, extend
from ..errors import ConfigError, unknown_name
from ..transforms.views import ViewArgs, ViewAugmentation
from .base import ClipSpec, Draw, Request, Task
from .momentum import is_first

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES = ("paper", "original")

# crop, flip and the blur's deviation are those that `ViewArgs` has by default
_ORIGINAL_FIRST = ViewArgs(geometry="resized", jitter=(0.8, 0.8, 0.8, 0.2), jitter_probability=0.8, grey=0.2, blur=1.0)
_ORIGINAL_SECOND = replace(_ORIGINAL_FIRST, blur=0.1, solarise=0.2)
_BATCH = 64
_HIDDEN, _LAYERS, _EMBEDDING = 2048, 3, 128


@dataclass(frozen=True)
class CVRLArgs(ViewArgs):
    """Settings of CVRL, and of the augmentation of both views where the recipe is "paper".

    Args:
        temperature: of the loss; similarities are divided by it.
        stride: frames from one frame of a clip to the next.
        head_width: multiplies the width (2048) of the three hidden layers.
        recipe: "paper" (the benchmark's augmentation) or "original" (CVRL's own, which blurs every first view and
            solarises only second ones).
        short_videos: "reflect", "loop", "clamp" or "skip", for a video shorter than (T - 1) * stride + 1 frames.
    """

    grey: float = 0.175
    gamma_probability: float = 0.175 * 0.75
    temperature: float = 0.1
    stride: int = 2
    head_width: float = 1.0
    recipe: str = "paper"
    short_videos: str = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature <= 10:
            raise ConfigError(f"cvrl: temperature={self.temperature} is outside 0 to 10; the original has 0.1.")
        if self.stride < 1:
            raise ConfigError(f"cvrl: stride={self.stride} is no step; legal: 1 and more, the original has 2.")
        if not 0 < self.head_width <= 4:
            raise ConfigError(f"cvrl: head_width={self.head_width} is outside 0 to 4; 1.0 is the original's.")
        if self.recipe not in RECIPES:
            raise unknown_name("recipe of cvrl", self.recipe, RECIPES)
        if self.short_videos not in SHORT_POLICIES:
            raise unknown_name("policy for short videos", self.short_videos, SHORT_POLICIES)


class CVRL(Task):
    """Which clip is of the same video.

    `views` gives clips_BVCTHW, two views of each sample, and interval_B in frames, which is logged as is the
    similarity (cosine) of the two.
    """

    name = "cvrl"
    Args: ClassVar[type] = CVRLArgs
    group = "S"
    contrastive = True
    paper = "Qian, Meng, Gong, Yang, Wang, Belongie, Cui, CVPR 2021"
    recipe: ClassVar[dict[str, Any]] = {
        "pretrain.optimizer": "sgd",
        "pretrain.lr": 0.32 * _BATCH / 1024,
        "pretrain.weight_decay": 1e-6,
        "pretrain.batch": _BATCH,
        "pretrain.schedule": "cosine",
        "pretrain.warmup_epochs": 5.0,
    }
    clips_per_sample = 2
    labels = "the partner among 2 N - 1 clips"
    whole_steps = True

    def __init__(self, backbone: Backbone, clip: ClipSpec, args: CVRLArgs | None = None) -> None:
        super().__init__(backbone, clip)
        self.args = args or CVRLArgs()
        each = (_ORIGINAL_FIRST, _ORIGINAL_SECOND) if self.args.recipe == "original" else (self.args, self.args)
        self.augmentations = [ViewAugmentation(view, clip.size) for view in each]
        width = max(8, round(_HIDDEN * self.args.head_width))
        self.head = projection(backbone.feature_dim, width)

    def request(self) -> Request:
        return Request(
            num_frames=2 * self.clip.frames,
            num_uniforms=3 + 2 * ViewAugmentation.num_uniforms,
            min_frames=(self.clip.frames - 1) * self.args.stride + 1,
        )

    def draw(self, uniforms_NU: np.ndarray, video_frames_N: np.ndarray) -> Draw:
        """Frames of the first view, then of the second; parameters of each under "first_" and "second_"."""
        length, window = np.asarray(video_frames_N, np.int64), self.request().min_frames
        u = np.asarray(uniforms_NU)
        legal_starts = np.where(length >= window, length - window + 1, length)
        interval = choose(1 - np.sqrt(1 - u[:, 0]), legal_starts)
        earlier = choose(u[:, 1], legal_starts - interval)
        starts = np.stack([earlier, earlier + interval], 1)
        starts = np.where(u[:, 2:3] < 0.5, starts, starts[:, ::-1])
        positions = (starts[:, :, None] + np.arange(self.clip.frames) * self.args.stride).reshape(len(length), -1)
        params = {"interval": interval}
        each = np.split(u[:, 3:], 2, axis=1)
        for view, augmentation, uniforms in zip(("first", "second"), self.augmentations, each, strict=True):
            params |= {f"{view}_{name}": values for name, values in augmentation.draw(uniforms).items()}
        return Draw(extend(positions, length, self.args.short_videos), params, extended=length < window)

    def views(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        clips = []
        halves = frames_BTHWC.chunk(2, dim=1)
        for view, augmentation, frames in zip(("first_", "second_"), self.augmentations, halves, strict=True):
            mine = {name.removeprefix(view): values for name, values in params.items() if name.startswith(view)}
            clips.append(augmentation.apply(frames, mine))
        return {"clips_BVCTHW": torch.stack(clips, 1), "interval_B": params["interval"]}

    def forward(self, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        embeddings = self.head(self.backbone.pooled(views["clips_BVCTHW"].flatten(0, 1)))
        unit_BVD = F.normalize(embeddings.float(), dim=1).unflatten(0, (-1, 2))
        everyone_NVD, first_row = gather_rows(unit_BVD)
        loss_B, accuracy_B = nt_xent(unit_BVD, everyone_NVD, first_row, self.args.temperature)
        return {
            "loss": loss_B.mean(),
            "accuracy": accuracy_B,
            "similarity": (unit_BVD[:, 0] * unit_BVD[:, 1]).sum(1),
            "interval": views["interval_B"].float(),
            "chance": loss_B.new_full((), _chance(len(everyone_NVD))),
        }

    def chance(self) -> float:
        """In a step of 64 videos; `forward` gives that of the step at hand."""
        return _chance(_BATCH)

    def check_data(self, num_videos: int, batch: int) -> list[str]:
        if min(num_videos, batch) < 2:
            raise ConfigError(
                f"cvrl compares the videos of a step with each other; a step of {min(num_videos, batch)} has none to "
                f"compare. Take a --set pretrain.batch of 2 or more ({_BATCH} is the default) and as many videos."
            )
        return []

    def picture(self, views: dict[str, torch.Tensor], names: list[str], frame_indices_NT: np.ndarray) -> Figure:
        """A figure of what the network sees; see `vidssl.report.preview`."""
        from ..report.clip_sheet import SheetRow, SheetSample, clip_sheet

        samples = []
        for b, name in enumerate(names):
            rows = [
                SheetRow(f"view {number}", clip.permute(1, 2, 3, 0).numpy(), [str(index) for index in indices])
                for number, clip, indices in zip(
                    (1, 2), views["clips_BVCTHW"][b], frame_indices_NT[b].reshape(2, -1), strict=True
                )
            ]
            samples.append(SheetSample(f"{int(views['interval_B'][b])} frames apart   {name}", rows))
        return clip_sheet(
            "CVRL: which clip is of the same video?",
            "each row is a clip that the network sees; the two of a video belong together, all others are told apart "
            "from them    numbers: frames of the video",
            samples,
        )


def projection(width_in: int, hidden: int) -> nn.Sequential:
    """The head: three times (linear, batch norm, ReLU), then linear to 128."""
    layers: list[nn.Module] = []
    for _ in range(_LAYERS):
        layers += [nn.Linear(width_in, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        width_in = hidden
    return nn.Sequential(*layers, nn.Linear(hidden, _EMBEDDING))


def nt_xent(
    mine_BVD: torch.Tensor, everyone_NVD: torch.Tensor, first_row: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each clip's partner among all other clips of the step, the partner's similarity included.

    Args:
        mine_BVD: float32, V = 2 clips of each of this process's samples, of length 1.
        everyone_NVD: those of all samples of the step. mine_BVD are its rows from `first_row` on.

    Returns:
        The loss of each sample, summed over its two clips (float32 [B]), and which share of the two is more similar to
        its partner than to every other clip (float32 [B]; equal is not more).
    """
    # bfloat16 would round similarities near 1 to steps of 0.04 after the temperature; autocast knows no meta device
    with torch.autocast("cpu" if mine_BVD.is_meta else mine_BVD.device.type, enabled=False):
        logits = mine_BVD.flatten(0, 1) @ everyone_NVD.flatten(0, 1).T / temperature
    itself = torch.arange(len(logits), device=logits.device) + 2 * first_row
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    partner = itself ^ 1
    loss = F.cross_entropy(logits, partner, reduction="none")
    found = is_first(logits.gather(1, partner[:, None])[:, 0], logits.scatter(1, partner[:, None], -torch.inf))
    return loss.view(-1, 2).sum(1), found.view(-1, 2).mean(1)


def _chance(videos: int) -> float:
    return 1 / (2 * videos - 1)
