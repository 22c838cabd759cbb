import numpy as np
import pytest
import torch


@pytest.fixture
def moving_frames():
    """A maker of uint8 frames [B, T, H, W, 3], smooth and different everywhere: a wrong sign shows."""

    def make(batch=2, frames=3, height=40, width=53):
        b, t, y, x, c = np.meshgrid(*map(np.arange, (batch, frames, height, width, 3)), indexing="ij")
        value = 127 + 60 * np.sin(0.21 * x + 0.4 * c + 0.5 * b)
        value += 55 * np.cos(0.17 * y + 0.3 * t + 0.02 * x * (c + 1))
        return torch.from_numpy(value.clip(0, 255).astype(np.uint8))

    return make
