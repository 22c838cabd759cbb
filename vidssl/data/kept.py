"""Transcoded videos whose sources are gone already: kept until the choice is final, then laid into the store.

They lie in a folder as in a store's staging folder (`shards.py`), numbered by their places among all videos that the
tables name: that number does not change while archives come and go, as the number in the store does. Videos of other
settings (format, size, fit) lie in another folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from .lock import locked
from .lost import lost_videos
from .manifest import current_rows, settings
from .prep_plan import beside, choose, make_plan
from .shards import stage, staged_row
from .sources import Listing, SourceFile, SourceVideo
from .store import StoreMeta
from .transcode import Transcoded
from .work import Job, finished, new_row, readable_sha256, row_in_staging, source_sha256

_GIVEN_LATE = ("number", "revision")


def as_if_there(listing: Listing) -> Listing:
    """All that the tables name, as if nothing were missing, in order of ids."""
    here = [replace(video, problem="") for video in listing.videos]
    gone = [SourceVideo(v.id, SourceFile(v.id, Path(v.id)), v.label, v.split) for v in listing.missing]
    return replace(listing, videos=sorted([*here, *gone], key=lambda video: video.id), missing=[])


def folder_for(meta: StoreMeta) -> str:
    """Name of the folder for videos of these settings."""
    return "-".join(str(value) for value in settings(meta).values())


class Kept:
    """Videos kept for one store.

    Args:
        folder: where they lie.
        store, meta, threads, shard_videos: as of `prepare`.
    """

    def __init__(self, folder: Path, store: Path, meta: StoreMeta, threads: int, shard_videos: int) -> None:
        self._folder, self._store, self._meta = folder, store, meta
        self._threads, self._shard_videos = threads, shard_videos
        self._numbers: dict[str, int] = {}
        self.chosen: set[str] = set()

    def jobs(self, listing: Listing, videos: list[SourceVideo]) -> list[Job]:
        """What is to be done of some videos: those that neither the store nor the folder has, to be done into it."""
        numbers = self._numbers_of(listing)
        return [
            replace(job, number=numbers[job.video.id], shard=0, revision=0, staging=str(self._folder))
            for part in self._plan(listing, videos)
            for job in part
            if self._row(job, numbers) is None
        ]

    def reject(self, job: Job, reason: str) -> None:
        """Keeps the row of a video whose process died of it."""
        digest = readable_sha256(job.copy) if job.copy is not None else source_sha256(job.video.file)
        row = new_row(job.number, job.video, job.revision) | finished(Transcoded("rejected", reason), digest)
        stage(self._folder, row, None)

    def hand_over(self, listing: Listing, subset: int | None) -> dict[str, Path]:
        """Lays what the choice takes into the store's staging folder under its final numbers: `prepare` finds it there.

        What is there already, as after a repair, is not lacking. What is laid also stays here, so that being killed
        before the store is finished costs nothing. The choice goes through the rounds of `prep_plan.rounds`: where
        videos turn out to be damaged, others take their places.

        Returns:
            videos that are lacking, with their archives. While there are any, the choice is not complete.

        Raises:
            DataError: the store has damaged shards, and the listing lacks some of their videos.
        """
        staging, numbers = self._store / "staging", self._numbers_of(listing)
        self._store.mkdir(parents=True, exist_ok=True)
        wanted: set[str] = set()
        lacking: dict[str, Path] = {}
        with locked(self._store):
            lost = lost_videos(self._store, listing)
            staging.mkdir(exist_ok=True)
            table, taken = current_rows(self._store).table, set[int]()
            status = {} if table is None else _statuses(table)
            while not lacking:
                bad = {name for name in wanted if status.get(name, "ok") != "ok"}
                chosen = [video for video in choose(listing, subset, bad) if video.id not in wanted]
                if wanted and not chosen:
                    break
                further = [] if wanted else beside(chosen, lost)
                wanted |= {video.id for video in chosen}
                self.chosen = wanted | {video.id for video in lost}
                for job in [job for part in self._plan(listing, [*chosen, *further], taken) for job in part]:
                    taken.add(job.shard)
                    row = self._row(job, numbers)
                    if row is not None:
                        status[job.video.id] = row["status"]
                        self._lay(row, numbers[job.video.id], staging)
                    elif (staged := row_in_staging(job)) is not None:
                        status[job.video.id] = staged["status"]
                    elif not job.video.problem:
                        lacking[job.video.id] = job.video.file.path
                if subset is None:
                    break
        return lacking

    def _numbers_of(self, listing: Listing) -> dict[str, int]:
        """Places among all that the tables name: the same for every listing with these tables."""
        if not self._numbers:
            names = sorted([*(video.id for video in listing.videos), *(video.id for video in listing.missing)])
            self._numbers = {name: number for number, name in enumerate(names)}
        return self._numbers

    def _plan(self, listing: Listing, videos: list[SourceVideo], taken: Set[int] = frozenset()) -> list[list[Job]]:
        options = {"threads": self._threads, "shard_videos": self._shard_videos}
        return make_plan(self._store, self._meta, listing, videos, **options, taken=taken).jobs

    def _row(self, job: Job, numbers: dict[str, int]) -> dict[str, Any] | None:
        """The row of a video that is here, with the number and the revision of the job."""
        row = staged_row(self._folder, numbers[job.video.id])
        expected = new_row(job.number, job.video, job.revision)
        if row is None or any(row.get(key) != value for key, value in expected.items() if key not in _GIVEN_LATE):
            return None
        return row | expected

    def _lay(self, row: dict[str, Any], number: int, staging: Path) -> None:
        if row["status"] == "ok":
            file = staging / f"{row['number']:08d}.mp4"
            file.unlink(missing_ok=True)
            try:
                os.link(self._folder / f"{number:08d}.mp4", file)
            except OSError:  # another file system, or one without links
                shutil.copyfile(self._folder / f"{number:08d}.mp4", file)
        stage(staging, row, None)


def _statuses(table: pa.Table) -> dict[str, str]:
    paths: list[Any] = table["path"].to_pylist()
    return dict(zip(paths, table["status"].to_pylist(), strict=True))
