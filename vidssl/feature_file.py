"""Files of features: npz and parquet, written piece by piece, so that no more than a piece is in memory.

npz      ids, splits, labels (int64 [V], -1 without), label_names [classes], features float32 [V, D], about (JSON).
         With each clip kept: features [V, K, D] and frame_indices int32 [V, K, T], the frames of the video.
parquet  id, split, label, label_name (null without), feature (list of float32); `about` under the schema's metadata
         key "vidssl". With each clip kept a row a clip: also clip (0 to K - 1) and frames (list of int32).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .data.files import replacing
from .data.store import Store
from .engine.runs import output_error
from .errors import RunError


@dataclass(frozen=True)
class Table:
    """What stands beside the features: rows of a store, frames int32 [V, K, T] where each clip is kept, and `about`."""

    store: Store
    rows: np.ndarray
    frames_VKT: np.ndarray | None
    about: str


def write_features(out: Path, table: Table, pieces: list[Path], width: int) -> None:
    """Writes `out` whole or not at all.

    Args:
        out: ends with a key of `FORMATS`.
        pieces: .npy files, float32 [v, width] or [v, K, width], which together hold the table's rows in their order.
    """
    try:
        with replacing(out) as draft:
            FORMATS[out.suffix](draft, table, (np.load(piece) for piece in pieces), width)
    except OSError as error:
        raise output_error(out, error) from error


def _write_npz(draft: Path, table: Table, pieces: Iterator[np.ndarray], width: int) -> None:
    store, rows = table.store, table.rows
    arrays = {
        "ids": np.array([store.ids[row] for row in rows], str),
        "splits": store.splits[rows],
        "labels": store.labels[rows],
        "label_names": np.array(store.label_names, str),
        "about": np.array(table.about),
    }
    clips = () if table.frames_VKT is None else table.frames_VKT.shape[1:2]
    if table.frames_VKT is not None:
        arrays["frame_indices"] = table.frames_VKT
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), *clips, width)}
    # as np.savez does, but member by member, so that no more than a piece is in memory
    with zipfile.ZipFile(draft, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        with archive.open("features.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for features in pieces:
                member.write(features.astype("<f4", copy=False).tobytes())


def _write_parquet(draft: Path, table: Table, pieces: Iterator[np.ndarray], width: int) -> None:
    store, frames_VKT = table.store, table.frames_VKT
    fields = [("id", pa.string()), ("split", pa.string()), ("label", pa.int64()), ("label_name", pa.string())]
    if frames_VKT is not None:
        fields += [("clip", pa.int32()), ("frames", pa.list_(pa.int32(), frames_VKT.shape[2]))]
    schema = pa.schema([*fields, ("feature", pa.list_(pa.float32(), width))], metadata={"vidssl": table.about})
    first = 0
    with pq.ParquetWriter(draft, schema) as writer:
        for features in pieces:
            at = np.arange(first, first + len(features))
            first += len(features)
            columns: list[Any] = []
            if frames_VKT is not None:
                clips = frames_VKT.shape[1]
                flat = pa.array(frames_VKT[at].reshape(-1))
                columns = [
                    np.tile(np.arange(clips, dtype=np.int32), len(at)),
                    pa.FixedSizeListArray.from_arrays(flat, frames_VKT.shape[2]),
                ]
                at = at.repeat(clips)
            rows = table.rows[at]
            labels = store.labels[rows]
            known = (labels >= 0) & (labels < len(store.label_names))
            names = [store.label_names[label] if named else None for label, named in zip(labels, known, strict=True)]
            feature = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), width)
            ids, splits = [store.ids[row] for row in rows], store.splits[rows].tolist()
            label = pa.array(labels, mask=labels < 0)
            writer.write_table(pa.table([ids, splits, label, names, *columns, feature], schema=schema))


FORMATS = {".npz": _write_npz, ".parquet": _write_parquet}


def read_about(out: Path) -> dict[str, Any]:
    """What `embed` wrote into a file of its own. Raises RunError where it is none."""
    try:
        if out.suffix == ".npz":
            with np.load(out) as file:
                return json.loads(str(file["about"]))
        return json.loads(pq.read_schema(out).metadata[b"vidssl"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise RunError(
            f"{out} is there and is no file of features of vidssl ({error}). Choose another --out."
        ) from error
