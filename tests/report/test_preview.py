"""The preview is a PNG of the views that training would see, showing every label."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vidssl import create_backbone, create_task
from vidssl.errors import ConfigError, RunError
from vidssl.report.preview import _choose_samples, draw_preview
from vidssl.tasks.base import ClipSpec


class FakeStore(SimpleNamespace):
    def __len__(self):
        return len(self.ids)


class FakeDecoder:
    def decode(self, requests):
        """A bright column that moves one pixel a frame."""
        frames = torch.zeros(len(requests), len(requests[0].frame_indices), 40, 53, 3, dtype=torch.uint8)
        for b, request in enumerate(requests):
            for t, index in enumerate(request.frame_indices):
                frames[b, t, :, int(index) % 53] = 200
        return frames


@pytest.fixture
def store():
    return FakeStore(
        ids=["a.mp4", "b.mp4", "c.mp4"],
        frames=np.array([150, 200, 40]),
        keys=np.arange(3, dtype=np.uint64),
        path="here",
    )


@pytest.fixture
def task():
    return create_task("prp", create_backbone("shufflenet", width=0.5), ClipSpec(16, 32), decoder_width=0.02)


def test_png_is_written_and_repeatable(store, task, tmp_path: Path):
    out = draw_preview(task, store, FakeDecoder(), tmp_path / "deep" / "a.png", seed=3, num_samples=2)
    again = draw_preview(task, store, FakeDecoder(), tmp_path / "b.png", seed=3, num_samples=2)
    other = draw_preview(task, store, FakeDecoder(), tmp_path / "c.png", seed=4, num_samples=2)
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert out.read_bytes() == again.read_bytes()
    assert out.read_bytes() != other.read_bytes()


def test_every_dilation_is_shown(store, task):
    rows, drawn = _choose_samples(task, store, seed=0, num_samples=4)
    assert drawn.params["step"].tolist() == [0, 1, 2, 3]
    assert drawn.frame_indices.shape == (4, 64)
    assert (drawn.frame_indices.max(1) < store.frames[rows]).all()


def test_mistakes(store, task, tmp_path: Path):
    with pytest.raises(ConfigError, match="draws no picture"):
        draw_preview(SimpleNamespace(name="plain"), store, FakeDecoder(), tmp_path / "a.png")
    with pytest.raises(ConfigError, match="1 and more"):
        draw_preview(task, store, FakeDecoder(), tmp_path / "a.png", num_samples=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        draw_preview(task, store, FakeDecoder(), tmp_path / "file" / "a.png", num_samples=1)
