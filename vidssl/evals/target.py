"""What evaluations are made on: a store's official training and test split, and how its videos are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.catalog import training_rows
from ..data.decode.base import Decoder
from ..data.store import Store
from ..errors import DataError, RunError
from .predictions import Predictions
from .statistics import wilson_interval


@dataclass
class Target:
    """Rows of the training and the test split in the decoder's store, and the number of classes."""

    decoder: Decoder
    train: np.ndarray
    test: np.ndarray
    num_classes: int

    @property
    def labels(self) -> np.ndarray:
        return self.decoder.store.labels

    @property
    def classes(self) -> list[str]:
        return class_names(self.decoder.store, self.num_classes)

    @property
    def chance(self) -> float:
        """What guessing scores at best: the share of the most frequent class of the training split."""
        majority = np.bincount(self.labels[self.train], minlength=self.num_classes).argmax()
        return float((self.labels[self.test] == majority).mean())

    def predictions(self, probabilities_VK: np.ndarray) -> Predictions:
        """Of the test videos, in the order of `test`. Raises RunError where one is not finite."""
        if not np.isfinite(probabilities_VK).all():
            raise RunError(
                "the network's answers are not finite: its weights have run away in training. Try a smaller --set "
                "finetune.lr, a --set finetune.clip_gradient, or --set engine.precision=fp32."
            )
        ids = [self.decoder.store.ids[row] for row in self.test]
        return Predictions(ids, self.labels[self.test], np.asarray(probabilities_VK, np.float64), self.classes)

    def scores(self, said: Predictions) -> dict[str, Any]:
        """Top-1 with Wilson's interval over the test videos, beside chance; top-1 of each class."""
        top1 = float((said.predicted == said.labels).mean())
        return {
            "top1": top1,
            "chance": self.chance,
            "interval": list(wilson_interval(top1, len(said.labels))),
            "videos": len(said.labels),
            "classes": self.num_classes,
            "per_class": said.per_class(),
        }


def open_target(decoder: Decoder) -> Target:
    """The target of a store; see `check_store`."""
    return Target(decoder, *check_store(decoder.store))


def check_store(store: Store) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows of the training split, rows of the test split, and the number of classes.

    Raises DataError where the store cannot be evaluated on: it wants labels, both splits, at least two classes, and no
    class that is tested without having been shown.
    """
    name = store.path.name
    train, test = training_rows(store, "all"), store.indices("test")
    advice = (
        "Choose another with --target, give the folder a train.csv and a test.csv (path,label), or leave the "
        "evaluations out with --eval none."
    )
    if (store.labels < 0).any():
        raise DataError(f"data set {name!r} has no labels, and evaluations need them. {advice}")
    if not len(test) or not len(store.indices("train")):
        raise DataError(f"data set {name!r} has no train/test split ({len(train)} / {len(test)} videos). {advice}")
    num_classes = int(store.labels.max()) + 1
    shown = np.unique(store.labels[train])
    if len(shown) < 2:
        raise DataError(f"data set {name!r} has a single class in its training split; a choice needs two. {advice}")
    unseen = np.setdiff1d(store.labels[test], shown)
    if len(unseen):
        some = ", ".join(class_names(store, num_classes)[k] for k in unseen[:3]) + (" ..." if len(unseen) > 3 else "")
        raise DataError(
            f"data set {name!r} tests {len(unseen)} of {num_classes} classes that have no training video ({some}): no "
            f"network could name them. Prepare more of its training videos, or leave those test videos out. {advice}"
        )
    return train, test, num_classes


def class_names(store: Store, num_classes: int) -> list[str]:
    """Names of the classes; their numbers where the store has no names."""
    names = store.label_names
    return [names[k] if k < len(names) else str(k) for k in range(num_classes)]
