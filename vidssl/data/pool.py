"""Processes that work on one thing each, and survive things that kill a process.

`concurrent.futures` loses the whole pool when one process dies and cannot say on what. Here each process has its own
pipe, so a death is pinned to one task: it is tried once more with nothing else running (another task may have taken
the memory), and if its process dies again the caller gets a `Died`. Everything else goes on in fresh processes.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import EnvironmentProblem

_STOP_SECONDS = 3.0
_READY = object()


@dataclass(frozen=True)
class Died:
    """The result of a task whose process died twice, the second time alone."""

    reason: str


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: Any = None
    ready: bool = False


class WorkerPool:
    """Runs `function(task)` in spawned processes. A context manager: leaving it ends the processes.

    Args:
        function: a module-level function; its exceptions are raised in the caller's process.
        workers: number of processes, each started when there is a task for it.
    """

    def __init__(self, function: Callable[[Any], Any], workers: int) -> None:
        self._function = function
        self._limit = workers
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_STOP_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields (task, result) as they come. Tasks are taken in order, one ahead of none: a free process takes one."""
        waiting = iter(tasks)
        suspects: deque[Any] = deque()
        more = True
        while True:
            alone = bool(suspects)
            while more and not alone and (worker := self._free()):
                task = next(waiting, None)
                more = task is not None
                if more:
                    self._send(worker, task)
            busy = [worker for worker in self._workers if worker.task is not None]
            if alone and not busy:
                task = suspects.popleft()
                yield task, self._run_alone(task)
                continue
            if not busy:
                return
            ready = set(wait([worker.pipe for worker in busy]))
            for worker in busy:
                if worker.pipe in ready:
                    task = worker.task
                    try:
                        result = self._receive(worker)
                    except EOFError:
                        self._bury(worker)
                        suspects.append(task)
                        continue
                    if result is not _READY:
                        yield task, result

    def _run_alone(self, task: Any) -> Any:
        worker = self._free()
        assert worker is not None
        self._send(worker, task)
        try:
            while (result := self._receive(worker)) is _READY:
                pass
            return result
        except EOFError:
            return Died(f"the process that worked on it died twice, the second time alone ({self._bury(worker)})")

    def _free(self) -> _Worker | None:
        for worker in self._workers:
            if worker.task is None:
                return worker
        return self._start() if len(self._workers) < self._limit else None

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._function), daemon=True)
        # A process inherits what is blocked: Ctrl-C at the terminal is for us, we end the others in order. SIGTERM
        # waits too, or it could leave a process half started; the new process lets it through again.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # or the pipe would not end when the process does
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _send(self, worker: _Worker, task: Any) -> None:
        worker.task = task
        with suppress(BrokenPipeError, ConnectionResetError):  # it died while idle: the next receive says so
            worker.pipe.send(task)

    def _receive(self, worker: _Worker) -> Any:
        try:
            good, result = worker.pipe.recv()
        except (ConnectionResetError, BrokenPipeError) as error:
            raise EOFError from error
        if not worker.ready:
            worker.ready = True
            return _READY
        worker.task = None
        if not good:
            raise result
        return result

    def _bury(self, worker: _Worker) -> str:
        """How it ended, in words. Raises EnvironmentProblem if it never came to work: that is not its task's fault."""
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join(_STOP_SECONDS)
        code = worker.process.exitcode
        if not worker.ready:
            raise EnvironmentProblem(
                f"a worker process ended before it could start (exit status {code}). Called from a script of your own? "
                "Its work must stand under `if __name__ == '__main__':`, because each worker imports the script."
            )
        if code is None or code >= 0:
            return f"exit status {code}"
        with suppress(ValueError):
            name = signal.Signals(-code).name
            return f"killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
        return f"killed by signal {-code}"


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    with suppress(BrokenPipeError):
        pipe.send((True, None))  # ready: from now on, what happens happens because of a task
    while True:
        try:
            task = pipe.recv()
        except (EOFError, ConnectionResetError):
            return  # the caller is gone or done
        try:
            answer = (True, function(task))
        except Exception as error:  # the caller decides what it means
            answer = (False, error)
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
