"""Optimizers and the learning rate, a pure function of the step (so that a checkpoint need not hold a scheduler)."""

from __future__ import annotations

import math

import torch

from ..errors import ConfigError
from ..spec import StageSpec
from ..tasks.base import Task


def build_optimizer(task: Task, stage: StageSpec) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW over the task's groups; each group keeps its `lr_scale`."""
    groups = task.parameter_groups()
    if stage.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=stage.lr, momentum=0.9, weight_decay=stage.weight_decay)
    return torch.optim.AdamW(groups, lr=stage.lr, weight_decay=stage.weight_decay)


def check_warmup(name: str, stage: StageSpec) -> None:
    """Raises ConfigError where a training ends before its warm-up does."""
    if 0 < stage.epochs <= stage.warmup_epochs:
        raise ConfigError(
            f"{name}.warmup_epochs = {stage.warmup_epochs} leaves nothing of {name}.epochs = {stage.epochs} for the "
            f"schedule: the learning rate would only rise. Legal: less than {stage.epochs}. Take a shorter warm-up or "
            "more epochs, or leave the warm-up out: it then follows the epochs."
        )


def learning_rate(stage: StageSpec, step: int, steps_per_epoch: int) -> float:
    """Learning rate of step `step`, counted from 0: linear warm-up, then as the schedule says."""
    warmup = stage.warmup_epochs * steps_per_epoch
    if step < warmup:
        return stage.lr * min(step + 1, warmup) / warmup  # a warm-up may end within a step
    if stage.schedule == "constant":
        return stage.lr
    if stage.schedule == "steps":
        return stage.lr * 0.1 ** sum(step >= epochs * steps_per_epoch for epochs in stage.milestones)
    total = max(1.0, stage.epochs * steps_per_epoch - warmup)
    return stage.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / total))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
