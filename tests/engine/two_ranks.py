"""Run by test_ranks.py under torchrun: trains the toy task on this rank's share and writes what it saw; on two ranks
also with dropout, whole and killed.

Args: folder.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from tests.engine.toys import ToyDecoder, toy_store, toy_task
from vidssl.engine.context import Context
from vidssl.engine.progress import Reporter
from vidssl.engine.runs import RunDirectory
from vidssl.engine.trainer import Trainer
from vidssl.evals.pretext import evaluate_pretext
from vidssl.spec import EngineSpec, StageSpec


class Killed(BaseException):
    pass


def train_with_dropout(accelerator: Accelerator, folder: Path, name: str, killed_after: int) -> None:
    """Keeps the network and, of the first step, which units of the first sample were dropped.

    Args:
        killed_after: epochs, then it is killed and started again; 0 for never.
    """
    dropped: list[list[bool]] = []

    def kill(epochs: int) -> None:
        if epochs == killed_after:
            raise Killed

    for watch in (kill, None) if killed_after else (None,):
        task = toy_task()
        task.head[0].register_forward_hook(lambda _, x, y: dropped.append(((y == 0) & (x[0] != 0))[0].tolist()))
        engine = EngineSpec(precision="fp32", compile="off", layout="contiguous", checkpoint_every=2)
        run = RunDirectory(folder / name, accelerator.is_main_process)
        context = Context(accelerator, engine, run, "request", 0, Reporter(quiet=True))
        stage, decoder = StageSpec(epochs=3, batch=5, lr=0.05), ToyDecoder(toy_store())
        trainer = Trainer("pretrain", task, stage, decoder, np.arange(13), context, watch)
        with suppress(Killed):
            start = trainer.fit()["resumed_at_step"]
        accelerator.wait_for_everyone()
    rank = accelerator.process_index
    torch.save(task.state_dict(), folder / f"{name}-rank{rank}.pt")
    (folder / f"{name}-rank{rank}.json").write_text(json.dumps({"dropped": dropped[0], "start": start}))


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    task = toy_task()
    task.head[0] = torch.nn.Identity()  # dropout draws by place in a rank's share
    decoder = ToyDecoder(toy_store())
    engine = EngineSpec(precision="fp32", compile="off", layout="contiguous", log_every=2)
    run = RunDirectory(folder / f"world{accelerator.num_processes}", accelerator.is_main_process)
    context = Context(accelerator, engine, run, "request", 0, Reporter(quiet=True))
    trainer = Trainer("pretrain", task, StageSpec(epochs=3, batch=5, lr=0.05), decoder, np.arange(13), context)
    trainer.fit()
    seen = list(decoder.seen)
    draw = task.draw
    decoder.store.frames[:2] = 10
    task.draw = lambda uniforms, frames: replace(draw(uniforms, frames), extended=frames < 20)
    tested = evaluate_pretext(task, decoder, np.arange(13), context, repeats=2, batch=4)
    name = f"world{accelerator.num_processes}-rank{accelerator.process_index}"
    (folder / f"{name}.json").write_text(json.dumps({"seen": seen, "tested": tested}))
    torch.save(task.state_dict(), folder / f"{name}.pt")
    if accelerator.num_processes > 1:
        train_with_dropout(accelerator, folder, "dropout", 0)
        train_with_dropout(accelerator, folder, "killed", 2)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
