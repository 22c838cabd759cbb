"""The work of prep: jobs to a pool of processes, finished videos into shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ..engine.progress import Reporter
from .feeder import Feeder, remove_copies
from .pool import Died, WorkerPool
from .prep_plan import PrepPlan
from .shards import assemble, stage, staged_row, unstage
from .transcode import Transcoded
from .work import Job, finished, new_row, process, readable_sha256, row_in_staging, source_sha256


def work(store: Path, plan: PrepPlan, workers: int, progress: Reporter, assembled: bool = True) -> int:
    """Does the jobs. Shards are assembled as soon as all of their videos are there, in whatever order that happens:
    which video comes where is in the plan.

    Videos on disk, and members of archives that can be opened alone, go in the order of the shards. Members of streams
    come after them in the order of their archives: a shard is then whole late, and its videos wait in staging.

    Args:
        assembled: False leaves all videos in staging, for a plan that holds only some of its shards' videos.

    Returns:
        how many of the jobs were done already: their videos lay in staging.
    """
    shards = _Shards(store, plan, assembled)
    remove_copies(store / "staging")
    counts: Counter[str] = Counter()
    jobs = [job for part in plan.jobs for job in part]
    streamed = [job for job in jobs if job.video.file.in_stream and not job.video.problem]
    others = (job for job in jobs if not job.video.file.in_stream or job.video.problem)

    with (
        progress.meter("prep", len(plan.chosen), plan.skipped) as meter,
        WorkerPool(process, workers) as pool,
        Feeder(shards.not_staged(streamed), workers + 1) as feeder,
    ):
        for job, result in pool.run(chain(shards.not_staged(others), feeder)):
            row = _row_of_killer(job, result) if isinstance(result, Died) else result
            feeder.done(job)
            counts[row["status"]] += 1
            shards.is_done(job)
            bad = ", ".join(f"{counts[status]} {status}" for status in ("damaged", "rejected") if counts[status])
            meter.update(plan.skipped + shards.done, bad)
    return shards.found


class _Shards:
    """Which videos of which shards are finished. Their rows lie in staging: they would not fit in memory."""

    def __init__(self, store: Path, plan: PrepPlan, assembled: bool) -> None:
        self._store, self._assembled = store, assembled
        self._numbers = {part[0].shard: [job.number for job in part] for part in plan.jobs}
        self._waiting = {shard: len(numbers) for shard, numbers in self._numbers.items()}
        self.done = self.found = 0

    def not_staged(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Jobs not found in staging; those that are found count at once."""
        for job in jobs:
            if row_in_staging(job) is not None:
                self.found += 1
                self.is_done(job)
            else:
                unstage(Path(job.staging), job.number)
                yield job

    def is_done(self, job: Job) -> None:
        """Counts a staged video. Raises OSError where its shard is whole and cannot be assembled."""
        self.done += 1
        self._waiting[job.shard] -= 1
        if self._assembled and not self._waiting[job.shard]:
            assemble(self._store, job.shard, [self._row(job.staging, n) for n in self._numbers.pop(job.shard)])

    def _row(self, staging: str, number: int) -> dict[str, Any]:
        row = staged_row(Path(staging), number)
        if row is None:
            raise OSError(f"{number:08d} went away from {staging}, or changed there")
        return row


def _row_of_killer(job: Job, death: Died) -> dict[str, Any]:
    """The row of a video whose worker died of it, staged like that of any other."""
    row = new_row(job.number, job.video, job.revision)
    digest = readable_sha256(job.copy) if job.copy is not None else source_sha256(job.video.file)
    row |= finished(Transcoded("rejected", death.reason), digest)
    stage(Path(job.staging), row, None)
    return row
