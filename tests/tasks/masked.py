"""What the tests of V-MAE share: small networks, draws, and views of noise."""

import numpy as np
import torch
from torch import nn

from vidssl import create_task
from vidssl.backbones.base import Backbone
from vidssl.backbones.vit import ViT
from vidssl.data.plan import uniforms
from vidssl.tasks.base import ClipSpec


class FakeBackbone(Backbone):
    """Means over blocks as large as the stride, spread over `feature_dim` channels; keeps what it was given."""

    def __init__(self, stride=(2, 16, 16), feature_dim=16):
        super().__init__()
        self.stride, self.feature_dim, self.taps = stride, feature_dim, ()
        self.mix = nn.Conv3d(3, feature_dim, 1)

    def feature_map(self, x_BCTHW):
        self.given = x_BCTHW
        sizes = [-(-n // s) for n, s in zip(x_BCTHW.shape[2:], self.stride, strict=True)]
        return self.mix(nn.functional.adaptive_avg_pool3d(x_BCTHW, sizes))


def short_vit():
    """VideoMAE's small network with two of its twelve blocks."""
    backbone = ViT(size="small")
    backbone.blocks = backbone.blocks[:2]
    return backbone


def make(backbone=None, clip=None, **options):
    options = {"recipe": "original", "decoder_width": 1 / 16, **options}
    return create_task("vmae", backbone or FakeBackbone(), clip or ClipSpec(16, 48), **options)


def draw(task, count=200, frames=250, seed=0, epoch=0):
    keys = np.arange(count, dtype=np.uint64)
    return task.draw(uniforms(seed, epoch, keys, task.request().num_uniforms), np.full(count, frames))


def tensors(drawn, rows=slice(None)):
    return {name: torch.from_numpy(values[rows]) for name, values in drawn.params.items()}


def random_views(task, count=4, seed=0):
    """Views of noise: nothing in them is predictable."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, task.clip.frames, 56, 70, 3), dtype=torch.uint8, generator=generator)
    return task.views(frames, tensors(draw(task, count)))


def rebuild(task, clip_BCTHW, visible_BV, hidden_BM):
    views = {"clip_BCTHW": clip_BCTHW, "visible_BV": visible_BV, "hidden_BM": hidden_BM}
    with torch.no_grad():
        return task.reconstructor(task.backbone, views)
