"""What prep did, or would do: counts for the terminal and for `--json`."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..engine.progress import Reporter
from .feeder import Feeder
from .prep_plan import PrepPlan
from .sources import Listing, SourceVideo
from .subset import size_name
from .subset_lists import subset_report, training_part
from .work import new_row, transcode_job

_ESTIMATE_FILES, _ESTIMATE_SECONDS = 8, 10.0
_PARTS = {"train": "train", "test": "test"}
_SHOWN = 5  # names in a line
_SHOWN_NOTES = 10


@dataclass
class PrepSummary:
    """What prep did. `videos` are the chosen source files; ok, damaged and rejected add up to it.

    `beside` of them were not chosen, but stood in damaged or lost shards and were made again; `subset` does not count
    them. `skipped` were done before, by an earlier prep or one that was broken off. `ignored` files are no videos by
    name, `unlisted` ones are in no table, `unused` ones are left alone for a reason. `missing` videos are named by the
    tables and not in the source; those that have a row of the manifest are among the rejected ones too. `classes` are
    those of the chosen videos, and `parts` says how many of these are for training and for testing ("train", "test", ""
    where nothing says). `strangers` are usable videos that the store holds and the source does not name. `subset` says
    how the asked subset came out (`subset_report`). `bytes` are those of the shards on disk. Where the source has
    several official splits, `splits` says of each how many videos of its parts the store holds and the source names:
    {"2": {"train": [held, named], "test": [held, named]}}. A dry run has the counts of what would be done and its
    estimates instead, and its subset as if every file were sound.
    """

    videos: int = 0
    ok: int = 0
    damaged: int = 0
    rejected: int = 0
    skipped: int = 0
    beside: int = 0
    ignored: int = 0
    unlisted: list[str] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)
    source_notes: list[str] = field(default_factory=list)
    missing: int = 0
    classes: list[str] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    subset: dict[str, Any] = field(default_factory=dict)
    frames: int = 0
    store: str = ""
    manifest: str = ""
    seconds: float = 0.0
    bytes: int = 0
    splits: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    dry_run: bool = False
    to_do: int = 0
    source_bytes: int = 0
    estimated_seconds: float = 0.0
    estimated_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """The one line of `--json`; `unlisted` and `strangers` are numbers there, with the first names beside."""
        shortened: dict[str, Any] = {}
        for name in ("unlisted", "strangers"):
            names = getattr(self, name)
            shortened |= {name: len(names), f"{name}_first": names[:20]}
        reasons = dict(sorted(self.reasons.items()))
        return {**self.__dict__, **shortened, "reasons": reasons, "seconds": round(self.seconds, 3)}

    def notes(self) -> list[str]:
        """Lines on the subset, and on what the source lacks or has beside the videos."""
        lines = [f"{self._classes_in_words()}; {self._parts_in_words()}"]
        if self.strangers:
            lines.append(
                f"the store also holds {len(self.strangers):,} videos that this source does not name "
                f"({_first(self.strangers)}): they stay in it and are used. To be without them take another --name"
            )
        if self.subset:
            size, videos = self.subset["size"], self.subset["videos"]
            lines.append(f"subset {size_name(size)}: {self.subset['text']}")
            if videos < size:
                lines.append(f"subset {size_name(size)} is not full: only {videos:,} of its videos can be used")
            if self.subset["missing"]:
                lines.append(f"{self.subset['missing']:,} of its videos are missing: the next of their class are taken")
        if self.beside:
            lines.append(f"beside the choice, because their shards were damaged or lost: {self.beside:,} videos")
        where = f" (all: {Path(self.store) / 'missing.txt'})" if not self.dry_run else ""
        if self.missing:
            lines.append(f"named by the tables and missing: {self.missing:,} videos{where}")
        if self.unlisted:
            shown = _first(self.unlisted)
            where = f"; all: {Path(self.store) / 'unlisted.txt'}" if not self.dry_run else ""
            lines.append(f"in no table, left alone: {len(self.unlisted):,} ({shown}{where})")
        lines += [f"{reason}, left alone: {count:,} files" for reason, count in self.unused.items()]
        if self.ignored:
            lines.append(f"no videos by their name, left alone: {self.ignored:,} files")
        lines += self.source_notes[:_SHOWN_NOTES]
        if len(self.source_notes) > _SHOWN_NOTES:
            lines.append(f"and {len(self.source_notes) - _SHOWN_NOTES} more notes on archives (--json has all)")
        return lines

    def _classes_in_words(self) -> str:
        if not self.classes:
            return "no classes"
        return f"{len(self.classes)} class{'es' * (len(self.classes) > 1)}: {_first(self.classes)}"

    def _parts_in_words(self) -> str:
        told = [f"{self.parts[part]:,} to {verb} on" for part, verb in _PARTS.items() if self.parts.get(part)]
        return ", ".join(told) or "nothing says which are to train and which to test on"


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def begin_summary(listing: Listing, chosen: list[SourceVideo], subset: int | None, store: Path) -> PrepSummary:
    """The summary of a prep before its work: what the source holds, and what is wanted of it."""
    training = {video.id for video in training_part(listing)[0]} if subset else set()
    taken = {video.id for video in chosen} & training
    return PrepSummary(
        videos=len(chosen), ignored=listing.ignored, unlisted=listing.unlisted, unused=listing.unused,
        source_notes=listing.notes,
        classes=sorted({video.label for video in chosen if video.label is not None}),
        parts=dict(Counter(video.split for video in chosen)),
        missing=len(listing.all_missing()), subset=subset_report(listing, taken, subset) if subset else {},
        store=str(store), manifest=str(store / "manifest.parquet"),
    )  # fmt: skip


def estimate(plan: PrepPlan, summary: PrepSummary, workers: int, progress: Reporter) -> None:
    """Time and size of what is to be done, from a few of its files transcoded here into memory.

    The files are spread evenly over the order of work, which is random in the sources; time and size are scaled by the
    bytes of the sources, and the time is shared among the workers. Archives are read once, beside the work, however
    many files of them are done: reading them does not count.
    """
    jobs = [job for part in plan.jobs for job in part]
    summary.skipped, summary.to_do = plan.skipped, len(jobs)
    sizes = [new_row(0, job.video, 0)["bytes"] for job in jobs]
    summary.source_bytes = sum(sizes)
    step = max(1, len(jobs) // _ESTIMATE_FILES)
    samples = jobs[::step]
    streamed = [job for job in samples if job.video.file.in_stream and not job.video.problem]
    others = [job for job in samples if not job.video.file.in_stream or job.video.problem]
    begun, seconds, read, written = time.monotonic(), 0.0, 0, 0
    with progress.meter("measure", len(samples)) as meter, Feeder(streamed, 1) as feeder:
        for number, job in enumerate(chain(others, feeder), 1):
            started = time.monotonic()
            made, _ = transcode_job(job)
            seconds += time.monotonic() - started
            feeder.done(job)
            read, written = read + new_row(0, job.video, 0)["bytes"], written + len(made.data or b"")
            meter.update(number)
            if time.monotonic() - begun > _ESTIMATE_SECONDS:
                break
    scale = summary.source_bytes / read if read else 0.0
    summary.estimated_seconds = round(seconds * scale / workers, 1)
    summary.estimated_bytes = round(written * scale)


def sum_up(
    summary: PrepSummary,
    plans: list[PrepPlan],
    found: int,
    manifest: pa.Table,
    store: Path,
    listing: Listing,
    subset: int | None,
) -> None:
    """Fills in what became of the videos of all plans.

    Args:
        found: how many of their jobs were done already, in staging.
        listing: the whole source.
        subset: as asked for.
    """
    taken = {video.id for plan in plans for video in plan.chosen if video.id not in plan.beside}
    chosen = taken.union(*(plan.beside for plan in plans))
    columns = (manifest[name].to_pylist() for name in ("path", "status", "reason", "frames"))
    for path, status, reason, frames in zip(*columns, strict=True):
        if path in chosen:
            setattr(summary, status, getattr(summary, status) + 1)
            if status == "ok":
                summary.frames += frames
            else:
                summary.reasons[_without_numbers(reason)] += 1
    summary.videos, summary.beside = len(chosen), len(chosen) - len(taken)
    summary.skipped = len(chosen) - sum(len(part) for plan in plans for part in plan.jobs) + found
    summary.bytes = sum(file.stat().st_size for file in (store / "shards").glob("*.tar"))
    if subset is not None:
        training = {video.id for video in training_part(listing)[0]}
        summary.subset = subset_report(listing, taken & training & held(manifest), subset)


def held(manifest: pa.Table) -> set[str]:
    columns = (manifest[name].to_pylist() for name in ("path", "status"))
    return {path for path, status in zip(*columns, strict=True) if status == "ok"}


def _without_numbers(reason: str) -> str:
    """The same words for the same cause. The name of an archive stays: it says which one to fetch again."""
    return re.sub(r"(its archive .+? is )|\d+(?:\.\d+)?", lambda found: found[1] or "N", reason)
