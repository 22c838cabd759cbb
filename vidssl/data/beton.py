"""`videos.beton`: a prepared set as one file of ffcv.

A store of format "ffcv" is an MJPEG store, shards and all, and beside them this file, made from the shards when prep
ends: field "video" (`ffcv_field.VideoField`, where it is shown how to read it), field "label" (ffcv's IntField).

- The same JPEGs are on disk twice. The shards are what prep goes on from, grows and checks, and what other decoders
  read. ffcv wants one file, which it cannot append to, so that file cannot take their place, nor they its. It may be
  deleted at any time: the same `vidssl prep` makes it again, with the same bytes, and else writes it again only where
  videos or labels changed.
- ffcv keeps a sample on one page, so the page grows with the largest sample.
- Written here and not by ffcv's DatasetWriter, which waits for ever for a worker that met a full disk, and writes each
  page by one unbuffered call, of which Linux takes 2 GiB - 4 KiB at most. The layout and its types are ffcv's
  (`libffcv/ffcv:ffcv/types.py`, `writer.py`, `memory_allocator.py`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow.parquet as pq
from ffcv.fields import Field, IntField
from ffcv.reader import Reader
from ffcv.types import (
    ALLOC_TABLE_TYPE,
    CURRENT_VERSION,
    TYPE_ID_HANDLER,
    FieldDescType,
    HeaderType,
    get_metadata_type,
)

from ..engine.progress import Meter, Reporter
from ..errors import DataError
from .ffcv_field import VideoField, sample_bytes
from .files import replacing
from .store import Store, open_store

FILE = "videos.beton"
MIN_PAGE, MAX_PAGE = 1 << 23, 1 << 31  # bytes: ffcv's default, and the largest power of two that its header can hold
_CUSTOM = 255  # ffcv's number of a field that it does not know


def content(store: Path) -> str:
    """A hash of all that the file is made from: each video's bytes, and its label."""
    table = pq.read_table(store / "index.parquet", columns=["sha256", "label"])
    lines = (f"{sha} {label}\n" for sha, label in zip(*(c.to_pylist() for c in table.columns), strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_beton(store: Path) -> Reader | None:
    """ffcv's reader of the store's file; None where there is none, or not a whole one of this index."""
    file = store / FILE
    try:
        reader = Reader(str(file), {"video": VideoField})
        whole = int(reader.header["alloc_table_ptr"]) + ALLOC_TABLE_TYPE.itemsize * int(reader.num_samples)
        current = file.stat().st_size == whole and reader.handlers["video"].content == content(store)
    except (OSError, ValueError, KeyError, IndexError, AssertionError):  # ffcv asserts its version
        return None
    return reader if current else None


def write(store: Path, progress: Reporter) -> bool:
    """Makes the store's file from its shards, unless it has no videos or the one that is there is of this index.

    Returns:
        whether it was made.

    Raises:
        DataError: a shard is cut, or a video is larger than a page of ffcv can be.
        OSError: it cannot be written; a file that was there before stays.
    """
    if not (store / "index.parquet").exists() or open_beton(store) is not None:
        return False
    videos = open_store(store)
    page = _page_bytes(videos)
    meta = videos.meta
    fields = {"video": VideoField(meta.coded, meta.picture, content(store)), "label": IntField()}
    meter = progress.meter("beton", len(videos))
    with replacing(store / FILE) as temporary, temporary.open("wb") as file, meter as shown:
        _write(file, videos, fields, page, shown)
    videos.close()
    return True


def damage(store: Path) -> list[str]:
    """What is wrong with the store's file, in words, held against shards and index that are good themselves."""
    reader = open_beton(store)
    if reader is None:
        return ["it is missing or cut, or holds what is not in the index"]
    field, videos, stored = reader.handlers["video"], open_store(store), np.memmap(store / FILE, np.uint8, "r")
    wrong, expected = [], np.zeros(1, reader.metadata.dtype)
    for video, entry in enumerate(reader.metadata):
        start, size = int(entry["f0"]["data_ptr"]), int(entry["f0"]["size"])
        room = stored[:0]

        def malloc(size: int, start: int = start) -> tuple[int, np.ndarray]:
            nonlocal room
            room = np.empty(size, np.uint8)
            return start, room

        field.encode(expected["f0"], videos.read(video, 0, int(videos.frames[video]) - 1), malloc)
        expected["f1"] = videos.labels[video]
        if expected[0] != entry or not np.array_equal(room, stored[start : start + size]):
            wrong.append(f"sample {video}, {videos.ids[video]}, is not what the shards hold: delete this file")
    videos.close()
    return wrong


def _page_bytes(videos: Store) -> int:
    """The page size: ffcv's default, or the smallest power of two that holds the largest sample."""
    sizes = [sample_bytes(int(n), int(videos.packet_sizes(v).sum(dtype=np.int64))) for v, n in enumerate(videos.frames)]
    largest = int(np.argmax(sizes))
    page = max(MIN_PAGE, 1 << (sizes[largest] - 1).bit_length())
    if page > MAX_PAGE:
        raise DataError(
            f"{videos.ids[largest]!r} has {sizes[largest]} bytes as a sample of ffcv, which may have {MAX_PAGE}. The "
            f"store's shards are whole; {FILE} was not made. Prepare the set with --format mjpeg under another --name, "
            "or take that video out of the source."
        )
    return page


def _write(file: IO[bytes], videos: Store, fields: dict[str, Field], page: int, meter: Meter) -> None:
    """Header, fields, metadata; samples on pages; table of samples (ffcv/writer.py, ffcv/memory_allocator.py)."""
    header, described = np.zeros(1, HeaderType), np.zeros(len(fields), FieldDescType)
    numbers = {kind: number for number, kind in TYPE_ID_HANDLER.items()}
    for row, (name, field) in zip(described, fields.items(), strict=True):
        row["type_id"] = numbers.get(type(field), _CUSTOM)
        row["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        row["arguments"][:] = field.to_binary()[0]
    metadata = np.zeros(len(videos), get_metadata_type(list(fields.values())))
    samples = np.zeros(len(videos), ALLOC_TABLE_TYPE)
    pages = _Pages(header.nbytes + described.nbytes + metadata.nbytes, page)
    for video in range(len(videos)):
        clip = videos.read(video, 0, int(videos.frames[video]) - 1)
        fields["video"].encode(metadata["f0"][video : video + 1], clip, pages.malloc)
        metadata["f1"][video] = videos.labels[video]
        samples[video] = video, pages.start, len(pages.room)
        file.seek(pages.start)
        file.write(pages.room.data)
        meter.update(video + 1)
    header[0] = CURRENT_VERSION, len(fields), page, len(videos), pages.next_page()
    file.seek(pages.next_page())  # the last page is whole too; what is not written reads as zeros
    file.write(samples.tobytes())
    file.seek(0)
    for part in (header, described, metadata):
        file.write(part.tobytes())


class _Pages:
    """Places samples so that none crosses the end of a page; `start` and `room` are those of the last one."""

    def __init__(self, head: int, page: int) -> None:
        self._page, self._end = page, head
        self._end = self.next_page()

    def malloc(self, size: int) -> tuple[int, np.ndarray]:
        if self._end % self._page + size > self._page:
            self._end = self.next_page()
        self.start, self.room = self._end, np.empty(size, np.uint8)
        self._end += size
        return self.start, self.room

    def next_page(self) -> int:
        return -(-self._end // self._page) * self._page
