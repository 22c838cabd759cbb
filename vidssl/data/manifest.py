"""One row for every source file: what it is, what became of it, where it went. And how rows become manifest and index.

Each shard has its own table of rows (`shards/NNNNNN.parquet`), written once. `manifest.parquet`, `index.parquet` and
the packet arrays are a merge of those tables and nothing else, so they can be rebuilt at any time from what is there.
Where a source changed, a later shard holds a row of a higher `revision`, and the older one is left out of the merge.

Nothing here depends on when or how often prep ran: parquet without time stamps, rows in shard order. Each page has its
checksum: of 300 bits turned over at random in a table without them, three in four went unnoticed by its reader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import DataError
from .files import replacing
from .sources import Listing
from .store import StoreMeta, official_splits, video_key

SHARD_NAME = re.compile(r"(\d{6})\.parquet")
_TAR_BYTES = b"vidssl.tar_bytes"

# What everyone may read. Sizes are those shown, `bytes` and `sha256` those of the source.
_PUBLIC: list[Any] = [
    pa.field("path", pa.string()),
    pa.field("status", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("label", pa.string()),
    pa.field("split", pa.string()),
    pa.field("frames", pa.int64()),
    pa.field("frames_promised", pa.int64()),
    pa.field("fps", pa.float64()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("rotation", pa.int32()),
    pa.field("codec", pa.string()),
    pa.field("duration_seconds", pa.float64()),
    pa.field("bytes", pa.int64()),
    pa.field("sha256", pa.string()),
    pa.field("shard", pa.int32()),
    pa.field("id", pa.string()),
    pa.field("number", pa.int32()),
    pa.field("revision", pa.int32()),
]
# What only the merge needs: the member in its shard. `offset` is that of the first packet, from the start of the tar.
_MEMBER: list[Any] = [
    pa.field("offset", pa.int64()),
    pa.field("member_bytes", pa.int64()),
    pa.field("member_sha256", pa.string()),
    pa.field("packet_sizes", pa.list_(pa.uint32())),
    pa.field("packet_keys", pa.list_(pa.bool_())),
]
PACKETS = {"packet_sizes": np.dtype(np.uint32), "packet_keys": np.dtype(bool)}
# Columns that only some data sets have: further label systems and further official splits.
FURTHER = ("label:", "split:")


def shard_numbers(store: Path) -> list[int]:
    """Numbers of the shards that have a table, ascending."""
    found = (SHARD_NAME.fullmatch(file.name) for file in (store / "shards").glob("*.parquet"))
    return sorted(int(match[1]) for match in found if match)


def write_rows(store: Path, shard: int, rows: list[dict[str, Any]], tar_bytes: int) -> None:
    """Writes a shard's table: its existence is what says that the shard is finished."""
    schema = _schema({name for row in rows for name in row}, tar_bytes)
    _write(store / "shards" / f"{shard:06d}.parquet", pa.Table.from_pylist(rows, schema))


def _schema(columns: Iterable[str], tar_bytes: int) -> pa.Schema:
    """Of a shard's table; of `columns` only the further ones matter."""
    further = sorted(name for name in columns if name.startswith(FURTHER))
    fields: list[Any] = [*_PUBLIC, *(pa.field(name, pa.string()) for name in further), *_MEMBER]
    return pa.schema(fields, metadata={_TAR_BYTES: str(tar_bytes).encode()})


def read_rows(store: Path, shard: int, packets: bool = False) -> pa.Table | None:
    """A shard's table, without the packets by default; None where it or its tar is cut or missing."""
    file = store / "shards" / f"{shard:06d}.tar"
    try:
        table, tar_bytes = read_table(store, shard)
        if file.stat().st_size != tar_bytes:
            return None
    except (DataError, OSError):
        return None
    return table if packets else table.drop_columns(list(PACKETS))


def read_table(store: Path, shard: int) -> tuple[pa.Table, int]:
    """A shard's whole table, and how many bytes its tar must have. Raises DataError with the reason in a few words."""
    file = store / "shards" / f"{shard:06d}.parquet"
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            table = parquet.read(use_threads=False)  # small: threads cost more than they bring
        tar_bytes = int((table.schema.metadata or {})[_TAR_BYTES])
        schema = _schema(table.column_names, tar_bytes)
        missing = set(schema.names) - set(table.column_names)
        if missing or not table.select(schema.names).schema.equals(schema):
            raise ValueError("it lacks columns of a shard's table, or they are of another type")
        return table.select(schema.names), tar_bytes  # further ones are of another version
    except FileNotFoundError:
        raise DataError("it is missing") from None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"it cannot be read ({str(error).splitlines()[0]})") from error


@dataclass
class Rows:
    """The rows that count: of each path the one of the highest revision, in shard order.

    `table` is None where there is no whole shard; `row_of` maps a path to its row; `shards` are all whole shards.
    """

    table: pa.Table | None
    row_of: dict[str, int]
    shards: set[int]


def current_rows(store: Path) -> Rows:
    """Reads the tables of all whole shards."""
    found = {shard: read_rows(store, shard) for shard in shard_numbers(store)}
    tables = {shard: table for shard, table in found.items() if table is not None}
    if not tables:
        return Rows(None, {}, set())
    table = pa.concat_tables(list(tables.values()), promote_options="default")
    paths: list[Any] = table["path"].to_pylist()
    revisions: list[Any] = table["revision"].to_pylist()
    newest: dict[str, tuple[int, int]] = {}
    for row, (path, revision) in enumerate(zip(paths, revisions, strict=True)):
        newest[path] = max(newest.get(path, (-1, -1)), (revision, row))
    kept = sorted(row for _, row in newest.values())
    row_of = {paths[row]: place for place, row in enumerate(kept)}
    return Rows(table.take(pa.array(kept, pa.int64())), row_of, set(tables))


