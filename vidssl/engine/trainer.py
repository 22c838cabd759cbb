"""The one training loop. It knows nothing of any task: it takes views, a loss and a metric.

Accelerate brings precision, devices and the gradient's way between processes; which samples come when is the plan's.
A step's gradient is the mean over all its samples, however they are spread over ranks and passes.

Exactness: weights and log after N steps are those of a run that was never stopped, bit for bit on a CPU, because the
plan is a function of the step, the learning rate is a function of the step, and a checkpoint holds everything else.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast, broadcast_object_list, gather_object

from ..data.decode.base import Decoder
from ..data.loader import Batch, ClipLoader
from ..data.plan import Plan
from ..errors import ConfigError, RunError
from ..spec import StageSpec
from ..tasks.base import Task
from . import checkpoint
from .batchnorm import synchronise
from .context import Context
from .health import Health
from .optim import build_optimizer, learning_rate, set_learning_rate
from .progress import Meter
from .signals import Interrupted, StopRequest, stop_on_signals
from .step_log import StepLog

CHECKPOINT_SECONDS = 60.0
_RANK_STREAM = 15_485_863  # times the rank, added to the seed: far from the seeds of other runs and fine-tunings


def require_whole_steps(stage: str, task: Task, batch: int, micro_batch: int, world: int) -> None:
    """Raises ConfigError where a step of `batch` samples would be split that the task needs whole."""
    own = -(-batch // world)
    if task.whole_steps and 0 < micro_batch < own:
        raise ConfigError(
            f"{task.name} compares all samples of a step, so that a step of {own} on this device cannot be split into "
            f"passes of engine.micro_batch={micro_batch}. Take a smaller --set {stage}.batch, more processes, or "
            "engine.micro_batch=0."
        )


class Trainer:
    """Trains a task on rows of a store, from the newest checkpoint if there is one.

    Args:
        name: of the stage; names its checkpoints and log lines.
        samples: int64 [N], rows of the decoder's store.
        watch: called with the number of epochs done, before the first and after each; what it returns is logged.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        stage: StageSpec,
        decoder: Decoder,
        samples: np.ndarray,
        context: Context,
        watch: Callable[[int], dict[str, Any] | None] | None = None,
    ) -> None:
        self.name, self.stage, self.decoder, self.context, self.watch = name, stage, decoder, context, watch
        accelerator = context.accelerator
        self.plan = Plan(
            samples=samples,
            keys=decoder.store.keys[samples],
            batch=min(stage.batch, len(samples)),
            epochs=stage.epochs,
            seed=context.seed,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        require_whole_steps(name, task, self.plan.batch, context.engine.micro_batch, self.plan.world)
        for note in task.check_data(len(samples), self.plan.batch):
            context.reporter.say(f"{name}: {note}")
        self.largest_step = -(-len(samples) // self.plan.steps_per_epoch)
        if stage.epochs and self.largest_step != stage.batch:
            context.reporter.say(
                f"{name}: steps have {self.largest_step} samples at most, not {name}.batch = {stage.batch}: an epoch's "
                f"{len(samples)} are shared equally by {self.plan.steps_per_epoch} step(s). The learning rate is used "
                "as it is set."
            )
        if accelerator.num_processes > 1 and context.engine.batch_norm == "synced":
            synchronise(task, accelerator.device)
        if context.engine.layout == "channels_last":
            task.to(memory_format=torch.channels_last_3d)
        self.task = task
        # on a GPU the pointwise parts of the views become one kernel
        self._views = torch.compile(task.views) if context.engine.compile == "on" else task.views
        optimizer = build_optimizer(task, stage)
        self.model, self.optimizer = accelerator.prepare(task, optimizer)
        # dropout and drop path draw by place in a rank's share: ranks that drew alike would drop the same units for the
        # i-th sample of each. The first one goes on with what it has, as a process alone does.
        if self.plan.rank:
            torch.manual_seed(context.seed + _RANK_STREAM * self.plan.rank)
        self.directory = Path(context.run.path) / "checkpoints"
        self.step_log = StepLog(accelerator.device)
        self._kept: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
        has_levels = hasattr(getattr(task, "args", None), "complexity")
        self.health = Health(name, self.plan.num_steps, has_levels, task.below_chance)
        self._note = ""
        self._begun, self._seconds_before = time.perf_counter(), 0.0
        self._log_every = context.engine.log_every or max(1, self.plan.num_steps // 50)
        self._saved_at = time.monotonic()

    def fit(self) -> dict[str, Any]:
        """Trains to the end. Returns what the stage's summary needs; raises Interrupted if asked to stop."""
        start = self._restore()
        begun = time.perf_counter()
        waited = 0.0
        loader = ClipLoader(
            self.plan,
            self.task,
            self.decoder,
            start=start,
            micro_batch=self.context.engine.micro_batch,
            prefetch=self.context.engine.prefetch,
        )
        self._begun, self._watched = begun, 0.0
        self.step_log.start_clock()
        if start == 0:
            self._watch(0, 0)
        self.model.train()
        clips = 0
        with stop_on_signals() as stop, self.context.reporter.meter(self.name, self.plan.num_steps, start) as meter:
            for batch in loader:
                self._backward(batch)
                waited += batch.wait_seconds
                clips += len(batch.samples) * self.plan.world
                if not batch.last_of_step:
                    continue
                self._update(batch.step)
                self._after_step(batch.step + 1, batch.epoch, clips, waited, meter, stop)
        self._agree_on_buffers()
        seconds = time.perf_counter() - begun
        training = seconds - self._watched
        extended, every_clip = self.step_log.counts()
        self.context.accelerator.free_memory()  # else it holds this stage's optimizer until the run ends
        return {
            "steps": self.plan.num_steps,
            "epochs": self.plan.epochs,
            "largest_step": self.largest_step,
            "seconds": self._seconds_before + seconds,
            "clips_per_second": clips / training if clips else None,
            "data_wait": waited / training if clips else None,
            "extended_clips": extended,
            "clips": every_clip,
            "resumed_at_step": start,
            "warnings": self.health.warnings,
        }

    def _backward(self, batch: Batch) -> None:
        accelerator = self.context.accelerator
        with torch.no_grad():
            views = self._views(batch.frames_BTHWC, batch.params)
        if batch.last_of_step:
            out = self._loss_backward(views, batch)
        else:
            with accelerator.no_sync(self.model):
                out = self._loss_backward(views, batch)
        count = len(batch.samples)
        self.step_log.count(count, batch.num_extended)
        for key, value in out.items():
            if key in self.task.kept:
                self._kept[key].append(value.detach())
            else:
                self.step_log.add(key, value, count)

    def _loss_backward(self, views: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        try:
            out = self.model(views)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise RunError(
                f"{self.name}: a pass of {len(batch.samples)} clip is too small for batch norm. Take a larger "
                f"--set {self.name}.batch or engine.micro_batch, fewer processes, or more videos."
            ) from error
        # processes average their gradients, so each counts by its share of the step's samples
        share = len(batch.samples) * self.plan.world / batch.step_size
        self.context.accelerator.backward(out["loss"] * share)
        return out

    def _update(self, step: int) -> None:
        set_learning_rate(self.optimizer, learning_rate(self.stage, step, self.plan.steps_per_epoch))
        if self.stage.clip_gradient:
            self.context.accelerator.clip_grad_norm_(self.model.parameters(), self.stage.clip_gradient)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.task.after_step({key: torch.cat(parts) for key, parts in self._kept.items()})
        self._kept.clear()

    def _after_step(self, done: int, epoch: int, clips: int, waited: float, meter: Meter, stop: StopRequest) -> None:
        note = ""
        if done % self._log_every == 0 or done == self.plan.num_steps:
            note = self._log(done, epoch, clips, waited, meter)
        self._note = note or self._note
        meter.update(done, self._note)
        if done % self.plan.steps_per_epoch == 0:
            self._watch(done // self.plan.steps_per_epoch, done)
        number = self._agreed_stop(stop)
        if done == self.plan.num_steps or number or self._checkpoint_due(done):
            self._save(done)
        if number and done < self.plan.num_steps:
            raise Interrupted(number, f"{self.name}, step {done} of {self.plan.num_steps}")

    def _checkpoint_due(self, done: int) -> bool:
        every = self.context.engine.checkpoint_every
        if every:
            return done % every == 0
        if done % self.plan.steps_per_epoch:
            return False
        # the clock of one process decides for all; when a checkpoint is written changes no result
        due = [time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS]
        return bool(broadcast_object_list(due)[0])

    def _agreed_stop(self, stop: StopRequest) -> int:
        # a signal reaches processes at different steps; all must leave at the same one
        if self.plan.world == 1:
            return stop.number
        flag = torch.tensor(stop.number, device=self.context.device)
        return int(self.context.accelerator.gather(flag.reshape(1)).max())

    def _log(self, done: int, epoch: int, clips: int, waited: float, meter: Meter) -> str:
        means, count = self.step_log.means()
        if not math.isfinite(means["loss"]):
            raise RunError(
                f"the loss of {self.name} is {means['loss']} at step {done}. Try a smaller --set {self.name}.lr, a "
                f"--set {self.name}.clip_gradient, or --set engine.precision=fp32. The checkpoints before it are whole."
            )
        chance = means.pop("chance", self.task.chance())
        if self.task.metric in means:
            self._warn(self.health.metric(done, means[self.task.metric], chance, count))
        record = {
            "stage": self.name,
            "step": done,
            "epoch": epoch,
            **means,
            "chance": chance,
            "lr": learning_rate(self.stage, done - 1, self.plan.steps_per_epoch),
        }
        timing = self.step_log.timing(clips, waited, self._log_every, self.plan.num_steps - done)
        self.context.run.log({**record, "time": timing})
        metric = self.task.metric
        shown = f"{metric} {means[metric]:.3f} (chance {record['chance']:.3f})  " if metric in means else ""
        return (
            f"loss {means['loss']:.4f}  {shown}{timing['clips_per_second']:.1f} clips/s  "
            f"wait {100 * timing['data_wait']:.0f} %  {timing['memory_gib']:.1f} GiB"
        )

    def _watch(self, epochs: int, done: int) -> None:
        """Logs what the features are worth; before the checkpoint of the step, so that both are kept or neither."""
        if self.watch is None:
            return
        begin = time.perf_counter()
        self._agree_on_buffers()
        seen = self.watch(epochs)
        self.model.train()
        seconds = time.perf_counter() - begin
        self._watched += seconds
        self.step_log.leave_out(seconds)
        if seen is None:
            return
        shown = "  ".join(f"{key} {value:.3f}" for key, value in seen.items())
        self.context.reporter.say(f"{self.name}, {epochs} epochs: {shown}")
        self.context.run.log(
            {
                "stage": self.name,
                "step": done,
                "epoch": epochs,
                "watch": seen,
                "time": {"seconds": seconds},
            }
        )
        self._warn(self.health.features(done, seen))

    def _agree_on_buffers(self) -> None:
        """Every process looks at the first one's network. With synced batch norm they are the same already."""
        if self.plan.world > 1 and self.context.engine.batch_norm == "local":
            for buffer in self.task.buffers():
                broadcast(buffer)

    def _warn(self, warning: str | None) -> None:
        if warning:
            self.context.reporter.say(f"warning: {warning}")

    def _save(self, step: int) -> None:
        accelerator = self.context.accelerator
        states = gather_object([checkpoint.random_states()])
        totals = self.step_log.state()
        self._saved_at = time.monotonic()
        if not accelerator.is_main_process:
            return
        keep = 1 if step == self.plan.num_steps else 2
        checkpoint.save(
            self.directory,
            self.name,
            step,
            {
                "request": self.context.request,
                "step": step,
                "world": self.plan.world,
                "model": accelerator.unwrap_model(self.model, keep_torch_compile=False).state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": states,
                **totals,
                "health": self.health.state(),
                "seconds": self._seconds_before + time.perf_counter() - self._begun,
            },
            keep,
        )

    def _restore(self) -> int:
        found = checkpoint.list_checkpoints(self.directory, self.name)
        if not found:
            self.context.run.rewind_log(self.name, -1)  # a look before the first step has the number 0
            return 0
        state = checkpoint.load(found[-1], self.context.request)
        if state["world"] != self.plan.world:
            raise RunError(
                f"{found[-1]} was written by {state['world']} process(es), this run has {self.plan.world}. Start it "
                f"with as many, "
                "or begin anew in another folder with --out."
            )
        self.context.accelerator.unwrap_model(self.model, keep_torch_compile=False).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        rank = self.plan.rank
        checkpoint.set_random_states(state["random"][rank])
        self.step_log.restore(state, rank)
        self._seconds_before = state["seconds"]
        self.health.restore(state["health"])
        step = int(state["step"])
        self.context.run.rewind_log(self.name, step)
        if step < self.plan.num_steps:
            self.context.reporter.say(f"{self.name}: going on at step {step} of {self.plan.num_steps}")
        return step
