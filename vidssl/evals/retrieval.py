"""Clip retrieval: does a test video's nearest training video show the same class?

Lineage: VCOP (Xu et al., CVPR 2019) and RSPNet (Chen et al., AAAI 2021): frozen pre-trained backbone, the features of
ten clips averaged per video, cosine similarity, a query counts at k if any of its k nearest has its class.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..engine.runs import write_atomic
from ..errors import ConfigError

KS = (1, 5, 10, 20, 50)
KEPT = 10
"""Neighbours of each query that are kept to be looked at."""
_SPARE, _SLACK = 16, 2e-6
"""More than wanted are looked at, and those whose float32 similarities are no further apart are ordered exactly.
Such a product was off by 4e-7 at most, for 512 and for 9216 numbers, with and without negative ones."""
_PRODUCTS = 1 << 25
"""Similarities at a time: bounds the memory, 128 MiB, whatever the size of the gallery."""
_PART = 1 << 14
"""Videos of the gallery that are compared exactly at a time."""
_CHUNK = 64
"""Queries whose candidates are ordered exactly at a time."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest of each query, nearest first: rows of the gallery int64 [Q, K], and cosine float32 [Q, K]."""

    rows: np.ndarray
    similarity: np.ndarray


def nearest(
    query_features: np.ndarray | torch.Tensor,
    gallery_features: np.ndarray | torch.Tensor,
    k: int,
    device: torch.device | str = "cpu",
) -> Neighbours:
    """Exact search by cosine, block by block on the device.

    Equal similarities are ranked by gallery order, so the result is a function of its input: the last bits of a float32
    product hang on the place of a row in its block, so that what is as near as these is ordered by a float64 product of
    each pair alone.

    Args:
        query_features: float [Q, D]. gallery_features: float [G, D].
        k: neighbours; all of the gallery where it has fewer.

    Raises ConfigError where there are no queries, no gallery, or features that are not finite.
    """
    queries, gallery = (_unit_rows(torch.as_tensor(f), device) for f in (query_features, gallery_features))
    if not len(queries) or not len(gallery):
        raise ConfigError(f"retrieval needs queries and a gallery; got {len(queries)} and {len(gallery)} videos.")
    if not (queries.isfinite().all() and gallery.isfinite().all()):
        raise ConfigError("retrieval needs finite features; these hold infinity or NaN, so the network has run away.")
    k = min(k, len(gallery))
    block = max(1, _PRODUCTS // len(gallery))
    parts = [_block(queries[first : first + block], gallery, k) for first in range(0, len(queries), block)]
    rows, similarity = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return Neighbours(rows, similarity)


def _block(queries_QD: torch.Tensor, gallery_GD: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    size = len(gallery_GD)
    coarse_QG = queries_QD @ gallery_GD.T
    similarity_QC, rows_QC = coarse_QG.topk(min(size, k + _SPARE), dim=1)
    close_Q = (similarity_QC[:, :-1] - similarity_QC[:, 1:] < _SLACK).any(dim=1)
    # more may be as near as the last one wanted than were looked at
    many_Q = (similarity_QC[:, k - 1] - similarity_QC[:, -1] < _SLACK) & (size > k + _SPARE)
    for chunk in (close_Q & ~many_Q).nonzero()[:, 0].split(_CHUNK):
        candidates = rows_QC[chunk].sort(dim=1).values
        exact, order = _exact(queries_QD[chunk, None], gallery_GD[candidates]).sort(dim=1, descending=True, stable=True)
        rows_QC[chunk], similarity_QC[chunk] = candidates.gather(1, order), exact.float()
    for q in many_Q.nonzero()[:, 0].tolist():
        near = (coarse_QG[q] >= similarity_QC[q, k - 1] - _SLACK).nonzero()[:, 0]
        parts = [_exact(queries_QD[q], gallery_GD[part]) for part in near.split(_PART)]
        exact, order = torch.cat(parts).sort(descending=True, stable=True)
        rows_QC[q, :k], similarity_QC[q, :k] = near[order[:k]], exact[:k].float()
    return rows_QC[:, :k], similarity_QC[:, :k]


def _exact(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Products over the last axis in float64; equal rows give equal values wherever they stand."""
    return (queries.double() * candidates.double()).sum(dim=-1)


def hits(
    found: Neighbours, query_labels: np.ndarray, gallery_labels: np.ndarray, ks: Sequence[int]
) -> dict[int, float]:
    """Fraction of queries with a gallery item of their class among the k nearest."""
    same = np.asarray(gallery_labels)[found.rows] == np.asarray(query_labels)[:, None]
    return {k: float(same[:, :k].any(axis=1).mean()) for k in ks}


def topk_hits(
    query_features: np.ndarray | torch.Tensor,
    query_labels: np.ndarray,
    gallery_features: np.ndarray | torch.Tensor,
    gallery_labels: np.ndarray,
    ks: Sequence[int] = KS,
) -> dict[int, float]:
    """Fraction of queries with a gallery item of their class among the k nearest by cosine; see `nearest`.

    Args:
        query_features: float [Q, D]; query_labels: int [Q].
        gallery_features: float [G, D]; gallery_labels: int [G].
        ks: each between 1 and G.
    """
    if max(ks) > len(gallery_labels) or min(ks) < 1:
        raise ConfigError(
            f"k = {list(ks)} is outside 1 to {len(gallery_labels)}, the size of the gallery. Take smaller k."
        )
    return hits(nearest(query_features, gallery_features, max(ks)), query_labels, gallery_labels, ks)


def save_neighbours(
    path: Path, found: Neighbours, queries: tuple[np.ndarray, np.ndarray], gallery: tuple[np.ndarray, np.ndarray]
) -> None:
    """Keeps the nearest `KEPT`, to be looked at.

    Args:
        queries, gallery: ids and labels.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        queries=queries[0],
        query_labels=queries[1],
        gallery=gallery[0],
        gallery_labels=gallery[1],
        nearest=found.rows[:, :KEPT],
        similarity=found.similarity[:, :KEPT],
    )
    write_atomic(path, buffer.getvalue())


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


def _unit_rows(features: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    return F.normalize(features.to(device, torch.float32), dim=1)
