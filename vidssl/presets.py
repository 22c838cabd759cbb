"""Named sets of defaults. What a user sets by hand always wins; what was used stands in the run's spec.

`paper` is the benchmark's protocol: nothing is changed, but what is counted in epochs follows their number. `small` is
for a machine without a GPU and for the embedded data: a 64 px clip, narrow decoders and heads, milder colours, and as
many epochs as a fixed number of samples allows, so that a run ends in minutes. Its numbers say that the machinery works
and how methods compare at that size, not more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .spec import RunSpec

# samples seen in a training; at the speed of two cores these are some minutes each (README, tables)
PRETRAIN_SAMPLES = 4800
CONTRASTIVE_SAMPLES = 9600  # they learn more slowly
FINETUNE_SAMPLES = 2880

SMALL: dict[str, Any] = {
    "data.size": 64,
    # AdamW, because it does not mind that the head has a tenth of the loss; SGD was not tuned (NOTES.md)
    "pretrain.batch": 16,
    "pretrain.optimizer": "adamw",
    "pretrain.lr": 1e-3,
    "pretrain.weight_decay": 0.01,
    "finetune.batch": 16,
    "finetune.optimizer": "adamw",
    "finetune.lr": 1e-3,
    "finetune.weight_decay": 0.01,
    "finetune.schedule": "cosine",
}
# the benchmark's swings of brightness, contrast and hue hide for longer than a small run lasts what clips are told by
_MILD = [0.2, 0.2, 0.25, 0.1]
# 0.999 of 600 steps is 0.55: the key network would hardly have left its place
_QUICK = {"momentum": 0.9, "jitter": _MILD}
SMALL_TASK: dict[str, dict[str, Any]] = {
    "cvrl": {"head_width": 0.25, "jitter": _MILD},
    "prp": {"decoder_width": 0.25, "head_width": 0.5},
    "rotnet": {"copies": "one"},  # all four would be four clips a sample
    "rspnet": _QUICK,
    "tdl": {**_QUICK, "flip": 0.0},  # the original has none; with one, 26 % of the test clips are told, without 47 %
    "vcop": {"recipe": "original"},  # the same: its colours are drawn for each clip of a tuple
    "vmae": {"decoder_width": 0.25},
}


def paper_preset(recipe: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that follow the number of epochs: a recipe's warm-up keeps its share of them, so that a training
    shorter than the warm-up still reaches the schedule, and no training is looked at less than at each quarter.

    Args:
        recipe: the task's.
        request: what the user set by hand.
    """
    defaults = RunSpec()
    own = recipe.get("pretrain.epochs", defaults.pretrain.epochs)
    epochs = request.get("pretrain.epochs", own)
    return {
        "pretrain.warmup_epochs": recipe.get("pretrain.warmup_epochs", 0.0) * epochs / own,
        "watch.every": min(defaults.watch.every, _quarter(epochs)),
    }


def small_preset(
    task: str, pretrain_videos: int, finetune_videos: int, request: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The `small` preset's entries for a task and data of this many videos.

    Args:
        request: what the user set by hand, which some entries follow.
    """
    from .tasks import TASKS

    request = request or {}
    known = TASKS.get(task) if task in TASKS.names() else None  # weights that are evaluated have no task
    samples = CONTRASTIVE_SAMPLES if known and known.contrastive else PRETRAIN_SAMPLES
    epochs = max(1, round(samples / pretrain_videos))
    options = dict(SMALL_TASK.get(task, {}))
    longest = getattr(known.Args(), "queue", None) if known else None
    if longest is not None:
        # of few videos a longer queue would hold a clip's own among its negatives
        step = int(request.get("pretrain.batch", SMALL["pretrain.batch"]))
        options["queue"] = min(longest, max(step, pretrain_videos // 8))
    finetune_epochs = max(1, round(FINETUNE_SAMPLES / finetune_videos))
    asked = int(request.get("pretrain.epochs", epochs))
    return {
        **SMALL,
        **{f"task.{key}": value for key, value in options.items()},
        "pretrain.epochs": epochs,
        "pretrain.warmup_epochs": _warmup(asked),
        "watch.every": _quarter(asked),
        "finetune.epochs": finetune_epochs,
        "finetune.warmup_epochs": _warmup(int(request.get("finetune.epochs", finetune_epochs))),
    }


def _quarter(epochs: int) -> int:
    return max(1, round(epochs / 4))


def _warmup(epochs: int) -> float:
    """One epoch, and no more than a quarter of the training."""
    return min(1.0, epochs / 4)
