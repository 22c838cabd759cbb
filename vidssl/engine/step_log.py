"""What the passes of a training report, added up from one log line to the next, and how fast they went."""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import gather_object


class StepLog:
    """Sums of one process. `means`, `state` and `counts` ask all processes and must be called by all.

    Sums stay on the device, so that adding does not wait for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sums: defaultdict[str, torch.Tensor | float] = defaultdict(float)
        self._num_extended = 0
        self._num_clips = 0
        self.start_clock()

    def start_clock(self) -> None:
        self._mark = (time.perf_counter(), 0, 0.0)

    def leave_out(self, seconds: float) -> None:
        """Time that was no training."""
        began, clips, waited = self._mark
        self._mark = (began + seconds, clips, waited)

    def count(self, clips: int, extended: int) -> None:
        """A pass of so many clips, of which so many are of videos too short for them."""
        self._num_extended += extended
        self._num_clips += clips
        self._sums["count"] += clips

    def add(self, key: str, value: torch.Tensor, clips: int) -> None:
        """A mean over the clips of a pass."""
        self._sums[key] += value.detach().double().mean() * clips

    def means(self) -> tuple[dict[str, float], int]:
        """Means over all clips since the last call, and their number."""
        parts = gather_object([{key: float(value) for key, value in self._sums.items()}])
        total: dict[str, float] = defaultdict(float)
        for part in parts:
            for key, value in part.items():
                total[key] += value
        self._sums.clear()
        count = total.pop("count")
        return {key: value / count for key, value in total.items()}, round(count)

    def timing(self, clips: int, waited: float, every: int, left: int) -> dict[str, float]:
        """Speed since the last call.

        Args:
            clips, waited: over the whole training, all processes and this one's seconds.
            every: steps from one call to the next. left: steps to the end.
        """
        now = time.perf_counter()
        began, clips_before, waited_before = self._mark
        self._mark = (now, clips, waited)
        seconds = max(now - began, 1e-9)
        return {
            "clips_per_second": (clips - clips_before) / seconds,
            "data_wait": (waited - waited_before) / seconds,
            "memory_gib": self._memory_gib(),
            "eta_seconds": left * (now - began) / max(1, every),
        }

    def counts(self) -> tuple[int, int]:
        """Clips of videos that were too short, and all clips, of the whole training."""
        counts = self._all_counts()
        return sum(extended for extended, _ in counts), sum(clips for _, clips in counts)

    def state(self) -> dict[str, Any]:
        """Of every process, for a checkpoint."""
        own = {key: torch.as_tensor(value, dtype=torch.float64).cpu() for key, value in self._sums.items()}
        return {"sums": gather_object([own]), "counts": self._all_counts()}

    def restore(self, state: Mapping[str, Any], rank: int) -> None:
        self._sums.update({key: value.to(self.device) for key, value in state["sums"][rank].items()})
        self._num_extended, self._num_clips = state["counts"][rank]

    def _all_counts(self) -> list[list[int]]:
        counts: list[list[int]] = gather_object([[self._num_extended, self._num_clips]])
        return counts

    def _memory_gib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
