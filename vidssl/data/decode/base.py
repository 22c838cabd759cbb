"""The contract of every decoder: clip requests in, one uint8 tensor out, on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..store import Store


@dataclass(frozen=True)
class ClipRequest:
    """Frames of one video: `video` is its row in the store, `frame_indices` int64 [T], any order, repeats allowed."""

    video: int
    frame_indices: np.ndarray


class Decoder(ABC):
    """Turns requests into frames.

    Every request of one call has the same T. The result is uint8 [B, T, H, W, 3], RGB, of the store's picture size
    (padding of the coded frame removed), on `device`. A decoder may be called from one thread at a time.
    """

    name: str

    def __init__(self, store: Store, device: torch.device, threads: int) -> None:
        self.store = store
        self.device = device
        self.threads = threads

    @abstractmethod
    def decode(self, requests: Sequence[ClipRequest]) -> torch.Tensor: ...

    def close(self) -> None:  # noqa: B027 - most decoders hold nothing
        """Gives back threads and device memory."""
