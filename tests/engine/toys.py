"""A store, decoder, backbone and task small enough to train in milliseconds; the frames carry their own numbers."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vidssl.backbones.base import Backbone
from vidssl.data.decode.base import Decoder
from vidssl.data.plan import choose
from vidssl.data.store import video_key
from vidssl.tasks.base import ClipSpec, Draw, Request, Task


def toy_store(videos: int = 13, frames: int = 40) -> SimpleNamespace:
    ids = [f"video{i}" for i in range(videos)]
    return SimpleNamespace(
        ids=ids,
        keys=np.array([video_key(i) for i in ids], np.uint64),
        frames=np.full(videos, frames, np.int64),
        labels=np.arange(videos) % 2,
    )


class ToyDecoder(Decoder):
    """Pixel (0, 0) of a frame is the video's number, pixel (0, 1) the frame's; the rest is a pattern of both."""

    name = "toy"

    def __init__(self, store) -> None:
        super().__init__(store, torch.device("cpu"), 1)
        self.seen: list[tuple[int, tuple[int, ...]]] = []

    def decode(self, requests):
        out = np.zeros((len(requests), len(requests[0].frame_indices), 8, 8, 3), np.uint8)
        for row, request in zip(out, requests, strict=True):
            self.seen.append((request.video, tuple(request.frame_indices.tolist())))
            row[:] = (
                (request.video * 31 + request.frame_indices[:, None, None, None]) * np.arange(64).reshape(8, 8, 1)
            ) % 251
            row[:, 0, 0] = request.video
            row[:, 0, 1] = request.frame_indices[:, None]
        return torch.from_numpy(out)


class ToyBackbone(Backbone):
    feature_dim, stride, taps = 6, (1, 2, 2), ("conv",)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 6, 3, stride=(1, 2, 2), padding=1)
        self.norm = nn.BatchNorm3d(6)

    def forward(self, x_BCTHW):
        return F.relu(self.norm(self.conv(x_BCTHW)))


class ToyTask(Task):
    """Is the clip shown forwards or backwards? With dropout, so that torch's random state matters."""

    name = "toy"

    @dataclass(frozen=True)
    class Args:
        pass

    def __init__(self, backbone: Backbone, clip: ClipSpec) -> None:
        super().__init__(backbone, clip)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(backbone.feature_dim, 2))

    def request(self) -> Request:
        return Request(num_frames=4, num_uniforms=2, min_frames=4)

    def draw(self, uniforms_NU, video_frames_N) -> Draw:
        start = choose(uniforms_NU[:, 0], video_frames_N - 3)
        return Draw(start[:, None] + np.arange(4), {"backwards": choose(uniforms_NU[:, 1], 2)})

    def views(self, frames_BTHWC, params):
        x = frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255
        flag = params["backwards"].bool()[:, None, None, None, None]
        return {"x": torch.where(flag, x.flip(2), x), "label": params["backwards"]}

    def forward(self, views):
        logits = self.head(self.backbone.pooled(views["x"]))
        return {
            "loss": F.cross_entropy(logits, views["label"]),
            "accuracy": (logits.argmax(1) == views["label"]).float(),
        }

    def chance(self) -> float:
        return 0.5


def toy_task(seed: int = 0) -> ToyTask:
    torch.manual_seed(seed)
    return ToyTask(ToyBackbone(), ClipSpec(4, 8))
