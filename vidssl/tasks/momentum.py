"""Momentum contrast: what TDL and RSPNet share. He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual
Representation Learning", CVPR 2020.

A query network is trained to tell the key of its own video from keys of others. Keys come from a second network, whose
weights are a moving average of the first's, and the last K of them wait in a queue to be the others. Key network and
queue move once after each optimizer step; a forward pass changes neither.

What differs from the originals (PeihaoChen/RSPNet `moco/builder_diffspeed_diffloss.py`,
FingerRec/Self-Supervised-Temporal-Discriminative-Representation-Learning-for-Video-Action-Recognition
`src/train_temporal_dis.py`, `src/NCE/NCEAverage.py`), and why:
- The queue wraps around, so that a step may have any number of samples up to K. RSPNet refuses a K that is no multiple
  of its step, TDL leaves out the last, smaller step of each epoch; here all samples of an epoch are seen.
- The queue begins with random unit vectors. TDL fills its own with numbers of [-0.15, 0.15), which are shorter.
- Keys are shuffled over processes only where each has batch norm of its own (`encode_keys`).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..backbones.base import Backbone
from ..collective import gather_rows, world_size
from ..errors import ConfigError
from .base import ClipSpec, Task

DIM = 128
"""Length of the vectors that are compared, D; that of both originals."""


class Heads(nn.Module):
    """Linear layers side by side over a clip's feature.

    `forward(feature_BF) -> float32 [B, H, D]`, unit vectors.
    """

    def __init__(self, feature_dim: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(feature_dim, DIM) for _ in range(count))

    def forward(self, feature_BF: torch.Tensor) -> torch.Tensor:
        out = torch.stack([layer(feature_BF) for layer in self.layers], 1)
        return F.normalize(out.float(), dim=2)


class KeyEncoder(nn.Module):
    """A copy of backbone and heads that no gradient reaches. Its batch norms keep statistics of their own.

    `forward(clips_BCTHW) -> float32 [B, H, D]`, unit vectors.
    """

    def __init__(self, backbone: Backbone, heads: Heads) -> None:
        super().__init__()
        self.backbone = deepcopy(backbone)
        self.heads = deepcopy(heads)
        self.requires_grad_(False)

    def forward(self, clips_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.heads(self.backbone.pooled(clips_BCTHW))

    def follow(self, backbone: Backbone, heads: Heads, momentum: float) -> None:
        """Weights become momentum * own + (1 - momentum) * those given; buffers stay as they are."""
        theirs: Iterator[nn.Parameter] = chain(backbone.parameters(), heads.parameters())
        get_ema_multi_avg_fn(momentum)(list(self.parameters()), list(theirs), 0)


class KeyQueue(nn.Module):
    """The last K keys. Both tensors are part of the state dict, so that a resumed training goes on exactly.

    `forward(query_BD) -> float32 [B, K]`: the similarity of each query with each key.

    Attributes:
        keys: float32 [K, D], unit vectors; at first drawn from torch's seed, whatever else was drawn before.
        position: int64, the row that the next key goes to, which holds the oldest.
    """

    keys: torch.Tensor
    position: torch.Tensor

    def __init__(self, size: int, dim: int = DIM) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(torch.initial_seed())
        keys = F.normalize(torch.randn(size, dim, generator=generator, device="cpu"), dim=1)
        self.register_buffer("keys", keys.to(torch.get_default_device()))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def forward(self, query_BD: torch.Tensor) -> torch.Tensor:
        # bfloat16 cannot tell near keys apart; autocast knows no meta device
        with torch.autocast("cpu" if query_BD.is_meta else query_BD.device.type, enabled=False):
            return query_BD @ self.keys.T

    @torch.no_grad()
    def push(self, keys_ND: torch.Tensor) -> None:
        """Puts N keys in the place of the oldest ones. N is at most K, except that a queue of none takes none."""
        size, count = len(self.keys), len(keys_ND)
        if size == 0:
            return
        if count > size:
            raise ValueError(f"{count} keys for a queue of {size}")
        # index arithmetic on the device: asking it for the position would make the host wait
        rows = (self.position + torch.arange(count, device=self.position.device)) % size
        self.keys.index_copy_(0, rows, keys_ND.to(self.keys.dtype))
        self.position.add_(count).remainder_(size)


@torch.no_grad()
def encode_keys(encoder: nn.Module, clips_BCTHW: torch.Tensor, order_B: torch.Tensor) -> torch.Tensor:
    """The keys of these clips, shuffled over processes on the way where that makes a difference.

    Where each process has batch norm over its own clips, a query and its key would share their neighbours, and the
    network could find the key by the neighbours' statistics instead of its content (He et al., section 3.3). So the
    clips of all processes are put into another order, each process encodes as many as it brought, and the keys go back
    to where their clips came from. Batch norm over the whole step (the default) does not depend on the order of its
    samples, nor does that of a single process, and nothing is shuffled.

    Args:
        order_B: a random number of each sample; clips are sorted by it.
    """
    if not _has_own_statistics(encoder):
        return encoder(clips_BCTHW)
    everyone, first = gather_rows(clips_BCTHW)
    places = gather_rows(order_B)[0].argsort(stable=True)
    mine = slice(first, first + len(clips_BCTHW))
    shuffled, _ = gather_rows(encoder(everyone[places[mine]]))
    keys = torch.empty_like(shuffled)
    keys[places] = shuffled
    return keys[mine]


def _has_own_statistics(encoder: nn.Module) -> bool:
    """Whether batch norm sees the clips of one of several processes. Those over all processes are other classes."""
    own = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return world_size() > 1 and encoder.training and any(isinstance(module, own) for module in encoder.modules())


def info_nce(positive_B: torch.Tensor, negatives_BK: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean of -log softmax of the positive among 1 + K similarities (van den Oord, Li, Vinyals, arXiv 2018)."""
    logits = torch.cat([positive_B[:, None], negatives_BK], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def is_first(positive_B: torch.Tensor, negatives_BK: torch.Tensor) -> torch.Tensor:
    """float [B]: 1 where the positive is more similar than every negative. Equal is not more: a network that has
    collapsed scores 0."""
    return (positive_B[:, None] > negatives_BK).all(1).float()


def check_contrast(task: str, temperature: float, momentum: float, queue: int, least: int, original: int) -> None:
    """Raises ConfigError for settings that momentum contrast cannot work with."""
    if temperature <= 0:
        raise ConfigError(f"{task}: temperature={temperature}; legal: more than 0, the original has 0.07.")
    if not 0 <= momentum < 1:
        raise ConfigError(f"{task}: momentum={momentum} is outside 0 to 1 (1 excluded); the original has 0.999.")
    if queue < least:
        raise ConfigError(f"{task}: queue={queue}; legal: {least} and more, the benchmark has {original}.")


class MomentumTask(Task):
    """Base of the tasks with a queue. `forward` returns the step's `keys` float [B, D] while it trains.

    Args:
        num_heads: H. queue: K. momentum: of the key network's weights.
    """

    contrastive = True
    kept: ClassVar[tuple[str, ...]] = ("keys",)

    def __init__(self, backbone: Backbone, clip: ClipSpec, num_heads: int, queue: int, momentum: float) -> None:
        super().__init__(backbone, clip)
        self.momentum = momentum
        self.heads = Heads(backbone.feature_dim, num_heads)
        self.key_encoder = KeyEncoder(backbone, self.heads)
        self.queue = KeyQueue(queue)

    def embed(self, clips_BCTHW: torch.Tensor) -> torch.Tensor:
        """Queries: float32 [B, H, D], unit vectors."""
        return self.heads(self.backbone.pooled(clips_BCTHW))

    def after_step(self, kept: dict[str, torch.Tensor]) -> None:
        self.key_encoder.follow(self.backbone, self.heads, self.momentum)
        self.queue.push(gather_rows(kept["keys"])[0])

    def check_data(self, num_videos: int, batch: int) -> list[str]:
        size, step = len(self.queue.keys), min(batch, num_videos)
        if 0 < size < step:
            raise ConfigError(
                f"{self.name}: a queue of {size} keys is smaller than a step of {step} videos. Take a larger "
                "--set task.queue or a smaller --set pretrain.batch."
            )
        if size <= num_videos:
            return []
        # with a fresh order each epoch, a queue of K keys holds the video's own with probability K^2 / (2 N^2)
        enough = max(step, num_videos // 4)
        return [
            f"{self.name}: the queue holds {size} keys and there are {num_videos} videos, so that half of the clips or "
            f"more meet their own video among their negatives. --set task.queue={enough} makes that rare."
        ]
