"""Does a pre-training learn anything? Says so once, with what to try, where it looks as if it did not."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

_LINES = 10  # log lines that are judged together: a fifth of a training with the usual fifty
_EARLIEST = 0.25  # of the training: before that every task is at chance
_SIGMAS = 3.0
_LOST_SPREAD = 0.1
# The best so far says nothing where features collapse from the start: the network as built may be the best. In all
# recorded runs that learned (shufflenet) the spread was above 0.025 at every look from step 24 on. Before that it may
# well be 0.008, also of a network that does not train (12 steps at rate 0): batch norm then still has 0.9^steps of the
# running statistics that it was built with. After 30 steps 4 % of them are left.
_LEAST_SPREAD = 0.01
_SETTLED_STEPS = 30


class Health:
    """Judges the metric of the log lines and the features that the watch sees.

    At chance: the metric over the last `_LINES` lines is not `_SIGMAS` standard errors above it. Collapsed: the clips'
    features differ by less than a tenth of what they did at their best, or, once batch norm has seen the data, by less
    than those of any recorded run that learned.
    """

    def __init__(self, stage: str, num_steps: int, has_levels: bool = False, below_chance: str = "") -> None:
        self.stage, self.num_steps = stage, num_steps
        pretext = stage == "pretrain"
        look = "Look at what the network gets (`vidssl preview`): can you tell the answer? " if pretext else ""
        level = "a lower --complexity, " if has_levels else ""
        usual = f"{look}Try another --set {stage}.lr (a third, three times), {level}weaker augmentation, more epochs."
        self._advice = f"{below_chance} Where those say the same: {usual}" if below_chance else usual
        self.warnings: dict[str, str] = {}
        self._lines: deque[tuple[float, float, int]] = deque(maxlen=_LINES)
        self._widest_spread = 0.0

    def metric(self, step: int, value: float, chance: float, samples: int) -> str | None:
        """Takes a log line; returns a warning the first time that there is one."""
        self._lines.append((value, chance, samples))
        if len(self._lines) < _LINES or step < _EARLIEST * self.num_steps:
            return None
        total = sum(count for _, _, count in self._lines)
        mean = sum(value * count for value, _, count in self._lines) / total
        guess = sum(chance * count for _, chance, count in self._lines) / total
        if mean > guess + _SIGMAS * math.sqrt(max(guess * (1 - guess), 0.0) / total):
            return None
        return self._once(
            "chance",
            f"{self.stage} is not above chance ({mean:.3f}, chance {guess:.3f}) at step {step} of {self.num_steps}. "
            f"{self._advice}",
        )

    def features(self, step: int, seen: dict[str, float]) -> str | None:
        """Takes what the watch saw after so many steps; returns a warning the first time that there is one."""
        spread = seen["spread"]
        self._widest_spread = max(self._widest_spread, spread)
        least = _LEAST_SPREAD if step >= _SETTLED_STEPS else 0.0
        if spread > 0 and spread >= max(least, _LOST_SPREAD * self._widest_spread):
            return None
        return self._once(
            "collapse",
            f"the features have collapsed: at step {step} clips differ by {spread:.4f} (per dimension, of unit "
            f"features), at their best by {self._widest_spread:.4f}; {_LEAST_SPREAD} or less after {_SETTLED_STEPS} "
            f"steps was never seen of a network that learns. Try a smaller --set {self.stage}.lr, a longer "
            f"{self.stage}.warmup_epochs, for contrastive tasks a larger batch or queue or a higher temperature.",
        )

    def _once(self, kind: str, text: str) -> str | None:
        if kind in self.warnings:
            return None
        self.warnings[kind] = text
        return text

    def state(self) -> dict[str, Any]:
        return {"warnings": dict(self.warnings), "lines": list(self._lines), "widest_spread": self._widest_spread}

    def restore(self, state: dict[str, Any]) -> None:
        self.warnings = dict(state["warnings"])
        self._lines = deque((tuple(line) for line in state["lines"]), maxlen=_LINES)
        self._widest_spread = state["widest_spread"]
