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
from ..data.subset import nested_subsets
from ..engine.trainer import Context
from ..spec import EvalSpec, WatchSpec
from ..tasks.base import ClipSpec
from . import features, linear
from .suite import Target

NEIGHBOURS, TEMPERATURE = 20, 0.07


class Watch:
    """Called with the number of epochs done; looks where that is a multiple of `spec.every`, and before the first."""

    def __init__(
        self, backbone: Backbone, target: Target, clip: ClipSpec, spec: WatchSpec, evals: EvalSpec, context: Context
    ) -> None:
        self.backbone, self.target, self.clip, self.spec, self.context = backbone, target, clip, spec, context
        self.batch, self.weight_decay = evals.batch, evals.linear_weight_decay
        self.train, self.test = self._some(target.train), self._some(target.test)

    def _some(self, rows: np.ndarray) -> np.ndarray:
        count = min(self.spec.videos, len(rows))
        return rows[nested_subsets(self.target.labels[rows], [count])[count]]

    def __call__(self, epochs: int) -> dict[str, float] | None:
        """knn, linear (top-1 of the target's test videos), chance, rankme (of at most D), spread."""
        if not self.spec.every or epochs % self.spec.every:
            return None
        train_VKD, test_VKD = (self._features(rows) for rows in (self.train, self.test))
        train_labels, test_labels = (self.target.labels[rows] for rows in (self.train, self.test))
        classes = self.target.num_classes
        votes = knn_votes(test_VKD[:, 0], train_VKD[:, 0], train_labels, classes)
        probabilities = linear.probe(train_VKD, train_labels, test_VKD, classes, self.weight_decay)
        majority = np.bincount(train_labels, minlength=classes).argmax()
        return {
            "knn": float((votes.argmax(1) == test_labels).mean()),
            "linear": float((probabilities.argmax(1) == test_labels).mean()),
            "chance": float((test_labels == majority).mean()),
            "rankme": rankme(train_VKD[:, 0]),
            "spread": spread(train_VKD[:, 0]),
        }

    def _features(self, rows: np.ndarray) -> np.ndarray:
        decoder = self.target.decoder
        return features.video_features(
            self.backbone, decoder, rows, self.clip, 1, self.batch, self.context, "features, watching"
        )


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
