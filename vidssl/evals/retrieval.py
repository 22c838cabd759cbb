"""Clip retrieval: does a test video's nearest training video show the same class?

Lineage: VCOP (Xu et al., CVPR 2019) and RSPNet (Chen et al., AAAI 2021): frozen pre-trained backbone, the features of
ten clips averaged per video, cosine similarity, a query counts at k if any of its k nearest has its class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import ConfigError

KS = (1, 5, 10, 20, 50)
_BLOCK = 1024  # queries at a time: bounds the similarity matrix


def topk_hits(
    query_features: np.ndarray | torch.Tensor,
    query_labels: np.ndarray,
    gallery_features: np.ndarray | torch.Tensor,
    gallery_labels: np.ndarray,
    ks: Sequence[int] = KS,
) -> dict[int, float]:
    """Fraction of queries with a gallery item of their class among the k nearest by cosine.

    Args:
        query_features: float [Q, D]; query_labels: int [Q].
        gallery_features: float [G, D]; gallery_labels: int [G].
        ks: each between 1 and G.

    Equal similarities are ranked by gallery order, so the result is a function of its input.
    """
    queries, gallery = (_unit_rows(torch.as_tensor(f)) for f in (query_features, gallery_features))
    if not len(queries) or not len(gallery):
        raise ConfigError(f"retrieval needs queries and a gallery; got {len(queries)} and {len(gallery)} videos.")
    if max(ks) > len(gallery) or min(ks) < 1:
        raise ConfigError(f"k = {list(ks)} is outside 1 to {len(gallery)}, the size of the gallery. Take smaller k.")
    labels, wanted = torch.as_tensor(gallery_labels), torch.as_tensor(query_labels)
    hits = dict.fromkeys(ks, 0)
    for first in range(0, len(queries), _BLOCK):
        similarity = queries[first : first + _BLOCK] @ gallery.T
        order = similarity.argsort(dim=1, descending=True, stable=True)[:, : max(ks)].cpu()
        same = labels[order] == wanted[first : first + _BLOCK, None]
        for k in ks:
            hits[k] += int(same[:, :k].any(dim=1).sum())
    return {k: count / len(queries) for k, count in hits.items()}


def chance_hits(query_labels: np.ndarray, gallery_labels: np.ndarray, ks: Sequence[int] = KS) -> dict[int, float]:
    """What a random order of the gallery scores: 1 - C(G - m, k) / C(G, k) for m items of the query's class."""
    size = len(gallery_labels)
    classes, counts = np.unique(gallery_labels, return_counts=True)
    same = dict(zip(classes.tolist(), counts.tolist(), strict=True))
    out = {}
    for k in ks:
        miss = []
        for label in query_labels.tolist():
            other = size - same.get(label, 0)
            factors = (other - np.arange(k)) / (size - np.arange(k))
            miss.append(float(np.prod(np.clip(factors, 0, None))))
        out[k] = 1 - float(np.mean(miss))
    return out


def _unit_rows(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features.float(), dim=1)
