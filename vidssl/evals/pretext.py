"""How well the pretext task itself was learned, on videos it was not trained on, with chance beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from ..data.decode.base import Decoder
from ..data.loader import ClipLoader
from ..data.plan import Plan
from ..engine.context import Context
from ..tasks.base import Task
from .statistics import clustered_interval

_STREAM = 1_000_003  # added to the seed: no clip drawn here was drawn in training


def evaluate_pretext(
    task: Task, decoder: Decoder, samples: np.ndarray, context: Context, repeats: int, batch: int
) -> dict[str, Any]:
    """Scores the task on each video `repeats` times, with fresh clips each time.

    A task that compares the clips of a step with each other is scored in steps of `batch` videos, drawn anew each time.

    Returns:
        metric (name), value, chance, interval (95 %, videos as clusters), clips, test_extended_clips (of videos that
        were too short for them), videos.
    """
    accelerator = context.accelerator
    plan = Plan(
        samples,
        decoder.store.keys[samples],
        batch=min(batch, len(samples)),
        epochs=repeats,
        seed=context.seed + _STREAM,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    task.to(accelerator.device).eval()
    scores, chances, videos, extended = [], [], [], 0
    with (
        context.reporter.meter("pretext test", plan.num_steps) as meter,
        torch.inference_mode(),
        accelerator.autocast(),
    ):
        for step in ClipLoader(plan, task, decoder, prefetch=context.engine.prefetch):
            out = task(task.views(step.frames_BTHWC, step.params))
            scores += out[task.metric].float().cpu().tolist()
            chances += [float(out.get("chance", task.chance()))] * len(step.samples)
            videos += step.samples.tolist()
            extended += step.num_extended
            meter.update(step.step + 1)
    value, cluster = np.array(gather_object(scores)), np.array(gather_object(videos))
    return {
        "metric": task.metric,
        "value": float(value.mean()),
        "chance": float(np.mean(gather_object(chances))),
        "interval": list(clustered_interval(value, cluster)),
        "clips": len(value),
        "test_extended_clips": sum(gather_object([extended])),
        "videos": len(np.unique(cluster)),
    }
