"""The evaluations of one backbone on one target, in order; each is a stage that is never done twice."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..backbones.base import Backbone
from ..data.catalog import training_rows
from ..data.decode.base import Decoder
from ..engine.trainer import Context, Trainer
from ..errors import DataError
from ..spec import RunSpec
from ..tasks.base import ClipSpec
from . import features, linear, retrieval
from .classify import Classify
from .statistics import wilson_interval


@dataclass
class Target:
    """What the evaluations are made on: rows of the training and the test split, and the number of classes."""

    decoder: Decoder
    train: np.ndarray
    test: np.ndarray
    num_classes: int

    @property
    def labels(self) -> np.ndarray:
        return self.decoder.store.labels


def open_target(decoder: Decoder) -> Target:
    """Checks that a data set can be evaluated on: labels, a train and a test split, at least two classes."""
    store = decoder.store
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
    if len(np.unique(store.labels[train])) < 2:
        raise DataError(f"data set {name!r} has a single class in its training split; a choice needs two. {advice}")
    return Target(decoder, train, test, num_classes)


class Suite:
    """Runs evaluations. Features are computed once and serve the linear probe and the retrieval."""

    def __init__(self, backbone: Backbone, target: Target, spec: RunSpec, context: Context) -> None:
        self.backbone, self.target, self.spec, self.context = backbone, target, spec, context
        self.clip = ClipSpec(spec.data.frames, spec.data.size)
        self._features: tuple[np.ndarray, np.ndarray] | None = None

    def run(self, name: str) -> dict[str, Any]:
        """The result of one evaluation, from its stage file where it is finished."""
        done = self.context.run.stage_result(name)
        if done is None:
            begin = time.perf_counter()
            done = {"finetune": self.finetune, "linear": self.linear, "retrieval": self.retrieval}[name]()
            done["seconds"] = time.perf_counter() - begin
            self.context.run.finish_stage(name, done)
        return done

    def finetune(self) -> dict[str, Any]:
        """Trains everything on the training split, then tests on evenly spaced clips with mean softmax."""
        torch.manual_seed(self.spec.seed)
        task = Classify(copy.deepcopy(self.backbone), self.clip, Classify.Args(self.target.num_classes))
        trained = Trainer(
            "finetune", task, self.spec.finetune, self.target.decoder, self.target.train, self.context
        ).fit()
        task.eval()
        probabilities = features.per_clip(
            task.probabilities,
            self.target.decoder,
            self.target.test,
            self.clip,
            self.spec.eval.clips,
            self.spec.eval.batch,
            self.context,
            "finetune test",
        )
        return {**self._scores(probabilities.mean(axis=1)), "train": trained}

    def linear(self) -> dict[str, Any]:
        train, test = self._both()
        labels = self.target.labels[self.target.train]
        return self._scores(
            linear.probe(train, labels, test, self.target.num_classes, self.spec.eval.linear_weight_decay)
        )

    def retrieval(self) -> dict[str, Any]:
        train, test = self._both()
        gallery, queries = self.target.labels[self.target.train], self.target.labels[self.target.test]
        ks = [k for k in retrieval.KS if k <= len(gallery)]
        hits = retrieval.topk_hits(test.mean(axis=1), queries, train.mean(axis=1), gallery, ks)
        chance = retrieval.chance_hits(queries, gallery, ks)
        left_out = [k for k in retrieval.KS if k > len(gallery)]
        return {
            **{f"top{k}": hits[k] for k in ks},
            "chance": {f"top{k}": chance[k] for k in ks},
            "interval": list(wilson_interval(hits[1], len(queries))),
            "gallery": len(gallery),
            "queries": len(queries),
            **({"left_out": f"k = {left_out}: the gallery has {len(gallery)} videos"} if left_out else {}),
        }

    def _both(self) -> tuple[np.ndarray, np.ndarray]:
        if self._features is None:
            self._features = (self._extract(self.target.train, "train"), self._extract(self.target.test, "test"))
        return self._features

    def _extract(self, rows: np.ndarray, split: str) -> np.ndarray:
        return features.video_features(
            self.backbone,
            self.target.decoder,
            rows,
            self.clip,
            self.spec.eval.clips,
            self.spec.eval.batch,
            self.context,
            f"features {split}",
        )

    def _scores(self, probabilities_VK: np.ndarray) -> dict[str, Any]:
        labels = self.target.labels[self.target.test]
        correct = probabilities_VK.argmax(axis=1) == labels
        # guessing scores at best the share of the most frequent class, not 1 / classes
        majority = np.bincount(self.target.labels[self.target.train], minlength=self.target.num_classes).argmax()
        return {
            "top1": float(correct.mean()),
            "chance": float((labels == majority).mean()),
            "interval": list(wilson_interval(float(correct.mean()), len(labels))),
            "videos": len(labels),
            "classes": self.target.num_classes,
        }
