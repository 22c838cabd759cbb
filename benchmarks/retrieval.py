"""Clip retrieval at the size of UCF101: 3,500 queries in a gallery of 9,500 videos, 512 numbers each.

python benchmarks/retrieval.py                 ours, and the plain ways of doing it
python benchmarks/retrieval.py --queries 100

"ours" averages ten clips of every video and finds the 50 nearest of each query by cosine, ties in gallery order. The
peers get the averaged features: NumPy's product with a full stable sort, as VCOP and RSPNet do it, and torch's product
with `topk`, which ranks ties as they come. "product" is the matrix product alone, the floor. `agreement` is the share
of the neighbours, place by place, that a peer gives too: less than 1 where two are as near as float32 can tell.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from common import Candidate, parser, run

from vidssl.evals.retrieval import nearest

GALLERY, CLIPS, WIDTH, K = 9500, 10, 512, 50


class Job:
    def __init__(self, options: argparse.Namespace) -> None:
        gallery, queries = (300, 40) if options.smoke else (GALLERY, options.queries)
        rng = np.random.default_rng(0)
        self.gallery_GKD = rng.standard_normal((gallery, CLIPS, WIDTH), np.float32)
        self.queries_QKD = rng.standard_normal((queries, CLIPS, WIDTH), np.float32)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        q, g = (x.mean(axis=1) for x in (self.queries_QKD, self.gallery_GKD))
        self.unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, g)]
        self.expected = nearest(q, g, K).rows
        self.agreement: dict[str, float] = {}

    def check(self, name: str, rows: np.ndarray) -> int:
        self.agreement[name] = float((rows == self.expected).mean())
        return len(rows)

    def ours(self) -> Callable[[int], int]:
        def call(number: int) -> int:
            q, g = self.queries_QKD.mean(axis=1), self.gallery_GKD.mean(axis=1)
            return self.check("ours", nearest(q, g, K, self.device).rows)

        return call

    def numpy(self) -> Callable[[int], int]:
        def call(number: int) -> int:
            q, g = self.unit
            return self.check("NumPy", np.argsort(-(q @ g.T), axis=1, kind="stable")[:, :K])

        return call

    def topk(self) -> Callable[[int], int]:
        q, g = (torch.from_numpy(x).to(self.device) for x in self.unit)

        def call(number: int) -> int:
            return self.check("torch", (q @ g.T).topk(K, dim=1).indices.cpu().numpy())

        return call

    def product(self) -> Callable[[int], int]:
        q, g = (torch.from_numpy(x).to(self.device) for x in self.unit)

        def call(number: int) -> int:
            (q @ g.T).sum().item()
            return len(q)

        return call


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--queries", type=int, default=3500, help="default: %(default)s")
    options.set_defaults(iterations=5)
    chosen: argparse.Namespace = options.parse_args()
    job = Job(chosen)
    table = [
        Candidate("NumPy, full stable sort", job.numpy),
        Candidate("torch, topk", job.topk),
        Candidate("product alone", job.product, note="the floor"),
        Candidate("ours, with the mean of ten clips", job.ours),
    ]

    def sizes(result: dict) -> None:
        result |= {"queries": len(job.queries_QKD), "gallery": len(job.gallery_GKD), "width": WIDTH, "k": K}
        result |= {"clips": CLIPS, "threads": torch.get_num_threads(), "agreement": job.agreement}
        for row in result["rows"]:
            if not row["error"]:
                row["seconds"] = round(row["wall_ms_per_query"]["median"] * len(job.queries_QKD) / 1000, 3)
        result["show"] = ["seconds"]

    return run(chosen, "retrieval", table, "query", table[0].name, sizes)


if __name__ == "__main__":
    raise SystemExit(main())
