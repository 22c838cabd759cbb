"""What prep refuses before it writes anything, and what it says where it cannot write."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.compute as pc

from ..errors import ConfigError, DataError, EnvironmentProblem, unknown_name
from .manifest import current_rows, settings
from .shards import MAX_SHARD_VIDEOS
from .sources import Listing
from .store import FITS, FORMATS, StoreMeta, read_meta
from .work import NotWritten

SHORT_SIDES = (32, 1080)
_OWN_NAMES = {".lock", "store.json", "shards", "staging"}


def meta_for(name: str, format: str, fit: str, short_side: int) -> StoreMeta:
    """What a new store of these settings holds; unchecked."""
    gop, codec = (8, "h264") if format == "h264" else (1, "mjpeg")
    return StoreMeta(name, format, fit, short_side, gop, codec)


def check_settings(meta: StoreMeta, workers: int | None, shard_videos: int = 1) -> None:
    """Raises ConfigError for a setting that is not possible, with the legal ones."""
    name, format, fit, short_side = meta.name, meta.format, meta.fit, meta.short_side
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f"name {name!r} is not possible. Legal: letters, digits, and . _ + - after the first.")
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if fit not in FITS:
        raise unknown_name("fit", fit, FITS)
    low, high = SHORT_SIDES
    if not low <= short_side <= high:
        raise ConfigError(f"short side {short_side} is not possible. Legal: {low} to {high} pixels; usual: 128, 240.")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers {workers} is not possible. Legal: 1 or more; leave it out for one a processor.")
    if not 1 <= shard_videos <= MAX_SHARD_VIDEOS:
        raise ConfigError(f"{shard_videos} videos a shard are not possible. Legal: 1 to {MAX_SHARD_VIDEOS}.")


def check_same_settings(store: Path, meta: StoreMeta) -> None:
    if not (store / "store.json").exists():
        try:
            foreign = [p.name for p in store.iterdir() if p.name not in _OWN_NAMES and not p.name.endswith(".tmp")]
        except FileNotFoundError:
            return
        except OSError as error:
            raise cannot_write(store, error) from error
        if foreign:
            raise DataError(
                f"{store} is there and no prepared data set (it holds {sorted(foreign)[0]!r} and no store.json). "
                "Nothing was written. Take another --name, or an empty folder."
            )
        return
    old, new = settings(read_meta(store)), settings(meta)
    differing = [f"{key} {old[key]!r}, now asked for {new[key]!r}" for key in new if old[key] != new[key]]
    if differing:
        raise DataError(
            f"{store} was prepared with other settings: {'; '.join(differing)}. Nothing was changed. Take another "
            "--name, or the settings of then."
        )


def strangers(store: Path, listing: Listing) -> list[str]:
    """Ids of the usable videos in a store that its source does not name (any more).

    Raises:
        DataError: there are no others in it: this is another source.
    """
    rows = current_rows(store).table
    if rows is None:
        return []
    held = rows.filter(pc.equal(rows["status"], "ok"))["path"].to_pylist()
    known = {video.id for video in listing.videos} | {video.id for video in listing.missing}
    strange = [name for name in held if name not in known]
    if strange and len(strange) == len(held):
        raise DataError(
            f"{store} holds {len(held)} videos ({strange[0]!r}, ...), and this source names none of them: it is "
            "another source, or its folders were renamed. Nothing was changed. Take another --name, or the --source of "
            "then."
        )
    return strange


def cannot_write(store: Path, error: OSError | NotWritten) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{store} cannot be written: {error.strerror or error} ({error.filename or store}). What is finished is kept "
        "and valid. Make space or give the permission and run the same command again, or set VIDSSL_HOME to another "
        "place."
    )
