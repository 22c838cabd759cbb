"""What prep did, or would do: counts for the terminal and for `--json`."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..engine.progress import Reporter
from .prep_plan import PrepPlan
from .work import new_row, transcode_job

_ESTIMATE_FILES, _ESTIMATE_SECONDS = 8, 10.0


@dataclass
class PrepSummary:
    """What prep did. `videos` are the chosen source files; ok, damaged and rejected add up to it.

    `skipped` of them were done before. `ignored` files are no videos by name, `unlisted` ones are in no table. `bytes`
    are those of the shards on disk. Where the source has several official splits, `splits` says of each how many videos
    of its parts the store holds and the source names: {"2": {"train": [held, named], "test": [held, named]}}. A dry run
    has the counts of what would be done and its estimates instead.
    """

    videos: int = 0
    ok: int = 0
    damaged: int = 0
    rejected: int = 0
    skipped: int = 0
    ignored: int = 0
    unlisted: list[str] = field(default_factory=list)
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
        """The one line of `--json`; `unlisted` is a number there, with the first names beside it."""
        unlisted = {"unlisted": len(self.unlisted), "unlisted_first": self.unlisted[:20]}
        reasons = dict(sorted(self.reasons.items()))
        return {**self.__dict__, **unlisted, "reasons": reasons, "seconds": round(self.seconds, 3)}


def estimate(plan: PrepPlan, summary: PrepSummary, workers: int, progress: Reporter) -> None:
    """Time and size of what is to be done, from a few of its files transcoded here into memory.

    The files are spread evenly over the order of work, which is random in the sources; time and size are scaled by the
    bytes of the sources, and the time is shared among the workers.
    """
    jobs = [job for part in plan.jobs for job in part]
    summary.skipped, summary.to_do = plan.skipped, len(jobs)
    sizes = [new_row(0, job.video, 0)["bytes"] for job in jobs]
    summary.source_bytes = sum(sizes)
    step = max(1, len(jobs) // _ESTIMATE_FILES)
    begun, read, written = time.monotonic(), 0, 0
    with progress.meter("measure", len(jobs[::step])) as meter:
        for number, (job, size) in enumerate(zip(jobs[::step], sizes[::step], strict=True), 1):
            made, _ = transcode_job(job)
            read, written = read + size, written + len(made.data or b"")
            meter.update(number)
            if time.monotonic() - begun > _ESTIMATE_SECONDS:
                break
    scale = summary.source_bytes / read if read else 0.0
    summary.estimated_seconds = round((time.monotonic() - begun) * scale / workers, 1)
    summary.estimated_bytes = round(written * scale)


def sum_up(summary: PrepSummary, plan: PrepPlan, manifest: pa.Table, store: Path) -> None:
    chosen = {video.id for video in plan.chosen}
    columns = (manifest[name].to_pylist() for name in ("path", "status", "reason", "frames"))
    for path, status, reason, frames in zip(*columns, strict=True):
        if path in chosen:
            setattr(summary, status, getattr(summary, status) + 1)
            if status == "ok":
                summary.frames += frames
            else:
                summary.reasons[re.sub(r"\d+(\.\d+)?", "N", reason)] += 1
    summary.skipped = plan.skipped
    summary.bytes = sum(file.stat().st_size for file in (store / "shards").glob("*.tar"))


def held(manifest: pa.Table) -> set[str]:
    columns = (manifest[name].to_pylist() for name in ("path", "status"))
    return {path for path, status in zip(*columns, strict=True) if status == "ok"}
