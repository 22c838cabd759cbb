"""`prep --cluster slurm|local`: the shards of a plan as jobs of a cluster.

The submitting process cuts the plan into parts, hands them out, waits, and moves what is finished into the store. What
a job does, and why a repeated or forgotten one does no harm, stands in `cluster_job.py`.

A part is a whole shard. Where videos lie in archives that can only be read from their beginning it is an archive, so
that each is read once: its videos belong to many shards, which the submitting process assembles at the end.

A job that is over without having finished its part is handed out again: killed, out of time, failed, cancelled by
somebody. Where the scheduler requeues it by itself it goes on where it was. Both count only while nothing comes of it:
after three starts in a row without one more finished video prep ends, with an error that names the log.

Jobs that SLURM does not take wait and are tried again while others of this prep are in its queue.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from ..engine.progress import Reporter
from ..errors import EnvironmentProblem
from .cluster_job import SUBMISSION, Part, collect, make_place, move_video, run_of
from .manifest import SHARD_NAME, read_rows
from .prep_plan import PrepPlan
from .prep_work import work
from .schedulers import MAX_ARRAY, RUNNING, Local, Slurm
from .shards import MAX_SHARD_VIDEOS
from .work import Job, row_in_staging

_FRUITLESS = 3
_POLL_SECONDS = 15.0  # at most; more often in the beginning


@dataclass(eq=False)
class _Handed:
    """A part and how far it is. `run` counts the starts of work in it, `best` is the one that last finished a video."""

    part: Part
    videos: int
    job: Any = None
    run: int = 0
    best: int = 0
    done: int = 0
    failures: int = 0
    unseen: int = 0

    def place(self) -> Path:
        return Path(self.part.folder) / f"{self.part.name}.{self.run}"


def work_on_cluster(
    store: Path,
    plan: PrepPlan,
    cluster: str,
    workers: int | None,
    progress: Reporter,
    *,
    jobs: int | None = None,
    slurm: Mapping[str, str] | None = None,
) -> int:
    """Does a plan's jobs as `prep_work.work` does, on a cluster. The shards are the same, byte for byte.

    Args:
        store: on a file system that all nodes see under the same path, as the source is. Its lock is held, and
            `cluster_job.take_over` was called before the plan was made.
        cluster: "slurm", or "local" for processes of this machine; checked by `schedulers.check_cluster`.
        workers: processes of a job; by default one for each core that SLURM gives it, 1 for "local".
        jobs: how many at once, those that wait in SLURM's queue included; by default as many as SLURM's arrays can
            have, for "local" as many as this machine has cores for.
        slurm: parameters of the jobs by submitit's names.

    Returns:
        how many of the videos were done already, in staging.

    Raises:
        EnvironmentProblem: SLURM does not take jobs while it has none of ours, or one of them fails again and again.
        KeyboardInterrupt: with the jobs cancelled. What they finished is kept for the next `take_over`.
    """
    if not plan.jobs:
        return 0
    staged = set(os.listdir(store / "staging"))
    found = sum(
        f"{job.number:08d}.json" in staged and row_in_staging(job) is not None for shard in plan.jobs for job in shard
    )
    folder = Path(tempfile.mkdtemp(prefix=SUBMISSION, dir=store / "staging")).absolute()
    if cluster == "local":
        workers = workers or 1
        scheduler: Local | Slurm = Local(folder / "log", jobs or max(1, len(os.sched_getaffinity(0)) // workers))
    else:
        scheduler = Slurm(folder / "log", f"prep-{plan.meta.name}", jobs, workers, slurm or {})
    waiting = deque(_cut(store, folder, plan, workers))
    handed: list[_Handed] = []
    finished = shown = plan.skipped
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    with progress.meter("prep", len(plan.chosen), plan.skipped) as meter, _cancelling(scheduler, handed, progress):
        while waiting or handed:
            _hand_out(scheduler, waiting, handed, progress)
            time.sleep(min(_POLL_SECONDS, max(scheduler.least_seconds, (time.monotonic() - begun) / 20)))
            alive = scheduler.alive([one.job for one in handed])
            for one in _look(folder, handed, alive):
                handed.remove(one)
                if _collected(one, store):
                    finished += one.videos
                    counts.update(_statuses(store, one.part))
                else:
                    one.failures += 1
                    waiting.append(one)
            for one in (*handed, *waiting):
                _check_fruits(one, still_on=one in handed)
            shown = max(shown, finished + sum(one.done for one in (*handed, *waiting)))
            meter.update(shown, _note(counts, alive, handed, len(waiting)))
    mixed, _ = _shards_by_kind(plan)
    if mixed:
        progress.say(f"assembling {len(mixed)} shards of videos from archives")
        rest = replace(plan, chosen=[job.video for shard in mixed for job in shard], jobs=mixed, skipped=0)
        work(store, rest, workers or 1, Reporter(quiet=True))
    return found


def _cut(store: Path, folder: Path, plan: PrepPlan, workers: int | None) -> Iterator[_Handed]:
    """The parts, each with what an earlier prep left of it in staging."""
    mixed, whole = _shards_by_kind(plan)
    size = -(-len(whole) // MAX_ARRAY)
    cuts = [(whole[first : first + size], True) for first in range(0, len(whole), size or 1)]
    archives: dict[Path, list[list[Job]]] = {}
    for shard in mixed:
        others = [job for job in shard if not _streamed(job)]
        if others:
            cuts.append(([others], False))
        by_archive: dict[Path, list[Job]] = {}
        for job in filter(_streamed, shard):
            by_archive.setdefault(job.video.file.path, []).append(job)
        for path, jobs in by_archive.items():
            archives.setdefault(path, []).append(jobs)
    cuts.extend((archives[path], False) for path in sorted(archives))
    staged = {int(row.stem): row for row in (store / "staging").glob("*.json")}
    for number, (shards, is_whole) in enumerate(cuts):
        jobs = [job for shard in shards for job in shard]
        part_plan = replace(plan, chosen=[job.video for job in jobs], jobs=shards, skipped=0)
        part = Part(str(folder), f"{number:06d}", part_plan, workers, is_whole)
        place = make_place(folder, part.name)
        for job in jobs:
            if job.number in staged:
                move_video(staged[job.number], place / "staging")
        yield _Handed(part, len(jobs))


def _shards_by_kind(plan: PrepPlan) -> tuple[list[list[Job]], list[list[Job]]]:
    """Shards with videos that can only be read as a stream, and those without."""
    mixed = [shard for shard in plan.jobs if any(map(_streamed, shard))]
    return mixed, [shard for shard in plan.jobs if not any(map(_streamed, shard))]


def _streamed(job: Job) -> bool:
    return job.video.file.in_stream and not job.video.problem


def _hand_out(scheduler: Local | Slurm, waiting: deque[_Handed], handed: list[_Handed], progress: Reporter) -> None:
    """Raises EnvironmentProblem where none is taken and none is handed out: what runs is not given up for it."""
    count = min(len(waiting), scheduler.room(len(handed)))
    batch = [waiting[place] for place in range(count)]
    with _held_back():  # a job that is not in `handed` yet would not be cancelled
        try:
            jobs = scheduler.submit([one.part for one in batch])
        except EnvironmentProblem:
            if not handed:
                raise
            progress.say(
                f"SLURM did not take {count} more jobs: {scheduler.refused}. They wait and are tried again; the "
                f"{len(handed)} that it has go on."
            )
            return
        for one, job in zip(batch, jobs, strict=True):
            one.job, one.unseen = job, 0
            handed.append(waiting.popleft())


@contextmanager
def _held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect at its end. Blocking them would not do: another thread may receive them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def _cancelling(scheduler: Local | Slurm, handed: list[_Handed], progress: Reporter) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if left := scheduler.cancel([one.job for one in handed]):
            progress.say(left)
        raise


def _collected(one: _Handed, store: Path) -> bool:
    """Moves a finished part into the store. False where it is not finished, or not all of it arrived: another run of
    the same job, thought dead, may rename the folder at any time."""
    with suppress(FileNotFoundError):
        if one.part.is_done(one.place()):
            collect(one.place(), store)
            return one.part.is_done(store)
    return False


def _look(folder: Path, handed: list[_Handed], alive: dict[str, str] | None) -> list[_Handed]:
    """Notes how far the parts are. Returns those whose job is over."""
    runs = {name.partition(".")[0]: run_of(name) for name in os.listdir(folder) if "." in name}
    results = set(os.listdir(folder / "log"))
    over = []
    for one in handed:
        one.run = runs.get(one.part.name, one.run)
        has_result = one.job.paths.result_pickle.name in results
        gone = alive is not None and one.job.job_id not in alive
        one.unseen = one.unseen + 1 if gone else 0
        if has_result or gone or (alive is not None and alive[one.job.job_id] == RUNNING):
            with suppress(FileNotFoundError):  # a new run has renamed the folder: the next look finds it
                _count(one)
        if has_result or one.unseen > 1:  # a shared file system may show a result later than the queue shows the end
            over.append(one)
    return over


def _count(one: _Handed) -> None:
    staged = [name for name in os.listdir(one.place() / "staging") if name.endswith(".json")]
    found = (SHARD_NAME.fullmatch(name) for name in os.listdir(one.place() / "shards"))
    whole = {int(match[1]) for match in found if match}
    done = sum(len(shard) for shard in one.part.plan.jobs if shard[0].shard in whole)
    done += sum(int(name.partition(".")[0]) // MAX_SHARD_VIDEOS not in whole for name in staged)
    if done > one.done:
        one.done, one.best, one.failures = done, one.run, 0


def _check_fruits(one: _Handed, still_on: bool) -> None:
    """Raises EnvironmentProblem after too many starts from which nothing came."""
    starts = max(one.run - one.best, one.failures)
    if starts < _FRUITLESS + still_on:
        return
    raise EnvironmentProblem(
        f"job {one.job.job_id} was started {starts} times in a row and finished no further video of its {one.videos}: "
        f"{_reason(one.job)}. Its log: {one.job.paths.stderr}. What is finished is kept: mend the cause and run the "
        "same command again."
    )


def _reason(job: Any) -> str:
    """What the job itself says. Where it says nothing, what that may mean."""
    from submitit.core.utils import UncompletedJobError

    if not job.paths.result_pickle.exists():
        return "it ended without a word: killed, out of memory or of time, or its node does not see the store"
    try:
        return str(job.result())
    except UncompletedJobError:
        return "it ended before its work began"


def _statuses(store: Path, part: Part) -> Iterator[str]:
    for shard in part.plan.jobs:
        rows = read_rows(store, shard[0].shard)
        if rows is not None:
            yield from rows["status"].to_pylist()


def _note(counts: Counter[str], alive: dict[str, str] | None, handed: list[_Handed], waiting: int) -> str:
    """What stands beside the meter: jobs by state, and how many videos of finished shards were kept out."""
    bad = [f"{counts[status]} {status}" for status in ("damaged", "rejected") if counts[status]]
    if alive is None:
        return ", ".join(["the queue does not answer", *bad])
    states = Counter(alive[one.job.job_id] for one in handed if one.job.job_id in alive)
    running = states.pop(RUNNING, 0)
    queued = waiting + states.total()
    why = "".join(f" ({state})" for state, _ in states.most_common(1)) if not running else ""
    return ", ".join([f"{running} jobs run", *([f"{queued} wait{why}"] if queued else []), *bad])
