"""What the features of a network in training are worth: k-NN and linear probe on the target, rank and spread.

k-NN: Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018: the 20
nearest training videos by cosine vote with weight exp(similarity / 0.07). Rank: RankMe (Garrido, Balestriero, Najman,
LeCun, "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank", ICML
2023), the exponential of the entropy of the singular values' shares. Spread: the standard deviation of each dimension
of unit-length features over the clips, averaged, times sqrt(D): 0 where all clips are alike, 1 for directions that are
uniform (Chen, He, "Exploring Simple Siamese Representation Learning", CVPR 2021).

A look costs one clip of each of at most `videos` videos a split, in eval mode, and changes nothing of the training. At
the look before the first step batch norm has the statistics it was built with, 0 and 1, so that it normalises nothing:
that network is another one than the one that training begins with.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ..backbones.base import Backbone
from ..data.decode.base import Decoder
from ..data.subset import nested_subsets
from ..engine.context import Context
from ..errors import RunError
from ..spec import EvalSpec, WatchSpec
from ..tasks.base import ClipSpec
from . import features, linear
from .target import Target

NEIGHBOURS, TEMPERATURE = 20, 0.07


class Watch:
    """Called with the number of epochs done; looks as `is_due` says.

    Args:
        decoder, rows: videos whose features are looked at; those of the target's training split where there is one.
        target: for k-NN and linear probe; without it there are rank and spread alone.
        last: epochs of the training.
    """

    def __init__(
        self,
        backbone: Backbone,
        decoder: Decoder,
        rows: np.ndarray,
        target: Target | None,
        clip: ClipSpec,
        spec: WatchSpec,
        evals: EvalSpec,
        context: Context,
        last: int,
    ) -> None:
        self.backbone, self.decoder, self.target = backbone, decoder, target
        self.clip, self.spec, self.evals, self.context, self.last = clip, spec, evals, context, last
        self.rows, self.test = self._some(rows), self._some(target.test) if target else None

    def _some(self, rows: np.ndarray) -> np.ndarray:
        count = min(self.spec.videos, len(rows))
        if self.target is None:
            return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
        return rows[nested_subsets(self.target.labels[rows], [count])[count]]

    def __call__(self, epochs: int) -> dict[str, float] | None:
        """rankme (of at most D) and spread; with a target also knn and linear (top-1 of its test videos) and chance.

        Raises RunError where the features are not finite.
        """
        if not is_due(self.spec.every, epochs, self.last):
            return None
        train_VKD = self._features(self.rows)
        seen = {"rankme": rankme(train_VKD[:, 0]), "spread": spread(train_VKD[:, 0])}
        if self.target is None or self.test is None:
            return seen
        test_VKD = self._features(self.test)
        train_labels, test_labels = self.target.labels[self.rows], self.target.labels[self.test]
        classes, decay = self.target.num_classes, self.evals.linear_weight_decay
        votes = knn_votes(test_VKD[:, 0], train_VKD[:, 0], train_labels, classes)
        probabilities = linear.probe(train_VKD, train_labels, test_VKD, classes, decay)
        majority = np.bincount(train_labels, minlength=classes).argmax()
        return {
            "knn": float((votes.argmax(1) == test_labels).mean()),
            "linear": float((probabilities.argmax(1) == test_labels).mean()),
            "chance": float((test_labels == majority).mean()),
            **seen,
        }

    def _features(self, rows: np.ndarray) -> np.ndarray:
        title, batch = "features, watching", self.evals.batch
        found = features.video_features(self.backbone, self.decoder, rows, self.clip, 1, batch, self.context, title)
        if not np.isfinite(found).all():
            raise RunError(
                "the features of the network in training are not finite: its weights have run away. Try a smaller "
                "--set pretrain.lr, a --set pretrain.clip_gradient, or --set engine.precision=fp32."
            )
        return found


def is_due(every: int, epochs: int, last: int) -> bool:
    """Whether to look after so many epochs of `last`: at multiples of `every`, and at the finished network; 0 for
    never."""
    return every > 0 and (epochs % every == 0 or epochs == last)


def knn_votes(
    queries_QD: np.ndarray, gallery_GD: np.ndarray, gallery_labels: np.ndarray, num_classes: int
) -> np.ndarray:
    """Weight of each class among the nearest of each query, float64 [Q, classes]."""
    queries, gallery = (F.normalize(torch.as_tensor(f).double(), dim=1) for f in (queries_QD, gallery_GD))
    similarity, nearest = (queries @ gallery.T).topk(min(NEIGHBOURS, len(gallery)), dim=1)
    labels = torch.as_tensor(gallery_labels)[nearest]
    weights = ((similarity - 1) / TEMPERATURE).exp()
    return torch.zeros(len(queries), num_classes, dtype=torch.float64).scatter_add_(1, labels, weights).numpy()


def rankme(features_ND: np.ndarray) -> float:
    """From 1 (all on a line) to min(N, D). 0 where all features are zero."""
    values = torch.linalg.svdvals(torch.as_tensor(features_ND).double())
    total = float(values.sum())
    if total == 0:
        return 0.0
    shares = values / total + 1e-7  # the paper's epsilon
    return math.exp(float(-(shares * shares.log()).sum()))


def spread(features_ND: np.ndarray) -> float:
    """Per-dimension standard deviation of the features at unit length, averaged, times sqrt(D)."""
    unit = F.normalize(torch.as_tensor(features_ND).double(), dim=1)
    return float(unit.std(0, correction=0).mean()) * math.sqrt(unit.shape[1])
