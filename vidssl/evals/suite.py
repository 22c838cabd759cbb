"""The evaluations of one backbone on one target, in order; each is a stage that is never done twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.cka import SMALLEST_BATCH
from ..backbones.base import Backbone
from ..data.store import Store
from ..engine.context import Context
from ..engine.optim import check_warmup
from ..errors import ConfigError
from ..spec import EvalSpec, RunSpec
from ..tasks.base import ClipSpec
from . import features, finetune, linear, retrieval
from .classify import ClassifyArgs
from .names import EVALS, NEED_FINETUNE
from .robustness import check_noises, robustness
from .statistics import wilson_interval
from .target import Target, check_store


class Suite:
    """Runs evaluations. Features are computed once and serve the linear probe and the retrieval."""

    def __init__(self, backbone: Backbone, target: Target, spec: RunSpec, context: Context) -> None:
        self.backbone, self.target, self.spec, self.context = backbone, target, spec, context
        self.clip = ClipSpec(spec.data.frames, spec.data.size)
        self._features: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.ks = check_ks(spec.eval.ks, len(target.train))

    def run_all(self) -> dict[str, Any]:
        """name -> result, of the spec's evaluations and of those that were finished here before."""
        wanted = self.spec.eval.names
        results = {}
        for name in EVALS:
            # robustness and CKA are of the fine-tuned network
            needed = name == "finetune" and any(other in NEED_FINETUNE for other in wanted)
            if name in wanted or needed:
                results[name] = self.run(name)
            elif (done := self.context.run.stage_result(name)) is not None:
                results[name] = done
        compared = [file.stem for file in sorted(Path(self.context.run.path).glob("stages/cka-*.json"))]
        return results | {name: self.context.run.stage_result(name) for name in compared}

    def run(self, name: str) -> dict[str, Any]:
        """The result of one evaluation, from its stage file where it is finished."""
        stages: dict[str, Callable[[], dict[str, Any]]] = {
            "finetune": self.finetune,
            "linear": self.linear,
            "retrieval": self.retrieval,
            "robustness": self.robustness,
            "cka": self.cka,
        }
        return self._stage(name, stages[name])

    def _stage(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        done = self.context.run.stage_result(name)
        if done is None:
            begin = time.perf_counter()
            done = compute()
            done["seconds"] = time.perf_counter() - begin
            self.context.run.finish_stage(name, done)
        # what one process wrote (the fine-tuned network), all may read
        self.context.accelerator.wait_for_everyone()
        return done

    def finetune(self) -> dict[str, Any]:
        return finetune.finetune(self.backbone, self.target, self.spec, self.context)

    def linear(self) -> dict[str, Any]:
        train, test = self._both("pooled")
        labels = self.target.labels[self.target.train]
        said = self.target.predictions(
            linear.probe(train, labels, test, self.target.num_classes, self.spec.eval.linear_weight_decay)
        )
        if self.context.run.main:
            said.save(Path(self.context.run.path) / "predictions" / "linear.npz")
        return self.target.scores(said)

    def retrieval(self) -> dict[str, Any]:
        train, test = self._both(self.spec.eval.feature)
        gallery, queries = self.target.labels[self.target.train], self.target.labels[self.target.test]
        found = retrieval.nearest(
            test.mean(axis=1), train.mean(axis=1), max(*self.ks, retrieval.KEPT), self.context.device
        )
        hits = retrieval.hits(found, queries, gallery, self.ks)
        chance = retrieval.chance_hits(queries, gallery, self.ks)
        left_out = [k for k in self.spec.eval.ks if k not in self.ks]
        if self.context.run.main:
            ids = np.array(self.target.decoder.store.ids)
            retrieval.save_neighbours(
                Path(self.context.run.path) / "neighbours.npz",
                found,
                (ids[self.target.test], queries),
                (ids[self.target.train], gallery),
            )
        return {
            **{f"top{k}": hits[k] for k in self.ks},
            "chance": {f"top{k}": chance[k] for k in self.ks},
            "interval": list(wilson_interval(hits[self.ks[0]], len(queries))),
            "gallery": len(gallery),
            "queries": len(queries),
            "feature": self.spec.eval.feature,
            "width": int(train.shape[2]),
            **({"left_out": f"k = {left_out}: the gallery has {len(gallery)} videos"} if left_out else {}),
        }

    def robustness(self) -> dict[str, Any]:
        task = finetune.load_finetuned(self.backbone, self.target, self.spec, self.context)
        return robustness(task, self.target, self.clip, self.spec, self.context)

    def cka(self) -> dict[str, Any]:
        from .similarity import similarity

        task = finetune.load_finetuned(self.backbone, self.target, self.spec, self.context)
        return similarity(self.backbone, task.backbone, self.target, self.spec, self.context)

    def compare_with(self, other: Backbone, name: str) -> dict[str, Any]:
        """The stage `cka-NAME`: layers of this backbone beside those of another network.

        Args:
            name: of the other network; another network has another one.
        """
        from .similarity import similarity_to

        return self._stage(
            f"cka-{name}", lambda: similarity_to(other, name, self.backbone, self.target, self.spec, self.context)
        )

    def _both(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Features of training and test videos, float32 [V, clips, D]."""
        if kind not in self._features:
            self._features[kind] = (
                self._extract(kind, self.target.train, "train"),
                self._extract(kind, self.target.test, "test"),
            )
        return self._features[kind]

    def _extract(self, kind: str, rows: np.ndarray, split: str) -> np.ndarray:
        return features.video_features(
            self.backbone,
            self.target.decoder,
            rows,
            self.clip,
            self.spec.eval.clips,
            self.spec.eval.batch,
            self.context,
            f"features {split}",
            self.spec.eval.stride,
            kind,
        )


def check_evaluations(spec: RunSpec, store: Store) -> None:
    """Raises ConfigError or DataError where the evaluations of a spec cannot be made on a store: asked before hours of
    training, not after."""
    train, test, num_classes = check_store(store)
    ClassifyArgs(num_classes, spec.eval.stride, spec.eval.crop, spec.eval.flip)
    check_ks(spec.eval.ks, len(train))
    if {"finetune", *NEED_FINETUNE}.intersection(spec.eval.names):
        check_warmup("finetune", spec.finetune)
    if "robustness" in spec.eval.names:
        check_noises(spec.eval)
    if "cka" in spec.eval.names and len(test) < SMALLEST_BATCH:
        raise ConfigError(
            f"cka needs {SMALLEST_BATCH} test videos or more, and {store.path.name!r} has {len(test)}. Leave cka out "
            "of the evaluations, or take another data set."
        )


def check_ks(ks: list[int], gallery: int) -> list[int]:
    """The ks of a retrieval, ascending. Of the default ones those that the gallery is too small for are left out; one
    that was asked for and cannot be is a ConfigError."""
    wanted = sorted(set(ks))
    legal = [k for k in wanted if 1 <= k <= gallery]
    if legal != wanted and ks != EvalSpec().ks:
        wrong = [k for k in wanted if k not in legal]
        raise ConfigError(
            f"eval.ks: k = {', '.join(map(str, wrong))} is outside 1 to {gallery}, the number of videos in the gallery "
            "(the training split). Take smaller ones."
        )
    return legal
