"""From finished videos to a tar shard, by way of a staging folder that survives being killed.

A worker leaves two files: `staging/NNNNNNNN.mp4` and, after it, `staging/NNNNNNNN.json`, the video's row. The row is
the mark that the video is done (damaged and rejected ones have only a row). When all videos of a shard are done they
become `shards/NNNNNN.tar`, then `shards/NNNNNN.parquet`: the table is the mark that the shard is done. Whatever is cut
off in between is done again with the same bytes: headers carry no clock, no user and no process.

The number of a video is its shard times 10,000 plus its place there.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from .files import replacing
from .manifest import FURTHER, write_rows

MAX_SHARD_VIDEOS = 10_000
BLOCK = 512  # of a tar; a member's data follow one block of header


def staged_row(staging: Path, number: int) -> dict[str, Any] | None:
    """The row of a staged video if it and its bytes are whole, else None."""
    try:
        row = json.loads((staging / f"{number:08d}.json").read_text(encoding="utf-8"))
        if row["status"] == "ok":
            data = (staging / f"{number:08d}.mp4").read_bytes()
            if hashlib.sha256(data).hexdigest() != row["member_sha256"]:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return row


def stage(staging: Path, row: dict[str, Any], data: bytes | None) -> None:
    """Leaves a finished video in the staging folder. Raises OSError where it cannot be written."""
    number = row["number"]
    if data is not None:
        with replacing(staging / f"{number:08d}.mp4", sync=False) as temporary:
            temporary.write_bytes(data)
    with replacing(staging / f"{number:08d}.json", sync=False) as temporary:
        temporary.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")


def unstage(staging: Path, number: int) -> None:
    for suffix in ("json", "mp4"):
        with suppress(FileNotFoundError):
            (staging / f"{number:08d}.{suffix}").unlink()


def assemble(store: Path, shard: int, rows: list[dict[str, Any]]) -> None:
    """Makes a shard of staged videos and removes them from staging.

    Args:
        rows: all rows of the shard in order of their numbers; `offset` still counts from the start of the member.
    """
    staging = store / "staging"
    file = store / "shards" / f"{shard:06d}.tar"
    further = dict.fromkeys(name for row in rows for name in row if name.startswith(FURTHER))
    placed = []
    with replacing(file) as temporary:
        with temporary.open("wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for staged in rows:
                row = {**further, **staged, "shard": shard}
                if row["status"] == "ok":
                    data = (staging / f"{row['number']:08d}.mp4").read_bytes()
                    if len(data) != row["member_bytes"]:
                        raise OSError(f"{row['number']:08d}.mp4 changed in {staging} while it was read")
                    row["offset"] += raw.tell() + BLOCK
                    _add(tar, f"{row['number']:08d}.mp4", data)
                    _add(tar, f"{row['number']:08d}.json", description(row))
                placed.append(row)
        tar_bytes = temporary.stat().st_size
        file.with_suffix(".parquet").unlink(missing_ok=True)  # of a shard that is made again: it is not this tar's
    write_rows(store, shard, placed, tar_bytes)
    for row in placed:
        unstage(staging, row["number"])


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_tar_info(name, len(data)), io.BytesIO(data))


def header(name: str, size: int) -> bytes:
    """The block before a member of a shard."""
    return _tar_info(name, size).tobuf(tarfile.USTAR_FORMAT)


def _tar_info(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0, the names empty
    member.size = size
    return member


def description(row: dict[str, Any]) -> bytes:
    """What lies beside a video for readers that know nothing of the index."""
    keys = ["id", "label", "split", "fps", "frames", *sorted(key for key in row if key.startswith(FURTHER))]
    return json.dumps({key: row[key] for key in keys}, ensure_ascii=False).encode()
