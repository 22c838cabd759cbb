"""Centred kernel alignment (CKA) of layers, from minibatches, with an unbiased estimator.

Linear CKA compares two layers by the similarities that they see between the same clips (Kornblith, Norouzi, Lee,
Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019). Sums over minibatches of the unbiased
HSIC_1 (Song, Smola, Gretton, Bedo, Borgwardt, "Feature Selection via Dependence Maximization", JMLR 2012) make its
expectation independent of the batch size (Nguyen, Raghu, Kornblith, "Do Wide and Deep Networks Learn the Same
Things?", ICLR 2021, equations 2 to 4).

HSIC_1 is computed as the inner product of U-centred Gram matrices (Szekely, Rizzo, "Partial Distance Correlation with
Methods for Dissimilarities", Annals of Statistics 2014), which is the same number as the formula of the papers. Two
things follow. All pairs of layers are one matrix product. And U-centring removes what is common to all clips, so each
feature is first moved to be zero at the batch's first clip: float32 then keeps the differences between clips even
where they are small beside what the clips share, and a layer that says the same of every clip is exactly zero.

Against AntixK/PyTorch-Model-Compare (the tool behind the benchmark's maps, as we infer): each Gram matrix is computed
once a batch and not once a pair, names stand in the order of the values, and what it gets wrong by in-place modules
and repeated calls is right (see `activations`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from ..errors import ConfigError, RunError
from .activations import MODULES, Activations, choose_modules, evaluating
from .cka_map import CKAMap

SMALLEST_BATCH = 4
"""HSIC_1 divides by n (n - 3)."""
COLUMNS = 4096
"""Features of a partial Gram matrix: products of so many are summed in float32, their sums in float64."""
ELEMENTS = {"cpu": 2**18, "cuda": 2**26}
"""Of an output, moved at once: on a CPU a piece stays in the cache, on a GPU few launches matter more."""
_SUMS = ("cross_LL", "self_x_L", "self_y_L")


def gram(x: torch.Tensor) -> torch.Tensor:
    """Similarities of clips, float64 [B, B]: inner products of their differences to the first clip.

    Args:
        x: floating point [B, ...] in any layout. Less than float32 is raised to it, float64 is kept.
    """
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    # the order of features does not matter: that of memory needs no copy, in channels-last layout too
    order = sorted(range(1, x.ndim), key=x.stride, reverse=True)
    x_BD = x.detach().permute(0, *order).reshape(len(x), -1)
    whole = x_BD.shape[1] // COLUMNS * COLUMNS
    x_PBD = x_BD[:, :whole].unflatten(1, (-1, COLUMNS)).transpose(0, 1)
    at_once = max(1, ELEMENTS.get(x.device.type, ELEMENTS["cuda"]) // (len(x) * COLUMNS))
    total_BB = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        for part_PBD in (*x_PBD.split(at_once), x_BD[None, :, whole:]):
            moved_PBD = part_PBD.to(kind) - part_PBD[:, :1].to(kind)
            total_BB += torch.bmm(moved_PBD, moved_PBD.mT).sum(0, dtype=torch.float64)
    return total_BB


def u_centred(gram_LBB: torch.Tensor) -> torch.Tensor:
    """Gram matrices without diagonal whose rows all sum to zero, [L, B, B]; <U(K), U(K')> / (n (n - 3)) is HSIC_1."""
    n = gram_LBB.shape[-1]
    off_diagonal = ~torch.eye(n, dtype=torch.bool, device=gram_LBB.device)
    gram_LBB = gram_LBB * off_diagonal
    mean_LB = gram_LBB.sum(-1) / (n - 2)
    total_L = mean_LB.sum(-1) / (n - 1)
    return (gram_LBB - mean_LB[:, :, None] - mean_LB[:, None, :] + total_L[:, None, None]) * off_diagonal


class MinibatchCKA:
    """Sums of HSIC_1 over minibatches, for all pairs of layers of two networks (or of one with itself).

    Sums are float64, on the device of the features. They add: ranks, or halves of a data set, are merged by `merge`.

    Args:
        num_x, num_y: layers of the two sides.
    """

    def __init__(self, num_x: int, num_y: int) -> None:
        self.cross_LL = torch.zeros(num_x, num_y, dtype=torch.float64)
        self.self_x_L = torch.zeros(num_x, dtype=torch.float64)
        self.self_y_L = torch.zeros(num_y, dtype=torch.float64)
        self.batches = 0

    def update(self, list_x: Sequence[torch.Tensor], list_y: Sequence[torch.Tensor]) -> None:
        """Adds one minibatch.

        Args:
            list_x, list_y: features of each layer, floating point [B, ...], of the same B clips in the same order.

        Raises ConfigError where B is below 4, or the features are not those of `num_x` and `num_y` layers.
        """
        sizes = {len(features) for features in (*list_x, *list_y)}
        if len(sizes) > 1:
            raise ConfigError(f"CKA compares features of the same clips, and here are {sorted(sizes)} of them.")
        grams_x = [gram(features) for features in list_x]
        self.update_grams(grams_x, grams_x if list_y is list_x else [gram(features) for features in list_y])

    def update_grams(self, grams_x: Sequence[torch.Tensor], grams_y: Sequence[torch.Tensor]) -> None:
        """As `update`, with the Gram matrix of each layer, float64 [B, B], as `gram` makes them."""
        if (len(grams_x), len(grams_y)) != self.cross_LL.shape:
            raise ConfigError(
                f"features of {len(grams_x)} and {len(grams_y)} layers for a CKA of {list(self.cross_LL.shape)}."
            )
        n = len(grams_x[0])
        if n < SMALLEST_BATCH:
            raise ConfigError(
                f"a minibatch of {n} clips is too small for CKA; legal: {SMALLEST_BATCH} or more (--set eval.cka_batch="
                "32). The estimator divides by n (n - 3)."
            )
        x_LD = u_centred(torch.stack(list(grams_x))).flatten(1)
        y_LD = x_LD if grams_y is grams_x else u_centred(torch.stack(list(grams_y))).flatten(1)
        scale = n * (n - 3)
        self.cross_LL = self.cross_LL.to(x_LD.device) + x_LD @ y_LD.T / scale
        self.self_x_L = self.self_x_L.to(x_LD.device) + x_LD.square().sum(1) / scale
        self.self_y_L = self.self_y_L.to(x_LD.device) + y_LD.square().sum(1) / scale
        self.batches += 1

    def merge(self, other: MinibatchCKA) -> None:
        """Adds the minibatches that another one saw."""
        for name in _SUMS:
            mine = getattr(self, name)
            setattr(self, name, mine + getattr(other, name).to(mine.device))
        self.batches += other.batches

    def to(self, device: torch.device | str) -> None:
        """Moves the sums."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name).to(device))

    def compute(self) -> torch.Tensor:
        """CKA of all pairs, float64 [num_x, num_y], within -1 and 1, and 0 in expectation for independent features.

        NaN for a layer that says the same of every clip. Raises ConfigError before the first minibatch.
        """
        if not self.batches:
            raise ConfigError("CKA of no minibatches: call update with at least one before compute.")
        return self.cross_LL / (self.self_x_L.sqrt()[:, None] * self.self_y_L.sqrt()[None, :])


def compare(
    network_x: nn.Module,
    network_y: nn.Module,
    batches: Iterable[torch.Tensor],
    modules: str | Sequence[str] = "blocks",
    modules_y: str | Sequence[str] | None = None,
) -> CKAMap:
    """CKA between the layers of two networks, in eval mode, over minibatches of clips. On every rank the same.

    Memory is that of a forward pass and of one Gram matrix [B, B] a layer. A network beside itself runs once a batch.

    Args:
        network_x, network_y: on the device of the batches; of any width and depth, or the same object.
        batches: this rank's x_BCTHW, all of one size. Shorter ones (the last, as a rule) would count as much as a whole
            one and are dropped; the map says how many clips that were.
        modules, modules_y: see `choose_modules`; the second is that of network y where it differs.

    Raises ConfigError for unknown modules, modules without a usable output, and batches of fewer than 4 clips;
    RunError where an output is not finite.
    """
    itself = network_x is network_y and modules_y is None
    networks = [network_x] if itself else [network_x, network_y]
    choices = [modules, modules if modules_y is None else modules_y]
    with evaluating(*networks), ExitStack() as stack:
        sides = [
            stack.enter_context(Activations(network, choose_modules(network, choice), gram))
            for network, choice in zip(networks, choices, strict=False)
        ]
        mine = _over_batches(networks, sides, batches)
    shares = gather_object([mine])
    # a rank that had nothing but a short batch took it for a whole one
    size = max(share.size for share in shares)
    whole = [share for share in shares if share.sums is not None and share.size == size]
    videos, seen = sum(share.videos for share in whole), sum(share.videos + share.dropped for share in shares)
    if not whole:
        raise ConfigError(
            f"CKA needs minibatches of {SMALLEST_BATCH} clips or more, and all {seen} clips came in smaller ones. Take "
            "a larger --set eval.cka_batch, or a data set with more videos."
        )
    total = MinibatchCKA(*whole[0].sums.cross_LL.shape)
    for share in whole:
        total.merge(share.sums)
    layers, left_out = whole[0].names, whole[0].left_out
    _require_finite(layers[0], total.self_x_L)
    _require_finite(layers[-1], total.self_y_L)
    return CKAMap(
        names_x=layers[0],
        names_y=layers[-1],
        values_LL=total.compute().numpy(),
        batches=total.batches,
        videos=videos,
        dropped=seen - videos,
        left_out_x=left_out[0],
        left_out_y=left_out[-1],
        itself=itself,
    )


@dataclass
class _Share:
    """What one process saw: clips of whole minibatches and of short ones, and of each side the layers."""

    size: int = 0
    videos: int = 0
    dropped: int = 0
    names: list[list[str]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    sums: Any = None


def _over_batches(networks: list[nn.Module], sides: list[Activations], batches: Iterable[torch.Tensor]) -> _Share:
    share = _Share()
    for x_BCTHW in batches:
        if len(x_BCTHW) < max(share.size, SMALLEST_BATCH):
            share.dropped += len(x_BCTHW)
            continue
        for network in networks:
            network(x_BCTHW)
        names = [side.names for side in sides]
        if share.sums is None:
            share.size, share.names = len(x_BCTHW), names
            share.left_out = [side.all_left_out() for side in sides]
            if not all(names):
                raise ConfigError(
                    f"CKA of no layers: none of the chosen modules can be compared ({share.left_out}). Legal: "
                    f"{', '.join(MODULES)}, or names of modules that return one tensor a batch of clips."
                )
            share.sums = MinibatchCKA(len(names[0]), len(names[-1]))
        assert names == share.names, "the modules of a network returned in another order than before"
        grams = [list(side.values.values()) for side in sides]
        share.sums.update_grams(grams[0], grams[-1])
        share.videos += len(x_BCTHW)
    if share.sums is not None:
        share.sums.to("cpu")
    return share


def _require_finite(names: list[str], self_L: torch.Tensor) -> None:
    wrong = [name for name, value in zip(names, self_L.tolist(), strict=True) if not math.isfinite(value)]
    if wrong:
        raise RunError(
            f"CKA: outputs of {', '.join(wrong[:5])}{' and others' * (len(wrong) > 5)} are NaN or infinite. Check that "
            "the weights are (a diverged training leaves such), or compute with --set engine.precision=fp32."
        )
