"""Videos of archives that can only be read from their beginning, copied out one after the other for the workers.

A thread reads each archive once, in order, a little ahead of the workers: at most one copy more than there are workers
lies in staging at any time. Inflating lets the other threads run.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from .archive_formats import is_damage
from .archives import stream
from .work import COPIES, Job, archive_gone, copy_content, cut_reason

_END = object()
_STOP_SECONDS = 3.0  # it may be far from the next video that is wanted; it copies nothing after that


class Feeder:
    """Iterating gives the jobs with their copies, in the order of their archives. A context manager.

    A member that cannot be read comes as a job whose video has a problem.

    Args:
        jobs: of members of streams, in any order.
        most: copies at a time.

    Raises, from the iteration:
        DataError: an archive cannot be read at all.
        NotWritten: the staging folder cannot be written.
        EnvironmentProblem: no unpacker for a rar.
    """

    def __init__(self, jobs: Iterable[Job], most: int) -> None:
        self._by_archive: dict[Path, list[Job]] = {}
        for job in jobs:
            self._by_archive.setdefault(job.video.file.path, []).append(job)
        self._room = threading.Semaphore(most)
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def __enter__(self) -> Feeder:
        if self._by_archive:
            self._thread.start()
        else:
            self._ready.put(_END)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._room.release()
        if self._by_archive:
            self._thread.join(_STOP_SECONDS)
        while not self._ready.empty():
            job = self._ready.get()
            if isinstance(job, Job):
                self.done(job)

    def __iter__(self) -> Iterator[Job]:
        while (job := self._ready.get()) is not _END:
            if isinstance(job, BaseException):
                raise job
            yield job

    def done(self, job: Job) -> None:
        """To be told of each job that needs its copy no more."""
        if job.copy is not None:
            job.copy.unlink(missing_ok=True)
            self._room.release()

    def _run(self) -> None:
        try:
            for path in sorted(self._by_archive):
                self._read(path, self._by_archive[path])
            self._ready.put(_END)
        except _Stopped:
            pass
        except BaseException as error:  # raised where it can be handled
            self._ready.put(error)

    def _read(self, path: Path, jobs: list[Job]) -> None:
        left = {(member.name, member.place): job for job in jobs if (member := job.video.file.member) is not None}
        staging = Path(jobs[0].staging)
        try:
            for member, content in stream(path, {name for name, _ in left}, staging if staging.is_dir() else None):
                job = left.pop((member.name, member.place), None)
                if job is not None:
                    self._ready.put(self._copied(job, content))
                if not left:
                    return
        except OSError as error:
            raise archive_gone(path, error) from error
        for job in left.values():
            self._ready.put(_rejected(job))

    def _copied(self, job: Job, content: IO[bytes]) -> Job:
        self._room.acquire()
        if self._stopped:
            raise _Stopped
        try:
            return replace(job, copy=copy_content(content, job))
        except Exception as error:
            self._room.release()
            if is_damage(error):
                return _rejected(job)
            raise


class _Stopped(Exception):
    pass


def _rejected(job: Job) -> Job:
    return replace(job, video=replace(job.video, problem=cut_reason(job.video.file)))


def remove_copies(staging: Path) -> None:
    """Removes what a killed process left."""
    for copy in staging.glob(COPIES):
        copy.unlink()
