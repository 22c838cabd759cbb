"""What the tests of the tasks share: draws of many samples, their views, and frames that carry their own number."""

import numpy as np
import torch

from vidssl.data.plan import uniforms


def draw(task, count=200, frames=200, epoch=0):
    """The draw of `count` videos, each of so many frames."""
    keys = np.arange(count, dtype=np.uint64)
    return task.draw(uniforms(0, epoch, keys, task.request().num_uniforms), np.full(count, frames))


def views_of(task, drawn, frames_BTHWC):
    return task.views(frames_BTHWC, {name: torch.from_numpy(values) for name, values in drawn.params.items()})


def numbered(indices, height=36, width=48):
    """Every pixel of frame n has the value n."""
    assert indices.max() < 256
    return torch.from_numpy(indices).to(torch.uint8)[:, :, None, None, None].expand(-1, -1, height, width, 3)
