"""Run by test_ranks.py under torchrun: trains every task for some steps on this rank's share and keeps what came out.

Args: folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from tests.engine.toys import toy_store
from tests.tasks.test_contract import smooth_frames
from vidssl import create_task, list_tasks
from vidssl.backbones.base import Backbone
from vidssl.data.decode.base import Decoder
from vidssl.engine.context import Context
from vidssl.engine.progress import Reporter
from vidssl.engine.runs import RunDirectory
from vidssl.engine.trainer import Trainer
from vidssl.presets import SMALL_TASK
from vidssl.spec import EngineSpec, StageSpec
from vidssl.tasks.base import ClipSpec

OPTIONS = {"vcop": {"dropout": 0.0}, "tdl": {"queue": 20}, "rspnet": {"queue": 20}}
"""Dropout draws by place in a rank's share; 20 is no multiple of the steps' sizes, so that the queues wrap around."""

RUNS = {name: (name, {**SMALL_TASK.get(name, {}), **OPTIONS.get(name, {})}) for name in list_tasks()}
RUNS["rotnet-all"] = "rotnet", {"copies": "all"}
RUNS["vcop-paper"] = "vcop", {"dropout": 0.0}
"""name -> task and its options: the small preset's, and what only the benchmark's defaults do."""


class SmallBackbone(Backbone):
    feature_dim, stride, taps = 16, (4, 8, 8), ()

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, 8, 4, stride=4, bias=False),
            nn.BatchNorm3d(8),
            nn.ReLU(),
            nn.Conv3d(8, 16, (1, 2, 2), stride=(1, 2, 2), bias=False),
            nn.BatchNorm3d(16),
            nn.ReLU(),
        )

    def feature_map(self, x_BCTHW):
        return self.layers(x_BCTHW)


class SmoothDecoder(Decoder):
    name = "smooth"

    def __init__(self, store) -> None:
        super().__init__(store, torch.device("cpu"), 1)

    def decode(self, requests):
        # a video's picture is a function of its number: the first rows are those of the videos before it
        indices = [np.tile(request.frame_indices, (request.video + 1, 1)) for request in requests]
        return torch.stack([smooth_frames(each)[-1] for each in indices])


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    world, rank = accelerator.num_processes, accelerator.process_index
    engine = EngineSpec(precision="fp32", compile="off", layout="contiguous", log_every=1)
    for name, (task_name, options) in RUNS.items():
        torch.manual_seed(0)
        task = create_task(task_name, SmallBackbone(), ClipSpec(8, 32), **options)
        run = RunDirectory(folder / f"{name}-world{world}", accelerator.is_main_process)
        context = Context(accelerator, engine, run, "request", 0, Reporter(quiet=True))
        decoder = SmoothDecoder(toy_store(videos=14, frames=140))
        Trainer("pretrain", task, StageSpec(epochs=1, batch=5, lr=0.01), decoder, np.arange(14), context).fit()
        torch.save(task.state_dict(), folder / f"{name}-world{world}-rank{rank}.pt")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
