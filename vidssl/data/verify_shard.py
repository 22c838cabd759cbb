"""One shard against its table: the tar block by block, and the packets of each video as a demuxer sees them.

A shard's tar follows from its table byte by byte (headers, videos by their sha256, descriptions, padding), so nothing
of it goes unseen, and behind a bad member the next one is found where it must be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import av.error
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError
from .encode import packet_table
from .lost import LostRow
from .manifest import read_table
from .seen import read_seen
from .shards import BLOCK, description, header, stage, staged_row

_ROWS_AT_ONCE = 64  # packets as Python numbers take a hundred times their bytes


@dataclass
class ShardCheck:
    """`problems` by file, relative to the store; `videos` and `bytes` are those that were read."""

    videos: int = 0
    bytes: int = 0
    problems: dict[str, list[str]] = field(default_factory=dict)

    def add(self, file: str, problem: str) -> None:
        self.problems.setdefault(file, []).append(problem)


def check_shard(store: Path, shard: int, gop: int, each: Callable[[], None]) -> ShardCheck:
    """Reads a shard whole.

    Args:
        gop: length of the store's groups of pictures.
        each: called after each video.
    """
    seen, file = ShardCheck(), f"shards/{shard:06d}.tar"
    try:
        table, tar_bytes = read_table(store, shard)
    except DataError as error:
        seen.add(f"shards/{shard:06d}.parquet", str(error))
        return seen
    try:
        with (store / file).open("rb") as tar:
            seen.bytes = tar.seek(0, 2)
            if seen.bytes != tar_bytes:
                seen.add(file, f"it has {seen.bytes} bytes, and its table says {tar_bytes}")
            tar.seek(0)
            for row, _, problem in _members(tar, table, gop):
                if problem:
                    seen.add(file, f"{problem}: {row['id']}")
                seen.videos += 1
                each()
            if tar.read().strip(b"\0"):
                seen.add(file, "behind its last member there is something")
    except OSError as error:
        seen.add(file, f"it cannot be read: {error.strerror}")
    return seen


def put_back(store: Path, shard: int, gop: int) -> None:
    """Puts the bad videos of a shard back among those to be done.

    Its good videos go to staging and its tar goes away: the next prep finds them there, does the others, and makes the
    same shard again, as its table says. (Where it is not known when their sources were last changed, it does them all.)
    """
    staging, seen = store / "staging", read_seen(store)
    staging.mkdir(exist_ok=True)
    table, _ = read_table(store, shard)

    def keep(row: dict[str, Any], data: bytes | None) -> None:
        look = seen.get(row["path"])
        when = {"mtime_ns": look.mtime_ns} if look is not None and look.revision == row["revision"] else {}
        stage(staging, {key: value for key, value in row.items() if key != "shard"} | when, data)

    for row in _rows(table.filter(pc.not_equal(table["status"], pa.scalar("ok")))):
        keep(row, None)
    with suppress(FileNotFoundError), (store / "shards" / f"{shard:06d}.tar").open("rb") as tar:
        for row, data, problem in _members(tar, table, gop):
            if not problem:
                keep(row, data)
    (store / "shards" / f"{shard:06d}.tar").unlink(missing_ok=True)


def is_staged(store: Path, row: LostRow) -> bool:
    """Whether a video lies in staging such that the next prep takes it, if its source is what it was."""
    staged = staged_row(store / "staging", row.number)
    if staged is None or "mtime_ns" not in staged:
        return False
    return (staged["path"], staged["revision"]) == (row.path, row.revision)


def _members(tar: IO[bytes], table: pa.Table, gop: int) -> Iterator[tuple[dict[str, Any], bytes, str]]:
    """Of each stored video its row, its bytes, and what is wrong with them ("" where nothing is).

    `offset` in the row is counted from the start of the member, as before the shard was assembled.
    """
    for row in _rows(table.filter(pc.equal(table["status"], pa.scalar("ok")))):
        name, text = f"{row['number']:08d}", description(row)
        row["offset"] -= tar.tell() + BLOCK
        head, data, padding = _member(tar, row["member_bytes"])
        text_head, seen_text, text_padding = _member(tar, len(text))
        if hashlib.sha256(data).hexdigest() != row["member_sha256"]:
            problem = "the bytes of a video are not those of its sha256"
        elif head != header(f"{name}.mp4", len(data)) or text_head != header(f"{name}.json", len(text)):
            problem = "the header of a member is damaged"
        elif seen_text != text:
            problem = "the description beside a video is damaged"
        elif (padding + text_padding).strip(b"\0"):
            problem = "the space behind a member is not empty"
        else:
            problem = _packet_problem(row, data, gop)
        yield row, data, problem


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _member(tar: IO[bytes], size: int) -> tuple[bytes, bytes, bytes]:
    return tar.read(BLOCK), tar.read(size), tar.read(-size % BLOCK)


def _packet_problem(row: dict[str, Any], data: bytes, gop: int) -> str:
    try:
        first, sizes, keys = packet_table(data, gop)
    except (av.error.FFmpegError, ValueError) as error:
        return f"a video has other packets than a store's ({error})"
    if (first, sizes, keys) != (row["offset"], row["packet_sizes"], row["packet_keys"]):
        return "the packets of a video are not those of its table"
    return ""
