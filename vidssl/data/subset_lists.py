"""Subsets as lists of ids, and what a source lacks: text files in the store, for people and for other groups.

    STORE/subsets/10k.txt   training videos of the subset (official split 1), an id a line, in the order in which the
                            rule of `subset.py` takes them: a smaller list is the beginning of every larger one. There
                            is one for each of 10k, 30k, 50k and 100k that the store can fill, and for every other
                            size it was prepared with.
    STORE/missing.txt       videos that the tables name and neither the source nor the store has, sorted
    STORE/unlisted.txt      videos of the source that no table names, sorted

UTF-8, lines end in LF; a line end or a backslash within an id is written \\n, \\r, \\\\. The sha256 of a list, which
`vidssl list data` shows, is that of its file: two groups with the same hash have the same subset. `vidssl run --subset
10k` trains on the videos of 10k.txt, whichever larger subset the store holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError
from .files import remove_temporaries, replacing
from .sources import Listing, Named, SourceVideo
from .store import video_key
from .subset import STANDARD_SIZES, balance, nested_order, parse_size, size_name

_FOLDER = "subsets"


def training_part(listing: Listing) -> tuple[list[SourceVideo], list[Named]]:
    """What a subset is taken from: videos of the train split (all where there is no split), and which are missing."""
    missing = listing.all_missing()
    if any(video.split == "train" for video in listing.videos) or any(video.split == "train" for video in missing):
        return [v for v in listing.videos if v.split == "train"], [v for v in missing if v.split == "train"]
    return listing.videos, missing


def order_of(videos: Sequence[tuple[str, str | None]], listing: Listing) -> np.ndarray:
    """Places of (id, class) in the order in which subsets take them."""
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(_classes(listing))}
    labels = np.array([numbers.get(label, -1) for _, label in videos], np.int64)
    return nested_order(labels, keys=np.array([video_key(name) for name, _ in videos], np.uint64))


def subset_report(listing: Listing, taken: Set[str], size: int) -> dict[str, Any]:
    """How a subset of a source came out: `balance`, and how many missing videos others took the places of.

    Args:
        taken: ids of the training videos that make it.
        size: that was asked for.
    """
    training, missing = training_part(listing)
    named = [(v.id, v.label) for v in training if not v.problem] + [(v.id, v.label) for v in missing]
    known = {label for _, label in named}
    counts = {name: 0 for name in _classes(listing) if name in known} | ({"": 0} if None in known else {})
    for name, label in named:
        counts[label or ""] += name in taken
    absent = {video.id for video in missing}
    report = balance(counts, size)
    report["missing"] = sum(named[row][0] in absent for row in order_of(named, listing)[:size])
    return report


def write_lists(store: Path, listing: Listing, subset: int | None) -> list[str]:
    """Writes the lists of a merged store, as far as they change. They follow from its index and the source alone.

    Returns:
        subset lists that went away, because the store cannot fill them any more.
    """
    ids, order = _stored(store)
    (store / _FOLDER).mkdir(exist_ok=True)
    remove_temporaries(store / _FOLDER)
    sizes = {size for size in STANDARD_SIZES if size <= len(order)}
    before = _sizes_there(store)
    sizes |= {size for size in (*before, subset) if size is not None and size <= len(order)}
    gone = [f"{_FOLDER}/{size_name(size)}.txt" for size in sorted(before - sizes)]
    for name in gone:
        (store / name).unlink()
    for size in sorted(sizes):
        _write(store / _FOLDER / f"{size_name(size)}.txt", [ids[row] for row in order[:size]])
    if not any((store / _FOLDER).iterdir()):
        (store / _FOLDER).rmdir()
    held = set(ids)
    lists = {"missing": [v.id for v in listing.all_missing() if v.id not in held], "unlisted": listing.unlisted}
    for name, names in lists.items():
        if names:
            _write(store / f"{name}.txt", names)
        else:
            (store / f"{name}.txt").unlink(missing_ok=True)
    return gone


def subset_hashes(store: Path) -> dict[str, dict[str, Any]]:
    """The lists of a store by name, ascending: "videos" and "sha256" of each."""
    found = {}
    for size in sorted(_sizes_there(store)):
        data = (store / _FOLDER / f"{size_name(size)}.txt").read_bytes()
        found[size_name(size)] = {"videos": data.count(b"\n"), "sha256": hashlib.sha256(data).hexdigest()}
    return found


def read_list(file: Path) -> list[str]:
    """Ids of a list, in its order."""
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [line.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\") for line in lines]


def _write(file: Path, names: list[str]) -> None:
    escaped = (name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") for name in names)
    data = "".join(f"{name}\n" for name in escaped).encode()
    if not file.exists() or file.read_bytes() != data:
        with replacing(file) as temporary:
            temporary.write_bytes(data)


def _stored(store: Path) -> tuple[list[str], np.ndarray]:
    """Ids of a store's videos, and the rows of the training ones in the order in which subsets take them."""
    file = store / "index.parquet"
    if not file.exists():
        return [], np.empty(0, np.int64)
    table = pq.read_table(file, columns=["id", "key", "label", "split"])
    return [str(name) for name in table["id"].to_pylist()], rows_in_order(table)


def rows_in_order(index: pa.Table) -> np.ndarray:
    """Rows of an index's training videos (all where there is no split) in the order in which subsets take them."""
    rows = np.flatnonzero(np.array(index["split"].to_pylist(), dtype=str) == "train")
    if not len(rows):
        rows = np.arange(index.num_rows)
    return rows[nested_order(index["label"].to_numpy()[rows], keys=index["key"].to_numpy()[rows])]


def _sizes_there(store: Path) -> set[int]:
    sizes = set()
    for file in (store / _FOLDER).glob("*.txt"):
        try:
            size = parse_size(file.stem)
        except ConfigError:
            continue
        if size_name(size) == file.stem:
            sizes.add(size)
    return sizes


def _classes(listing: Listing) -> list[str]:
    """Class names in order of their numbers, as the store numbers them (`manifest.label_names`)."""
    labels = {video.label for video in listing.videos} | {video.label for video in listing.missing}
    return [*listing.classes, *sorted(label for label in labels - set(listing.classes) if label is not None)]
