"""When the sources of a store were last changed, as far as prep has seen: so that they need not be read to know them.

This is no part of the store, whose bytes depend on contents alone: a folder that was copied without its times, and an
archive of it, give the same store. It is kept in `$VIDSSL_HOME/cache/prepared/`, a file for each store, named after
where that lies. It can be deleted at any time: contents are then compared once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..home import home
from . import rar
from .archive_cache import stamp
from .files import replacing
from .sources import SourceFile

_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("revision", pa.int32()),
        ("mtime_ns", pa.int64()),
        ("archive_ns", pa.int64()),
        ("unpackers", pa.string()),
    ]
)


class Seen(NamedTuple):
    """What a source looked like.

    Args:
        revision: of the store's row that holds this state, or will.
        mtime_ns: its time of change.
        archive_ns: that of its archive, added up over all parts of it, 0 for a file on disk.
        unpackers: the programs for rar that were installed, where reading it may need one: another may do better.
    """

    revision: int
    mtime_ns: int
    archive_ns: int
    unpackers: str


def look_at(files: Iterable[tuple[SourceFile, int]]) -> Iterator[Seen]:
    """What sources look like now, each given with the revision of the row that holds it, or will."""
    archives: dict[Path, int] = {}
    installed = " ".join(rar.programs())
    for file, revision in files:
        if file.member is not None and file.path not in archives:
            archives[file.path] = _mtime_ns(file.path)
        programs = installed if file.in_stream and ".rar" in str(file).lower() else ""
        yield Seen(revision, file.stat()[1], archives[file.path] if file.member is not None else 0, programs)


def _mtime_ns(archive: Path) -> int:
    try:
        return sum(mtime_ns for _, _, mtime_ns in stamp(archive)) % 2**63
    except OSError:
        return 0


def read_seen(store: Path) -> dict[str, Seen]:
    """By path; empty where nothing is known."""
    try:
        table = pq.read_table(_file(store), schema=_SCHEMA)
    except (OSError, pa.ArrowException):
        return {}
    columns: list[Any] = [table[name].to_pylist() for name in _SCHEMA.names]
    return {path: Seen(*rest) for path, *rest in zip(*columns, strict=True)}


def write_seen(store: Path, videos: Iterable[tuple[str, Seen]]) -> None:
    """Adds to what is known. An entry counts as soon as the store has a row of its revision, and only then."""
    known = read_seen(store)
    before = dict(known)
    known |= dict(videos)
    if known == before:
        return
    rows = sorted((path, *seen) for path, seen in known.items())
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=_SCHEMA)
    with suppress(OSError):  # a home that cannot be written costs reading the sources again, nothing else
        file = _file(store)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            pq.write_table(table, temporary, compression="zstd")


def _file(store: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(store))).hexdigest()[:24]
    return home() / "cache" / "prepared" / f"{name}.parquet"
