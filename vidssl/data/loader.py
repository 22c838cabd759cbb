"""Plan + decoder -> batches on the device, decoded ahead in one background thread.

The thread only decodes; what is decoded was decided by the plan and by the task's `draw`. The position is the step
number, so a loader that starts at step n gives what an uninterrupted one would give from there on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..tasks.base import Draw, Task
from .decode.base import ClipRequest, Decoder
from .plan import Plan, uniforms


@dataclass
class Batch:
    """One pass through the network: a step of this rank, or a part of it.

    `frames_BTHWC` uint8 and `params` are on the device; `params` always has `label` and `sample`, int64 [B].
    `num_extended` counts clips of videos that were too short; `wait_seconds` is how long the consumer waited.
    """

    step: int
    epoch: int
    samples: np.ndarray
    step_size: int
    last_of_step: bool
    frames_BTHWC: torch.Tensor
    params: dict[str, torch.Tensor]
    num_extended: int
    wait_seconds: float = 0.0


class ClipLoader:
    """Iterates over the batches of steps [start, stop).

    Args:
        plan: which samples each step has.
        task: `draw` decides frames and parameters.
        decoder: over the store that the plan's samples are rows of.
        micro_batch: largest batch; a larger step comes in several near-equal parts. 0 for no limit. (1 on several ranks
            with unequal shares gives the larger share a batch of 2.)
        prefetch: batches decoded ahead.
    """

    def __init__(
        self,
        plan: Plan,
        task: Task,
        decoder: Decoder,
        start: int = 0,
        stop: int | None = None,
        micro_batch: int = 0,
        prefetch: int = 2,
    ) -> None:
        self.plan = plan
        self.task = task
        self.decoder = decoder
        self.start = start
        self.stop = plan.num_steps if stop is None else stop
        self.micro_batch = micro_batch
        self.prefetch = prefetch

    def __iter__(self) -> Iterator[Batch]:
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=self.prefetch)
        stopped = threading.Event()

        def offer(item: Batch | BaseException | None) -> bool:
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                for number in range(self.start, self.stop):
                    for batch in self._step(number):
                        if not offer(batch):
                            return
                offer(None)
            except BaseException as error:
                offer(error)

        thread = threading.Thread(target=work, name="vidssl-decode", daemon=True)
        thread.start()
        try:
            while True:
                begin = time.perf_counter()
                item = ready.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                item.wait_seconds = time.perf_counter() - begin
                yield item
        finally:
            stopped.set()
            thread.join()

    def _step(self, number: int) -> Iterator[Batch]:
        step = self.plan.step(number)
        store = self.decoder.store
        request = self.task.request()
        draw = self.task.draw(
            uniforms(self.plan.seed, step.epoch, store.keys[step.samples], request.num_uniforms),
            store.frames[step.samples],
        )
        count = len(step.samples)
        parts = self._parts(step.size)
        for part in range(parts):
            rows = slice(count * part // parts, count * (part + 1) // parts)
            yield self._decode(step.number, step.epoch, step.samples[rows], step.size, part == parts - 1, draw, rows)

    def _parts(self, step_size: int) -> int:
        """How many passes a step takes: as many on every rank, because ranks talk to each other within a pass."""
        if not self.micro_batch:
            return 1
        world = self.plan.world
        smallest, largest = step_size // world, -(-step_size // world)
        return min(-(-largest // self.micro_batch), smallest)  # no pass without a sample

    def _decode(
        self, number: int, epoch: int, samples: np.ndarray, size: int, last: bool, draw: Draw, rows: slice
    ) -> Batch:
        store, device = self.decoder.store, self.decoder.device
        indices = draw.frame_indices[rows]
        frames = self.decoder.decode([ClipRequest(int(v), i) for v, i in zip(samples, indices, strict=True)])
        values = {name: array[rows] for name, array in draw.params.items()}
        values |= {"label": store.labels[samples], "sample": samples}
        params = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in values.items()}
        extended = 0 if draw.extended is None else int(draw.extended[rows].sum())
        return Batch(number, epoch, samples, size, last, frames, params, extended)
