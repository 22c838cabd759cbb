"""Videos whose shard is damaged or lost: where they were, and that the next prep brings them back, whatever it chooses.

A shard that is not whole counts for nothing, and merging without it would take its videos away from a store that was
finished. So they are done again beside what a prep chooses, in their old places: they make the same shard again,
however the store has grown since. Where they were stands in the shard's own table, or, if that is bad, in the manifest.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import DataError
from .manifest import Rows, current_rows, read_table, shard_numbers
from .sources import Listing, SourceVideo

_SHOWN = 5  # names in a message


class LostRow(NamedTuple):
    """A row that would count if its shard were whole."""

    path: str
    shard: int
    number: int
    revision: int
    status: str


def lost_rows(store: Path, rows: Rows) -> dict[str, LostRow]:
    """Rows of shards that are not whole, by path, as far as a table still tells of them. Older revisions are left out.

    Args:
        rows: those of the whole shards.
    """
    revisions: list[Any] = [] if rows.table is None else rows.table["revision"].to_pylist()
    found: dict[str, LostRow] = {}
    for table in _tables(store, rows.shards):
        columns = (table[name].to_pylist() for name in LostRow._fields)
        for row in map(LostRow._make, zip(*columns, strict=True)):
            counts = revisions[rows.row_of[row.path]] if row.path in rows.row_of else -1
            if row.path in found:
                counts = max(counts, found[row.path].revision)
            if row.revision > counts:
                found[row.path] = row
    return found


def _tables(store: Path, whole: set[int]) -> list[pa.Table]:
    """Of each shard that is not whole its table, or its part of the manifest."""
    tables: dict[int, pa.Table] = {}
    for shard in set(shard_numbers(store)) - whole:
        with suppress(DataError):
            tables[shard] = read_table(store, shard)[0]
    with suppress(OSError, pa.ArrowException, ValueError):  # it is made again; without it the tables alone tell
        manifest = pq.read_table(
            store / "manifest.parquet", columns=list(LostRow._fields), page_checksum_verification=True
        )
        for shard in set(manifest["shard"].to_pylist()) - whole - set(tables):
            tables[shard] = manifest.filter(pc.equal(manifest["shard"], pa.scalar(shard, pa.int32())))
    return [tables[shard] for shard in sorted(tables)]


def lost_videos(store: Path, listing: Listing) -> list[SourceVideo]:
    """Videos of the source whose rows are lost; those that were no good are among them, for the same shard again.

    Raises:
        DataError: the source lacks some of them.
    """
    lost = lost_rows(store, current_rows(store))
    there = {video.id: video for video in listing.videos if video.id in lost}
    lacking = [row for path, row in lost.items() if row.status == "ok" and (path not in there or there[path].problem)]
    if lacking:
        names = ", ".join(row.path for row in lacking[:_SHOWN]) + (" ..." if len(lacking) > _SHOWN else "")
        shards = ", ".join(f"{shard:06d}" for shard in sorted({row.shard for row in lacking}))
        raise DataError(
            f"{store} has damaged or lost shards ({shards}), and the source lacks {len(lacking)} of their videos "
            f"({names}), so that they cannot be made again. Nothing was changed. Bring these videos, or the shards, "
            "back and run the same command again. To give up all videos of these shards instead, delete their "
            f".tar and .parquet files in {store / 'shards'} and {store / 'manifest.parquet'} first."
        )
    return list(there.values())
