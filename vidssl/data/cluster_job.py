"""What one job of `prep --cluster` does, and why no two of them can get in each other's way.

A job works in a folder of its own, a small store with `staging` and `shards`, in which the same `work` as on one
machine makes its shards. Only the submitting process, which holds the store's lock, moves them into the store.

Such a folder is called NAME.RUN, and who starts to work in it first renames it to the next RUN. A scheduler starts a
job again when a node is lost or given to others, and the old run may still be alive: what it writes from then on, under
the old name, fails, and it ends. In the same way a submitting process puts an end to the jobs of an earlier one that
was killed (`take_over`): it renames the folder of all of them, and keeps what they have finished.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from ..engine.progress import Reporter
from ..errors import EnvironmentProblem
from .files import remove_temporaries
from .manifest import SHARD_NAME, read_rows
from .prep_plan import PrepPlan
from .prep_work import work

SUBMISSION = "jobs-"  # how folders of submissions begin, in STORE/staging
_TAKEN = ".taken"


@dataclass(frozen=True)
class Part:
    """What one job does: some shards of a plan. submitit calls it on the node.

    Args:
        folder: of the submission, where `NAME.RUN` lies.
        name: of the part.
        plan: with the shards of this part only.
        workers: processes, by default one for each core that the job has.
        whole: it has all videos of its shards and assembles them; else it leaves its videos in staging.
    """

    folder: str
    name: str
    plan: PrepPlan
    workers: int | None
    whole: bool

    def __call__(self) -> str:
        """Returns what went wrong, "" where nothing did."""
        signal.signal(signal.SIGTERM, _end)
        place = claim(Path(self.folder), self.name)
        if place is None:
            sys.exit(f"{self.folder} has no part {self.name} any more: this job was replaced, or its prep has ended.")
        try:
            self._work(place)
        except Exception as error:  # whatever it is: the submitting process decides if the job is tried again
            if not place.is_dir():
                sys.exit(f"{place} was taken over: another run of this job, or another prep, goes on from here.")
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
        return ""

    def checkpoint(self) -> Any:
        """submitit's question what is to be run when the job is out of time or preempted: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _work(self, place: Path) -> None:
        left = [shard for shard in self.plan.jobs if read_rows(place, shard[0].shard) is None]
        _see_source(left)
        for name in ("shards", "staging"):
            remove_temporaries(place / name)
        staging = str(place / "staging")
        jobs = [[replace(job, staging=staging) for job in shard] for shard in left]
        plan = replace(self.plan, jobs=jobs)
        work(place, plan, self.workers or _cores(), Reporter(), assembled=self.whole)

    def is_done(self, place: Path) -> bool:
        """Whether everything of it is finished in a folder."""
        if self.whole:
            return all(read_rows(place, shard[0].shard) is not None for shard in self.plan.jobs)
        return {int(row.stem) for row in place.glob("staging/*.json")} >= {
            job.number for shard in self.plan.jobs for job in shard
        }


def make_place(folder: Path, name: str) -> Path:
    """The folder of a part that no job has worked in yet."""
    place = folder / f"{name}.0"
    for below in ("shards", "staging"):
        (place / below).mkdir(parents=True)
    return place


def claim(folder: Path, name: str) -> Path | None:
    """Takes a part over from whoever worked in it before. Returns its folder, None where it is not there any more."""
    for place in folder.glob(f"{name}.*"):
        with suppress(FileNotFoundError):  # another run was faster
            return place.rename(folder / f"{name}.{run_of(place.name) + 1}")
    return None


def run_of(place: str) -> int:
    """How often work was begun in a part's folder, by its name."""
    return int(place.rpartition(".")[2])


def collect(place: Path, store: Path) -> None:
    """Moves what was finished in a part's folder into the store: whole shards, and videos of the others into staging.

    The mark of either (a shard's table, a video's row) comes last. Moving is not synced: what a loss of power takes
    away is recognised as missing and done again.
    """
    for table in place.glob("shards/*.parquet"):
        match = SHARD_NAME.fullmatch(table.name)
        if match and read_rows(place, int(match[1])) is not None and read_rows(store, int(match[1])) is None:
            (store / "shards" / table.name).unlink(missing_ok=True)  # of a shard that is made again: not this tar's
            for file in (table.with_suffix(".tar"), table):
                file.replace(store / "shards" / file.name)
    for row in list(place.glob("staging/*.json")):
        move_video(row, store / "staging")


def move_video(row: Path, staging: Path) -> None:
    """Moves a finished video, given the file of its row, to another staging folder."""
    with suppress(FileNotFoundError):  # damaged and rejected ones have only a row
        row.with_suffix(".mp4").replace(staging / f"{row.stem}.mp4")
    row.replace(staging / row.name)


def take_over(store: Path) -> None:
    """Ends what earlier submissions still do in a store and keeps what they have finished.

    For the holder of the store's lock, before it plans. The jobs of a prep that was killed may run on, or wait in a
    queue: after this none of them can write anything that counts.
    """
    for folder in (store / "staging").glob(f"{SUBMISSION}*"):
        taken = folder if folder.suffix == _TAKEN else folder.rename(folder.with_suffix(_TAKEN))
        for place in taken.glob("*.*"):
            collect(place, store)
        shutil.rmtree(taken, ignore_errors=True)  # prep removes all of staging at its end


def _end(number: int, frame: FrameType | None) -> None:
    """Ends the run at SIGTERM: preempted, requeued, cancelled. Its workers got the signal too: had it gone on, it would
    soon take their deaths for the fault of a video."""
    sys.exit(128 + number)


def _cores() -> int:
    """Those of this node that SLURM gave to the job, or that this process may use."""
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, int(os.environ.get("SLURM_CPUS_ON_NODE", allowed)))


def _see_source(shards: list[Any]) -> None:
    """Raises EnvironmentProblem where this node sees none of the videos: its rows would call them all missing."""
    videos = [job.video for shard in shards for job in shard if not job.video.problem]
    if videos and not any(os.access(video.file.path, os.R_OK) for video in videos):
        raise EnvironmentProblem(
            f"node {os.uname().nodename} cannot read {videos[0].file} nor any other video of this job. The source has "
            "to lie on a file system that all nodes see, under the same path."
        )
