"""A prepared data set on disk: tar shards of short videos, and an index that turns each clip into one slice of a shard.

    STORE/store.json         what was asked for: format, picture size, fit (see StoreMeta)
    STORE/shards/000000.tar  members `<number>.mp4` (index first) and `<number>.json`; any tar, any player, WebDataset
    STORE/shards/000000.parquet   one row for EVERY source file of this shard, rejected ones too (written by prep)
    STORE/manifest.parquet   all those rows
    STORE/index.parquet      one row per stored video, in shard order
    STORE/packet_sizes.npy   uint32, bytes of each packet (= frame) of every video, concatenated
    STORE/packet_keys.npy    bool, whether that packet is a key frame

A video's packets lie one behind the other in its member, so frames [a, b] are one contiguous slice that starts at the
last key frame at or before a. Nothing is opened, probed or sought while loading.

Index columns: id (source path, POSIX, relative), key (uint64, stable hash of the id; the seed of the video's random
stream), label (int32, -1 without), split ("train", "test" or ""), frames, fps, shard, offset (of the first packet, from
the start of the tar), first_packet (row in the packet arrays), bytes, sha256 (of the stored member). A further label
system is a further int32 column `label:<system>`. `split` is the first official split; where a data set has several
over the same videos (UCF101 and HMDB51 have three), the others are further columns `split:2`, `split:3`.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, unknown_name

FORMATS = ("h264", "mjpeg", "ffcv")
FITS = ("cover", "squash")
STORE_VERSION = 1
FIRST_SPLIT = "1"


@dataclass(frozen=True)
class StoreMeta:
    """What a store holds. Sizes are (width, height) in pixels.

    `picture` is the part of the `coded` frame that shows something: 171x128 in 176x128 by default. The coded size is
    a multiple of 16 and one for the whole store, because a hardware decoder is cached by its coded size.
    """

    name: str
    format: str = "h264"
    fit: str = "cover"
    short_side: int = 128
    gop: int = 8
    codec: str = "h264"
    label_names: dict[str, list[str]] = field(default_factory=dict)
    version: int = STORE_VERSION

    @property
    def picture(self) -> tuple[int, int]:
        return round(self.short_side * 4 / 3), self.short_side

    @property
    def coded(self) -> tuple[int, int]:
        width, height = self.picture
        return -(-width // 16) * 16, -(-height // 16) * 16

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def video_key(video_id: str) -> int:
    """The stable 64-bit number of a video; the same in every store and subset that holds it."""
    return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], "little")


@dataclass(frozen=True)
class ClipSlice:
    """The bytes of whole groups of pictures that hold the wanted frames.

    `data` are the packets as stored (H.264: 4-byte length before each NAL unit, parameter sets in every key packet;
    MJPEG: one JPEG a packet); `sizes` their lengths; `first_frame` the video's frame number of packet 0.
    """

    data: bytes
    sizes: np.ndarray
    first_frame: int


class Store:
    """A prepared data set, open for reading. `len`, `ids`, `labels`, `frames` and the rest are arrays over its videos.

    `splits` are those of the one official split that was asked for, `official_split`; `official_splits` names all of
    them, beginning with "1". All videos are there whichever was asked for: one without a part in it has "".

    Safe to share between threads, cheap to open (the packet table is memory-mapped), picklable by path.
    """

    def __init__(self, path: Path, labels: str | None = None, split: str | None = None) -> None:
        self.path = Path(path)
        self.label_system = labels
        self.official_split = FIRST_SPLIT if split is None else split
        self.meta = read_meta(self.path)
        table = _read_index(self.path)
        self.ids = [str(video) for video in table["id"].to_pylist()]
        self.keys = table["key"].to_numpy().astype(np.uint64)
        self.official_splits = official_splits(table.column_names)
        self.splits = np.array(table[self._split_column()].to_pylist(), dtype=str)
        self.frames = table["frames"].to_numpy().astype(np.int64)
        self.fps = table["fps"].to_numpy().astype(np.float64)
        column = "label" if labels is None else f"label:{labels}"
        if column not in table.column_names:
            systems = [name.partition(":")[2] for name in table.column_names if name.startswith("label:")]
            raise unknown_name(f"label system of {self.path.name}", labels or "", systems)
        self.labels = table[column].to_numpy().astype(np.int64)
        self.label_names = self.meta.label_names.get(labels or "", [])
        self._shard = table["shard"].to_numpy()
        self._offset = table["offset"].to_numpy()
        self._first_packet = table["first_packet"].to_numpy()
        self._sizes, self._keyflags = _read_packets(self.path, int(self.frames.sum()))
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, videos={len(self)}, format={self.meta.format!r})"

    def __reduce__(self) -> tuple:
        return Store, (self.path, self.label_system, self.official_split)

    def _split_column(self) -> str:
        name, asked, there = self.path.name, self.official_split, self.official_splits
        if asked in there:
            return "split" if asked == FIRST_SPLIT else f"split:{asked}"
        if len(there) == 1:
            raise DataError(
                f"{name} has one split of its videos, and split {asked!r} was asked for. Open it as {name!r}. Several "
                "official splits come from `vidssl prep ucf101` and `vidssl prep hmdb51`, or from train2.csv and "
                "test2.csv beside train.csv and test.csv in a folder of your own."
            )
        raise unknown_name(f"official split of {name}", asked, there)

    def indices(self, split: str) -> np.ndarray:
        """Row numbers of one part ("train" or "test") of the official split that is open, ascending."""
        return np.flatnonzero(self.splits == split)

    def fingerprint(self) -> str:
        """A hash that changes when a video does: ids, lengths and the size of every packet."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        for array in (self.frames, self._sizes):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def labels_fingerprint(self) -> str:
        """A hash of labels, their names and the split, which `fingerprint` does not know."""
        text = json.dumps([self.label_names, self.splits.tolist(), self.labels.tolist()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def packet_sizes(self, video: int) -> np.ndarray:
        first = self._first_packet[video]
        return self._sizes[first : first + self.frames[video]]

    def key_flags(self, video: int) -> np.ndarray:
        first = self._first_packet[video]
        return self._keyflags[first : first + self.frames[video]]

    def read(self, video: int, first_frame: int, last_frame: int) -> ClipSlice:
        """Cuts the groups of pictures that hold frames `first_frame` to `last_frame` (included) out of the shard."""
        keys = self.key_flags(video)
        start = first_frame - int(np.argmax(keys[first_frame::-1]))
        sizes = self.packet_sizes(video)
        offset = int(self._offset[video]) + int(sizes[:start].sum(dtype=np.int64))
        wanted = sizes[start : last_frame + 1]
        length = int(wanted.sum(dtype=np.int64))
        data = os.pread(self._file(int(self._shard[video])), length, offset)
        if len(data) != length:
            raise DataError(
                f"shard {int(self._shard[video]):06d}.tar of {self.path} ends early: wanted {length} bytes of "
                f"{self.ids[video]!r}, got {len(data)}. The file was cut: its `vidssl prep` again mends it."
            )
        return ClipSlice(data, wanted, start)

    def _file(self, shard: int) -> int:
        with self._lock:
            if shard not in self._files:
                path = self.path / "shards" / f"{shard:06d}.tar"
                try:
                    self._files[shard] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    advice = "Its `vidssl prep` again makes what is missing."
                    raise DataError(f"cannot read shard {path}: {error.strerror}. {advice}") from error
            return self._files[shard]

    def close(self) -> None:
        with self._lock:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()

    def __del__(self) -> None:
        # at the interpreter's end `os` may be gone, and the system closes the files anyway
        if hasattr(self, "_lock") and os is not None and os.close is not None:
            self.close()


def official_splits(columns: Iterable[str]) -> list[str]:
    """Names of the official splits that an index with these columns has: "1", and its further ones in order."""
    further = [name.partition(":")[2] for name in columns if name.startswith("split:")]
    return [FIRST_SPLIT, *sorted(further, key=int)]


def read_meta(path: Path) -> StoreMeta:
    """Reads `store.json`. Raises DataError where the folder is no store or of a later version."""
    file = Path(path) / "store.json"
    try:
        fields = json.loads(file.read_text())
        meta = StoreMeta(**fields)
    except FileNotFoundError:
        raise DataError(
            f"{path} is no prepared data set (it has no store.json). Make one with `vidssl prep folder --source DIR "
            "--name NAME`; `vidssl list data` shows those there are."
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}). Prepare the data set again under another --name.") from error
    if meta.version > STORE_VERSION:
        raise DataError(f"{path} has store version {meta.version}, this vidssl reads up to {STORE_VERSION}: update it.")
    return meta


def _read_index(path: Path) -> pa.Table:
    file = path / "index.parquet"
    try:
        return pq.read_table(file)
    except FileNotFoundError:
        raise DataError(f"{path} is not finished: {file.name} is missing. Run the same `vidssl prep` again.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file} is damaged ({str(error).splitlines()[0]}). Run the same `vidssl prep` again: it rebuilds the "
            "index from the shards and redoes nothing else."
        ) from error


def _read_packets(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for name in ("packet_sizes", "packet_keys"):
        file = path / f"{name}.npy"
        try:
            array = np.load(file, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is damaged or missing ({error}). Run the same `vidssl prep` again.") from error
        if len(array) != count:
            raise DataError(f"{file} has {len(array)} packets, the index {count}. Run the same `vidssl prep` again.")
        arrays.append(array)
    return arrays[0], arrays[1]


def open_store(path: str | Path, labels: str | None = None, split: str | None = None) -> Store:
    """Opens a prepared data set by its folder.

    Args:
        path: the store's folder (`$VIDSSL_HOME/data/NAME`).
        labels: a further label system of the store ("motion"); by default its own labels.
        split: an official split of the store ("2"); by default the first.

    Raises:
        DataError: no store, not finished, damaged, or a further split was asked of a store that has one.
        ConfigError: a label system or split that the store does not have.
    """
    return Store(Path(path), labels, split)
