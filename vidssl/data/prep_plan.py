"""What prep has to do: which videos are wanted, which of them are done, and which shard each of the others goes to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .archives import stream
from .lost import lost_rows
from .manifest import Rows, current_rows, label_names
from .picture import Recipe
from .seen import Seen, look_at, read_seen, write_seen
from .shards import MAX_SHARD_VIDEOS
from .sources import Listing, SourceVideo
from .store import StoreMeta, read_meta, video_key
from .subset_lists import order_of, training_part
from .work import Job, member_sha256, new_row, source_sha256

_COMPARED = ("bytes", "sha256", "revision")
_DESCRIBED = ("label", "split")  # and what begins so: where any of them differs, a video is done again


@dataclass
class PrepPlan:
    """`jobs` by shard, in the order in which they are done; `skipped` chosen videos are done already.

    `beside` are ids of those of `chosen` that nobody chose: their shards are damaged or lost (`lost.py`).
    """

    meta: StoreMeta
    chosen: list[SourceVideo]
    jobs: list[list[Job]]
    skipped: int
    beside: Set[str] = frozenset()


def choose(listing: Listing, subset: int | None, without: Set[str] = frozenset()) -> list[SourceVideo]:
    """All videos, or a class-balanced part of the train split (of all where there is no split) and the whole rest.

    Of several official splits the first decides: what it trains on is thinned out, and so are both parts of the others.

    Args:
        listing: the whole source. Videos that are missing from it are no candidates: the next of their class, in the
            order of `nested_order`, take their places.
        subset: how many, None for all.
        without: further videos that are no candidates; where they are the reason, there may be fewer than `subset`.

    Raises:
        ConfigError: there are not so many.
    """
    if subset is None:
        return listing.videos
    training, missing = training_part(listing)
    there = [video for video in training if not video.problem]
    if subset > len(there):
        lacking = f" ({len(missing)} more are named by its tables and missing)" if missing else ""
        raise ConfigError(
            f"subset of {subset} is not possible: the source has {len(there)} training videos{lacking}; legal: 1 to "
            f"{len(there)}."
        )
    candidates = [video for video in there if video.id not in without]
    order = order_of([(video.id, video.label) for video in candidates], listing)
    taken = {candidates[row].id for row in order[:subset]}
    thinned = {video.id for video in training}
    return [video for video in listing.videos if video.id in taken or video.id not in thinned]


def rounds(
    store: Path,
    meta: StoreMeta,
    listing: Listing,
    subset: int | None,
    lost: list[SourceVideo],
    *,
    threads: int,
    shard_videos: int,
) -> Iterator[PrepPlan]:
    """Plans to be worked off one after the other.

    The first is over what `choose` gives and what is `lost` (`lost.lost_videos`). Where videos of a subset turn out to
    be damaged, the next of their class take their places in a further one, until the subset is full: so a store of 10k
    and one of 50k have the same first 10k videos. Which plans come is the same however often the work was broken off
    between.
    """
    wanted: set[str] = set()
    kept_out: set[str] = set()
    while True:
        chosen = [video for video in choose(listing, subset, kept_out) if video.id not in wanted]
        if wanted and not chosen:
            return
        further = [] if wanted else beside(chosen, lost)
        wanted |= {video.id for video in chosen}
        plan = make_plan(store, meta, listing, [*chosen, *further], threads=threads, shard_videos=shard_videos)
        plan.beside = {video.id for video in further}
        jobs = [job for part in plan.jobs for job in part]
        looks = look_at((job.video.file, job.revision) for job in jobs)
        write_seen(store, zip((job.video.id for job in jobs), looks, strict=True))
        yield plan
        if subset is None:
            return
        kept_out |= wanted & _not_ok(store)


def beside(chosen: list[SourceVideo], lost: list[SourceVideo]) -> list[SourceVideo]:
    """What is lost and not chosen."""
    ids = {video.id for video in chosen}
    return [video for video in lost if video.id not in ids]


def _not_ok(store: Path) -> set[str]:
    table = current_rows(store).table
    if table is None:
        return set()
    columns: list[Any] = [table[name].to_pylist() for name in ("path", "status")]
    return {path for path, status in zip(*columns, strict=True) if status != "ok"}


def make_plan(
    store: Path,
    meta: StoreMeta,
    listing: Listing,
    chosen: list[SourceVideo],
    *,
    threads: int,
    shard_videos: int,
    taken: Set[int] = frozenset(),
) -> PrepPlan:
    """Reads the store, changes nothing.

    Args:
        listing: the whole source: its classes get their numbers, so that a bigger subset does not renumber them.
        chosen: those wanted now.
        threads: for comparing contents.
        taken: numbers of further shards that are not free: those of rounds that are planned and not worked off.
    """
    rows = current_rows(store)
    known = read_meta(store).label_names if (store / "store.json").exists() else {}
    meta = replace(meta, label_names=label_names(rows.table, listing, known))
    recipe = Recipe(meta.codec, meta.fit, meta.picture, meta.coded, meta.gop)
    done = _Done(rows, store)
    answers = done.have(chosen, threads)
    to_do = [video for video, has in zip(chosen, answers, strict=True) if not has]
    to_do.sort(key=lambda video: (video_key(video.id), video.id))
    lost = lost_rows(store, rows)
    places = {
        video.id: (lost[video.id].shard, lost[video.id].number, lost[video.id].revision)
        for video in to_do
        if video.id in lost
    }
    not_free = {*rows.shards, *taken, *(shard for shard, _, _ in places.values())}
    # The number of a shard that was never finished is free: the same videos come into it again.
    free = (shard for shard in range(10**6) if shard not in not_free)
    new = [video for video in to_do if video.id not in places]
    for first in range(0, len(new), shard_videos):
        shard = next(free)
        for number, video in enumerate(new[first : first + shard_videos], shard * MAX_SHARD_VIDEOS):
            places[video.id] = shard, number, done.next_revision(video)
    staging = str(store / "staging")
    parts: dict[int, list[Job]] = {}
    for video in sorted(to_do, key=lambda video: places[video.id]):
        shard, number, revision = places[video.id]
        parts.setdefault(shard, []).append(Job(number, shard, video, revision, staging, recipe))
    return PrepPlan(meta, chosen, list(parts.values()), len(chosen) - len(to_do))


class _Done:
    """What the store already has."""

    def __init__(self, rows: Rows, store: Path) -> None:
        self._store = store
        self._row_of = rows.row_of
        table = rows.table
        wanted = [] if table is None else [c for c in table.column_names if c in _COMPARED or c.startswith(_DESCRIBED)]
        self._columns: dict[str, list[Any]] = {c: table[c].to_pylist() for c in wanted} if table is not None else {}
        self._seen = read_seen(store)

    def have(self, videos: list[SourceVideo], threads: int) -> list[bool]:
        """Whether each is done. Where size and time do not tell, contents are compared, and it is kept that they were.

        Args:
            threads: for comparing contents.
        """
        looks = look_at((video.file, self.next_revision(video) - 1) for video in videos)
        answers = [self._has(video, look) for video, look in zip(videos, looks, strict=True)]
        unsure = [video for video, answer in zip(videos, answers, strict=True) if answer is None]
        if unsure:
            same = self._same(unsure, threads)
            answers = [
                video.id in same if answer is None else answer for video, answer in zip(videos, answers, strict=True)
            ]
            equal = [video for video in unsure if video.id in same]
            looks = look_at((video.file, self.next_revision(video) - 1) for video in equal)
            write_seen(self._store, zip((video.id for video in equal), looks, strict=True))
        return [bool(answer) for answer in answers]

    def _has(self, video: SourceVideo, look: Seen) -> bool | None:
        row = self._row_of.get(video.id)
        if row is None:
            return False
        now = new_row(0, video, 0)
        described = {c for c in (*self._columns, *now) if c.startswith(_DESCRIBED)}
        if any(self._value(column, row) != now.get(column) for column in (*described, "bytes")):
            return False
        seen = self._seen.get(video.id)
        if self._value("sha256", row):
            return True if seen is not None and seen[:2] == look[:2] else None
        if video.problem:  # it was missing, or could not be read
            return True
        return seen == look if video.file.member is not None else not os.access(video.file.path, os.R_OK)

    def _same(self, videos: list[SourceVideo], threads: int) -> set[str]:
        """Ids of those whose content is that of their row. Archives that are streams are read once each.

        Of an archive that was taken away nothing can be compared: what was done of it stays done.
        """
        streams: dict[Path, dict[str, list[SourceVideo]]] = {}
        for video in videos:
            if video.file.member is not None and video.file.in_stream:
                streams.setdefault(video.file.path, {}).setdefault(video.file.member.name, []).append(video)
        others = [video for video in videos if not video.file.in_stream]
        with ThreadPoolExecutor(threads) as pool:
            digests = dict(zip((v.id for v in others), pool.map(source_sha256, (v.file for v in others)), strict=True))
        for path, wanted in streams.items():
            with suppress(OSError):
                for member, content in stream(path, set(wanted)):
                    for video in wanted[member.name]:
                        if video.file.member == member:
                            digests[video.id] = member_sha256(content)
        return {
            video.id for video in videos
            if digests.get(video.id) == self._value("sha256", self._row_of[video.id])
            or (video.file.member is not None and not video.file.path.exists())
        }  # fmt: skip

    def _value(self, column: str, row: int) -> object:
        return self._columns[column][row] if column in self._columns else None

    def next_revision(self, video: SourceVideo) -> int:
        row = self._row_of.get(video.id)
        return 0 if row is None else self._columns["revision"][row] + 1
