"""What every stage of a run shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator

from ..spec import EngineSpec
from .progress import Reporter
from .runs import RunDirectory


@dataclass
class Context:
    """Devices, folder, seed and voice of a run.

    Args:
        request: hash of what was asked for; a checkpoint of another request is refused.
    """

    accelerator: Accelerator
    engine: EngineSpec
    run: RunDirectory
    request: str
    seed: int
    reporter: Reporter

    @property
    def device(self) -> torch.device:
        return self.accelerator.device
