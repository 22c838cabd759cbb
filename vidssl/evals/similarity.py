"""Which layers say the same: CKA maps of the network before and after fine-tuning, and beside other networks.

One clip from the middle of each of `eval.cka_videos` test videos, equal a class, in an order drawn from the seed: a
store's own order would fill a minibatch with a single class. The benchmark does not say what it fed; its maps are of
fine-tuned networks (arXiv 2306.06010, supplementary 3.1), and of the same network before in one figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..analysis.cka import compare
from ..analysis.cka_map import CKAMap
from ..backbones.base import Backbone
from ..data.subset import nested_subsets
from ..engine.context import Context
from ..engine.runs import write_atomic
from ..spec import RunSpec
from ..tasks.base import ClipSpec
from .features import clip_batches
from .target import Target

PRETRAINED, FINETUNED = "pre-trained", "fine-tuned"


def similarity(
    pretrained: Backbone, finetuned: Backbone, target: Target, spec: RunSpec, context: Context
) -> dict[str, Any]:
    """Maps of the two networks with themselves and with each other: cka_*.npz and cka_*.png in the run's folder.

    Returns the maps' summaries by name, and what they are of.
    """
    networks = {PRETRAINED: pretrained, FINETUNED: finetuned}
    pairs = [(FINETUNED, FINETUNED), (PRETRAINED, PRETRAINED), (PRETRAINED, FINETUNED)]
    return {
        "modules": spec.eval.cka_modules,
        "batch": _batch(spec, target),
        "maps": {
            f"{x} / {y}": _map(networks[x], networks[y], (x, y), f"cka_{x}_{y}", target, spec, context)
            for x, y in pairs
        },
    }


def similarity_to(
    other: Backbone, name: str, pretrained: Backbone, target: Target, spec: RunSpec, context: Context
) -> dict[str, Any]:
    """The map between the pre-trained network and another one, of any architecture that takes the same clips."""
    titles = (PRETRAINED, name)
    return {
        "modules": spec.eval.cka_modules,
        "batch": _batch(spec, target),
        "maps": {f"{PRETRAINED} / {name}": _map(pretrained, other, titles, f"cka_{name}", target, spec, context)},
    }


def _map(
    x: Backbone, y: Backbone, titles: tuple[str, str], file: str, target: Target, spec: RunSpec, context: Context
) -> dict[str, Any]:
    from ..report.cka_map import draw_cka
    from ..report.curves import png

    clips = _clips(target, spec, context, " / ".join(titles))
    # bf16 and TF32 would round the outputs that are compared
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found: CKAMap = compare(x.to(context.device), y.to(context.device), clips, spec.eval.cka_modules)
    folder = Path(context.run.path)
    if context.run.main:
        found.save(folder / f"{file}.npz")
        write_atomic(folder / f"{file}.png", png(draw_cka(found, *titles)))
    return found.summary()


def _batch(spec: RunSpec, target: Target) -> int:
    return min(spec.eval.cka_batch, len(target.test))


def _clips(target: Target, spec: RunSpec, context: Context, title: str) -> Iterator[torch.Tensor]:
    """This rank's minibatches, x_BCTHW."""
    labels = target.labels[target.test]
    count = min(spec.eval.cka_videos, len(labels))
    rows = target.test[nested_subsets(labels, [count], spec.seed)[count]]
    rows = np.random.default_rng(spec.seed).permutation(rows)
    batch, accelerator = _batch(spec, target), context.accelerator
    batches = np.split(rows, range(batch, len(rows), batch))[accelerator.process_index :: accelerator.num_processes]
    mine = np.concatenate(batches) if batches else rows[:0]
    clip = ClipSpec(spec.data.frames, spec.data.size)
    with context.reporter.meter(f"CKA, {title}", len(mine)) as meter:
        for positions, x_BCTHW in clip_batches(target.decoder, mine, clip, 1, batch, spec.eval.stride):
            yield x_BCTHW
            meter.update(int(positions[-1]) + 1)