def label_names(table: pa.Table | None, listing: Listing, known: dict[str, list[str]]) -> dict[str, list[str]]:
    """Class names by label system ("" is the store's own): of those known, the rows and the source.

    They are sorted. The store's own come in the source's order where it has one, and what else the store knows after.
    """
    names: dict[str, set[str]] = {"": set()}
    for system, classes in known.items():
        names.setdefault(system, set()).update(classes)
    for column in table.column_names if table is not None else []:
        if table is not None and column.startswith("label"):
            used = table[column].unique().to_pylist()
            names.setdefault(column.partition(":")[2], set()).update(name for name in used if name is not None)
    for video in listing.videos:
        for system, name in {"": video.label, **video.labels}.items():
            classes_of_system = names.setdefault(system, set())
            if name is not None:
                classes_of_system.add(name)
    ordered = {system: sorted(classes) for system, classes in sorted(names.items())}
    ordered[""] = [*listing.classes, *sorted(names[""] - set(listing.classes))]
    return ordered


def merge(store: Path, meta: StoreMeta) -> pa.Table:
    """Rebuilds manifest, index and packet arrays from the shards' tables, each replaced in one step.

    Returns:
        the manifest.
    """
    table = current_rows(store).table
    if table is None:
        raise DataError(f"{store} holds no finished shard. Run the same `vidssl prep` again.")
    manifest, index = merged(table, meta)
    if len(index):  # a store without a single video has no index, so that nobody takes it for a finished one
        _write_packets(store, index)
        _write(store / "index.parquet", index)
        write_meta(store, meta)
    _write(store / "manifest.parquet", manifest)
    return manifest


def merged(table: pa.Table, meta: StoreMeta) -> tuple[pa.Table, pa.Table]:
    """Manifest and index that follow from the rows that count."""
    members = [field.name for field in _MEMBER]
    manifest = table.select([name for name in table.column_names if name not in members])
    return manifest, _index(table.filter(pc.equal(table["status"], pa.scalar("ok"))), meta)


def _write(file: Path, table: pa.Table) -> None:
    with replacing(file) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _index(stored: pa.Table, meta: StoreMeta) -> pa.Table:
    frames = stored["frames"].to_numpy()
    first = np.concatenate([[0], np.cumsum(frames)[:-1]]) if len(frames) else frames
    ids: list[Any] = stored["id"].to_pylist()
    columns: dict[str, Any] = {
        "id": stored["id"],
        "key": pa.array([video_key(name) for name in ids], pa.uint64()),
        "label": _label_numbers(stored["label"], meta.label_names.get("", [])),
        "split": stored["split"],
        "frames": stored["frames"],
        "fps": stored["fps"],
        "shard": stored["shard"],
        "offset": stored["offset"],
        "first_packet": pa.array(first, pa.int64()),
        "bytes": stored["member_bytes"],
        "sha256": stored["member_sha256"],
        "source": stored["path"],
    }
    for system in meta.label_names:
        if system:
            name = f"label:{system}"
            values = stored[name] if name in stored.column_names else pa.nulls(len(stored), pa.string())
            columns[name] = _label_numbers(values, meta.label_names[system])
    for split in official_splits(stored.column_names)[1:]:
        parts = pc.fill_null(stored[f"split:{split}"], "")
        if pc.any(pc.not_equal(parts, pa.scalar(""))).as_py():  # else its tables were taken away again
            columns[f"split:{split}"] = parts
    return pa.table(columns)


def _label_numbers(values: Any, classes: list[str]) -> pa.Array:
    number = {name: n for n, name in enumerate(classes)}
    return pa.array([-1 if name is None else number[name] for name in values.to_pylist()], pa.int32())


def _write_packets(store: Path, index: pa.Table) -> None:
    total = int(index["frames"].to_numpy().sum()) if len(index) else 0
    with ExitStack() as stack:
        files = {}
        for column, dtype in PACKETS.items():
            files[column] = stack.enter_context(stack.enter_context(replacing(store / f"{column}.npy")).open("wb"))
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(files[column], header)
        for arrays in packets_by_shard(store, index):
            for column, values in arrays.items():
                files[column].write(values.tobytes())


def packets_by_shard(store: Path, index: pa.Table) -> Iterator[dict[str, np.ndarray]]:
    """The packets of the index's videos, by column, shard after shard: the whole never lies in memory."""
    shards = index["shard"].to_numpy()
    for shard in np.unique(shards).tolist():
        rows = read_rows(store, shard, packets=True)
        assert rows is not None, f"shard {shard} went away during the merge"
        first, last = np.searchsorted(shards, [shard, shard + 1])  # the index is in order of shards
        places = pc.index_in(index["id"].slice(first, last - first), value_set=rows["id"].combine_chunks())
        lists = {column: rows[column].take(places).combine_chunks() for column in PACKETS}
        yield {
            column: lists[column].flatten().to_numpy(zero_copy_only=False).astype(dtype)
            for column, dtype in PACKETS.items()
        }


def write_meta(store: Path, meta: StoreMeta) -> None:
    text = meta.to_json() + "\n"
    file = store / "store.json"
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")


def settings(meta: StoreMeta) -> dict[str, Any]:
    """What must not differ between two runs of prep on one store."""
    fields = json.loads(meta.to_json())
    return {name: fields[name] for name in ("format", "short_side", "fit", "gop", "codec")}
