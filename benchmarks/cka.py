"""What CKA of a network with itself costs beside the forward passes that it needs anyway.

python benchmarks/cka.py                                   R(2+1)D, 20 layers, minibatches of 32 clips
python benchmarks/cka.py --batch 8 --threads 1             on a small machine

One iteration is one minibatch of random clips that stay in memory; a whole map is 64 of them, and the map itself is a
quotient of sums. "forward" is the forward pass alone, in eval mode without gradients. "ours" is what `compare` does: it
reduces each output to its Gram matrix [B, B] as the module returns. The layers are evenly spaced over those modules
that hold no others, so that the large early outputs are among them; at most 1.3 times the forward passes is wanted.

The peer is the usual way (AntixK/PyTorch-Model-Compare works so): two forward passes that keep a copy of every output,
and for each pair of layers both Gram matrices and the estimator written out, three times. It is given every fourth
layer only, as its cost grows with the square of their number; "ours, few layers" does the same work. `agreement` is how
far its map is from ours where it works in float64: in float32, as it is timed, rounding hides what a layer of random
weights tells of clips of noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from common import Candidate, parser, run
from torch import nn

from vidssl import create_backbone
from vidssl.analysis.activations import Activations, choose_modules, evaluating
from vidssl.analysis.cka import MinibatchCKA, gram
from vidssl.engine.setup import keep_freed_memory

FORWARD, OURS, FEW, PEER = "forward", "ours", "ours, few layers", "peer, few layers"


def hsic(k_BB: torch.Tensor, m_BB: torch.Tensor) -> torch.Tensor:
    """HSIC_1 of two Gram matrices without diagonals, term by term."""
    n = len(k_BB)
    product_BB = k_BB @ m_BB
    sums = k_BB.sum() * m_BB.sum() / ((n - 1) * (n - 2))
    return (product_BB.trace() + sums - 2 / (n - 2) * product_BB.sum()) / (n * (n - 3))


def pair_by_pair(list_x: list[torch.Tensor], list_y: list[torch.Tensor]) -> torch.Tensor:
    """CKA of one minibatch, [layers of x, layers of y], in the precision of the features."""
    values_LL = list_x[0].new_empty(len(list_x), len(list_y))
    for i, j in product(range(len(list_x)), range(len(list_y))):
        pair = []
        for features in (list_x[i], list_y[j]):
            x_BD = features.flatten(1)
            pair.append((x_BD @ x_BD.T).fill_diagonal_(0))
        values_LL[i, j] = hsic(*pair) / (hsic(pair[0], pair[0]) * hsic(pair[1], pair[1])).sqrt()
    return values_LL


class Job:
    """The network, its clips, and what was found on the way."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        size, self.batch = (16, 4) if options.smoke else (options.size, options.batch)
        torch.manual_seed(0)
        self.backbone = options.backbone
        self.network: nn.Module = create_backbone(self.backbone).to(self.device)
        self.x_BCTHW = torch.rand(self.batch, 3, options.frames, size, size, device=self.device)
        modules = choose_modules(self.network, "leaves")
        leaves = [name for name, module in modules.items() if not isinstance(module, nn.ModuleList)]  # an empty one
        layers = min(options.layers, len(leaves))
        self.layers = [leaves[round(place * (len(leaves) - 1) / max(1, layers - 1))] for place in range(layers)]
        self.few = self.layers[::4]
        self.agreement: dict[str, float] = {}

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def forward(self) -> Callable[[int], int]:
        def call(number: int) -> int:
            with evaluating(self.network):
                self.network(self.x_BCTHW)
            self.wait()
            return self.batch

        return call

    def seen(self, layers: list[str], reduce: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        modules = choose_modules(self.network, layers)
        with evaluating(self.network), Activations(self.network, modules, reduce) as activations:
            self.network(self.x_BCTHW)
        return list(activations.values.values())

    def ours(self, layers: list[str]) -> Callable[[int], int]:
        cka = MinibatchCKA(len(layers), len(layers))

        def call(number: int) -> int:
            grams = self.seen(layers, gram)
            cka.update_grams(grams, grams)
            self.wait()
            return self.batch

        return call

    def peer(self) -> Callable[[int], int]:
        def call(number: int) -> int:
            pair_by_pair(self.seen(self.few, torch.clone), self.seen(self.few, torch.clone))
            self.wait()
            return self.batch

        cka, grams = MinibatchCKA(len(self.few), len(self.few)), self.seen(self.few, gram)
        cka.update_grams(grams, grams)
        outputs = self.seen(self.few, torch.Tensor.double)
        self.agreement["largest difference"] = float((pair_by_pair(outputs, outputs) - cka.compute()).abs().max())
        return call

    def complete(self, result: dict[str, Any]) -> None:
        """Adds what was compared, and the cost as a multiple of the forward pass."""
        result |= {"backbone": self.backbone, "layers": self.layers, "few_layers": self.few}
        result |= {"clip": list(self.x_BCTHW.shape[1:])}
        result |= {"threads": torch.get_num_threads(), "batch": self.batch, "agreement": self.agreement}
        result |= {"show": ["cpu_times_forward", "wall_times_forward"]}
        for row in result["rows"]:
            for kind in ("cpu", "wall"):
                if f"{kind}_ratio" in row:
                    row[f"{kind}_times_forward"] = round(1 / row[f"{kind}_ratio"]["median"], 3)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--backbone", default="r21d", help="(default: %(default)s)")
    options.add_argument("--layers", type=int, default=20, help="(default: %(default)s)")
    options.add_argument("--batch", type=int, default=32, help="clips of a minibatch (default: %(default)s)")
    options.add_argument("--frames", type=int, default=16)
    options.add_argument("--size", type=int, default=112)
    options.add_argument("--threads", type=int, default=0, help="of torch; 0: as it chooses")
    options.set_defaults(iterations=10, warm_up=1)
    chosen: argparse.Namespace = options.parse_args()
    keep_freed_memory()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    job = Job(chosen)
    table = [
        Candidate(FORWARD, job.forward),
        Candidate(OURS, partial(job.ours, job.layers), f"{len(job.layers)} layers"),
        Candidate(FEW, partial(job.ours, job.few), f"{len(job.few)} layers"),
        Candidate(PEER, job.peer, "two passes, each pair by itself"),
    ]
    return run(chosen, "cka", table, "clip", FORWARD, job.complete)


if __name__ == "__main__":
    raise SystemExit(main())
