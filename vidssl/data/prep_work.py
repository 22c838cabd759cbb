"""The work of prep: jobs to a pool of processes, finished videos into shards."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..engine.progress import Reporter
from .pool import Died, WorkerPool
from .prep_plan import PrepPlan
from .shards import assemble, stage, staged_row, unstage
from .transcode import Transcoded
from .work import Job, finished, new_row, process, readable_sha256


def work(store: Path, plan: PrepPlan, workers: int, progress: Reporter) -> None:
    """Does the jobs; shards are assembled in order, each as soon as all of its videos are there."""
    total = len(plan.chosen)
    rows: dict[int, dict[int, dict[str, Any]]] = {part[0].shard: {} for part in plan.jobs}
    unfinished = deque(plan.jobs)
    counts: Counter[str] = Counter()

    def left() -> Iterator[Job]:
        """Jobs not found in staging; those that are found count at once."""
        for part in plan.jobs:
            for job in part:
                row = staged_row(Path(job.staging), job.number)
                expected = new_row(job.number, job.video, job.revision)
                if row is not None and {key: row.get(key) for key in expected} == expected:
                    rows[job.shard][job.number] = row
                else:
                    unstage(Path(job.staging), job.number)
                    yield job

    def assemble_finished() -> None:
        while unfinished and len(rows[unfinished[0][0].shard]) == len(unfinished[0]):
            shard = unfinished.popleft()[0].shard
            done = rows.pop(shard)
            assemble(store, shard, [done[number] for number in sorted(done)])

    with progress.meter("prep", total, plan.skipped) as meter, WorkerPool(process, workers) as pool:
        finished_before = plan.skipped
        for job, result in pool.run(left()):
            row = _row_of_killer(job, result) if isinstance(result, Died) else result
            counts[row["status"]] += 1
            rows[job.shard][job.number] = row
            assemble_finished()
            in_work = sum(len(part) for part in unfinished) - sum(len(part) for part in rows.values())
            bad = ", ".join(f"{counts[status]} {status}" for status in ("damaged", "rejected") if counts[status])
            meter.update(max(finished_before, total - in_work), bad)
        assemble_finished()


def _row_of_killer(job: Job, death: Died) -> dict[str, Any]:
    """The row of a video whose worker died of it, staged like that of any other."""
    row = new_row(job.number, job.video, job.revision)
    row |= finished(Transcoded("rejected", death.reason), readable_sha256(job.video.file.path))
    stage(Path(job.staging), row, None)
    return row
