"""Fine-tuning: everything trains on the training split, then evenly spaced clips of each test video are averaged.

With several seeds the same is done for each, and the mean is the result. The network of the first seed and what every
one said of the test videos are kept: finetuned.safetensors, predictions/finetune.npz, predictions/finetune-1.npz ...
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from ..backbones.base import Backbone
from ..engine.context import Context
from ..engine.runs import write_atomic
from ..engine.trainer import Trainer
from ..errors import RunError
from ..spec import RunSpec
from ..tasks.base import ClipSpec
from . import features
from .classify import Classify, ClassifyArgs
from .statistics import student_interval
from .target import Target

WEIGHTS = "finetuned.safetensors"


def finetune(backbone: Backbone, target: Target, spec: RunSpec, context: Context) -> dict[str, Any]:
    """Trains and tests `spec.eval.seeds` copies of a backbone. Returns the stage's result; finished seeds are not done
    again."""
    scores = [_one(backbone, target, spec, context, number) for number in range(spec.eval.seeds)]
    first = scores[0]
    if len(scores) == 1:
        return first
    top1 = [each["top1"] for each in scores]
    low, high = student_interval(top1)
    return {
        **first,
        "top1": float(np.mean(top1)),
        "interval": [max(0.0, low), min(1.0, high)],
        "interval_of": f"the mean of {len(top1)} seeds",
        "seeds": top1,
        "per_class": {
            name: float(np.mean([each["per_class"][name] for each in scores])) for name in first["per_class"]
        },
    }


def build_classifier(backbone: Backbone, target: Target, spec: RunSpec) -> Classify:
    """The task around a copy of the backbone; the classifier's weights are torch's next random ones."""
    args = ClassifyArgs(target.num_classes, spec.eval.stride, spec.eval.crop, spec.eval.flip)
    return Classify(copy.deepcopy(backbone), ClipSpec(spec.data.frames, spec.data.size), args)


def load_finetuned(backbone: Backbone, target: Target, spec: RunSpec, context: Context) -> Classify:
    """The fine-tuned network of the first seed, in eval mode on the device.

    Raises RunError where it was not kept, or is of other classes than the target's.
    """
    path = Path(context.run.path) / WEIGHTS
    if not path.exists():
        raise RunError(
            f"{path} is missing: this fine-tuning was made before networks were kept. Make it again in another folder: "
            "`vidssl eval RUN --on DATA --with finetune --out DIR`."
        )
    state = load_file(path)
    classes = len(state["classifier.bias"])
    if classes != target.num_classes:
        raise RunError(
            f"{path} tells {classes} classes apart, and {target.decoder.store.path.name!r} has {target.num_classes}. "
            "Fine-tune on it: `vidssl eval RUN --on DATA --with finetune`."
        )
    task = build_classifier(backbone, target, spec)
    task.load_state_dict(state)
    return task.to(context.device).eval()


def clip_scores(task: Classify, average: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What is averaged over the clips of a video: x_BCTHW -> [B, classes]."""
    return task.probabilities if average == "softmax" else task.logits


def video_probabilities(scores_VKC: np.ndarray, average: str) -> np.ndarray:
    """Class probabilities of videos from the scores of their K clips, float64 [V, classes]."""
    mean_VC = scores_VKC.astype(np.float64).mean(axis=1)
    if average == "softmax":
        return mean_VC
    powers = np.exp(mean_VC - mean_VC.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _one(backbone: Backbone, target: Target, spec: RunSpec, context: Context, number: int) -> dict[str, Any]:
    name = f"finetune-{number}" if number else "finetune"
    kept = f"finetune-seed-{number}"
    done = context.run.stage_result(kept)
    if done is not None:
        return done
    torch.manual_seed(spec.seed + number)
    task = build_classifier(backbone, target, spec)
    trainer = Trainer(
        name, task, spec.finetune, target.decoder, target.train, replace(context, seed=spec.seed + number)
    )
    trained = trainer.fit()
    task.eval()
    scores_VKC = features.per_clip(
        clip_scores(task, spec.eval.average),
        target.decoder,
        target.test,
        task.clip,
        spec.eval.clips,
        spec.eval.batch,
        context,
        f"{name} test",
        spec.eval.stride,
    )
    said = target.predictions(video_probabilities(scores_VKC, spec.eval.average))
    folder = Path(context.run.path)
    if context.run.main:
        said.save(folder / "predictions" / f"{name}.npz")
        if number == 0:
            state = {key: value.detach().cpu().contiguous() for key, value in task.state_dict().items()}
            write_atomic(folder / WEIGHTS, save(state))
    result = {**target.scores(said), "train": trained}
    if spec.eval.seeds > 1:
        context.run.finish_stage(kept, result)
    return result
