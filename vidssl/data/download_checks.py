"""What `prep --download` refuses before it fetches anything: less disk than it needs, as far as that is known.

The sizes of archives are those of `addresses.py`, those of videos an estimate (`discovery.estimate`). While it runs,
each archive is held against the disk once more, by what its server says (`arrivals.py`).
"""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError, EnvironmentProblem, VidsslError
from ..home import home, stores_dir
from .addresses import Parts, public_of
from .discovery import Estimate
from .kept import folder_for
from .member_lists import list_of
from .store import StoreMeta


def refusals(dataset: str, meta: StoreMeta, figures: Estimate, max_disk: int) -> list[VidsslError]:
    """Why a download cannot come to its end here; empty where nothing speaks against it.

    Args:
        dataset: one with public addresses.
        meta: of the store to be.
        figures: of the whole download; what is here of it already is left out.
        max_disk: bytes of archives on disk at once.
    """
    folder = home() / "downloads" / dataset
    found: list[VidsslError] = []
    coming = [part for part in public_of(dataset).parts if len(_lists(folder, part)) < part.count]
    largest = max(coming, key=_bytes_of_one, default=None)
    if largest is not None and _bytes_of_one(largest) > max_disk:
        each = "" if largest.count == 1 else f" each of {largest.count}, on average"
        found.append(
            ConfigError(
                f"--max-disk {max_disk / 1e9:.3g} GB is too little for the archives of {dataset}: "
                f"{largest.address} takes {_bytes_of_one(largest) / 1e9:.3g} GB{each}. Give at least --max-disk "
                f"{math.ceil(_bytes_of_one(largest) / 1e9)}GB. Nothing was fetched."
            )
        )
    if figures.kept_bytes is not None:
        store, kept = stores_dir() / meta.name, folder / "kept" / folder_for(meta)
        found += _no_room(kept, store, figures.kept_bytes / figures.videos, figures.videos, meta.format)
    return found


def _no_room(kept: Path, store: Path, bytes_each: float, videos: int, format: str) -> list[VidsslError]:
    """Args: bytes_each: of a video in the store. What is here is counted, not measured: an estimate that is too high
    would ask for room again where nothing is left to do."""
    beton = 0.5 if format == "ffcv" else 0.0  # of the store: its ffcv file, which is written anew
    left = max(0, videos - _rows(store))
    to_store = round(bytes_each * (left * (1 - beton) + (videos * beton if left else 0)))
    to_keep = round(bytes_each * (1 - beton) * max(0, left - sum(1 for _ in kept.glob("*.json"))))
    needs: dict[int, tuple[Path, int]] = {}
    for place, need in ((kept, to_keep), (store, to_store)):
        there = next(above for above in (place, *place.parents) if above.exists())
        disk = there.stat().st_dev
        needs[disk] = there, need + needs.get(disk, (there, 0))[1]
    found: list[VidsslError] = []
    for there, need in needs.values():
        free = shutil.disk_usage(there).free
        if need > free:
            found.append(
                EnvironmentProblem(
                    f"{there} has {free / 1e9:.1f} GB free, and about {need / 1e9:.1f} GB more are needed: the "
                    "videos are there twice while the store is written, as they were kept and in it. Nothing was "
                    "fetched. Make space, take a smaller --subset or --short-side, or set VIDSSL_HOME to another place."
                )
            )
    return found


def _lists(folder: Path, part: Parts) -> list[Path]:
    """Of the archives that were seen."""
    return list((folder / "source" / part.name).glob(list_of(Path("*")).name))


def _bytes_of_one(part: Parts) -> float:
    return part.bytes / part.count


def _rows(store: Path) -> int:
    """Videos that a store has or has tried."""
    count = 0
    for table in (store / "shards").glob("*.parquet"):
        with suppress(OSError, pa.ArrowException):  # a shard that is damaged is made again
            count += pq.read_metadata(table).num_rows
    return count
