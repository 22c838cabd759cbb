"""A map of CKA between layers: what it is of, the size of its bright block, and its file."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..engine.runs import write_atomic
from ..errors import RunError

_TEXTS = ("left_out_x", "left_out_y")


@dataclass(frozen=True)
class CKAMap:
    """CKA between the layers of two networks, or of one with itself.

    Args:
        names_x, names_y: of the layers, in the order in which they return.
        values_LL: float64 [layers of x, layers of y]; NaN for a layer that says the same of every clip.
        batches, videos: minibatches and clips that the values are of.
        dropped: clips of batches shorter than the first, which would have counted as much as a whole one.
        left_out_x, left_out_y: module -> why it is no layer of the map.
        itself: whether both sides are one network.
    """

    names_x: list[str]
    names_y: list[str]
    values_LL: np.ndarray
    batches: int
    videos: int
    dropped: int
    left_out_x: dict[str, str] = field(default_factory=dict)
    left_out_y: dict[str, str] = field(default_factory=dict)
    itself: bool = False

    @property
    def undefined(self) -> list[str]:
        """Layers that say the same of every clip, so that nothing can be compared with them."""
        nothing = np.isnan(self.values_LL)
        empty_x = [name for name, is_empty in zip(self.names_x, nothing.all(1), strict=True) if is_empty]
        empty_y = [name for name, is_empty in zip(self.names_y, nothing.all(0), strict=True) if is_empty]
        return sorted({*empty_x, *empty_y})

    def blocks(self, threshold: float = 0.9) -> BlockStructure | None:
        """See `block_structure`. None between two networks, and for a single layer."""
        return block_structure(self.values_LL, threshold) if self.itself and len(self.names_x) > 1 else None

    def summary(self) -> dict[str, Any]:
        """What a table needs, for JSON."""
        block, described = self.blocks(), None
        if block is not None:
            described = {**asdict(block), "from": self.names_x[block.first], "to": self.names_x[block.last]}
        return {
            "layers": [len(self.names_x), len(self.names_y)],
            "batches": self.batches,
            "videos": self.videos,
            "dropped": self.dropped,
            "mean": _mean(self.values_LL),
            "block": described,
            "undefined": self.undefined,
            "left_out": [self.left_out_x, self.left_out_y],
        }

    def save(self, path: Path) -> None:
        """One .npz, whole or not at all."""
        arrays: dict[str, Any] = asdict(self)
        for name in _TEXTS:
            arrays[name] = json.dumps(arrays[name])
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> CKAMap:
        """Raises RunError where the file is missing or is none of these."""
        try:
            with np.load(path) as file:
                values = {each.name: file[each.name] for each in fields(cls)}
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise RunError(
                f"{path} cannot be read as a CKA map ({error}). Evaluate again: `vidssl eval RUN --on DATA --with cka`."
            ) from error
        plain = {name: value if name == "values_LL" else value.tolist() for name, value in values.items()}
        for name in _TEXTS:
            plain[name] = json.loads(plain[name])
        return cls(**plain)


@dataclass(frozen=True)
class BlockStructure:
    """The largest run of layers that say the same, and how alike layers are in general.

    Args:
        first, last: of the block, counted from 0, both in it; the first of several of one size.
        share: of the layers that are in it; 0 where no two neighbours are alike.
        mean: CKA of two different layers; None where there is none.
        threshold: CKA from which two layers are alike.
    """

    first: int
    last: int
    share: float
    mean: float | None
    threshold: float


def block_structure(values_LL: np.ndarray, threshold: float = 0.9) -> BlockStructure:
    """The block structure of a network's map with itself, as a number.

    Nguyen et al. (ICLR 2021, section 4) show the block structure, a long run of layers with almost the same
    representations, as a bright square in the map, and give no number. Ours is the longest run of consecutive layers in
    which every pair, the two ends too, has a CKA of at least `threshold`, as a share of the layers. The share of bright
    pairs would not do: a band along the diagonal, where each layer is like its neighbours only, has many and is no
    block. It depends on the layers that are looked at ("all" repeats a container's last child), so only maps of the
    same choice of modules can be compared.

    Args:
        values_LL: at least two layers, as they follow each other. A NaN ends a block.
    """
    layers = len(values_LL)
    begin = first = last = 0
    for end in range(1, layers):
        unlike = np.flatnonzero(~(values_LL[begin:end, end] >= threshold))
        begin += int(unlike[-1]) + 1 if len(unlike) else 0
        if end - begin > last - first:
            first, last = begin, end
    different = values_LL[~np.eye(layers, dtype=bool)]
    share = (last - first + 1) / layers if last > first else 0.0
    return BlockStructure(first, last, share, _mean(different), threshold)


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
