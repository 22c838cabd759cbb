"""Who runs the jobs of `prep --cluster`: SLURM, or this machine. Both through submitit, both with the same methods.

submitit: github.com/facebookincubator/submitit, 1.5. Its own way to see whether a job is over asks `sacct`, which needs
SLURM's accounting; here `squeue` is asked, which always answers.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, EnvironmentProblem, unknown_name
from .cluster_job import Part

CLUSTERS = ("local", "slurm")
RUNNING = "RUNNING"
# Those of submitit's `slurm_` parameters that have a meaning here. Of the others, some have an option of their own
# (`--jobs`), and several nodes or tasks would start one part more than once.
SLURM_OPTIONS = (
    "account", "comment", "constraint", "cpus_per_task", "dependency", "exclude", "exclusive", "gres", "mail_type",
    "mail_user", "mem", "mem_per_cpu", "nodelist", "partition", "qos", "signal_delay_s", "time", "wckey",
)  # fmt: skip
_NUMBERS = {"cpus_per_task": "", "signal_delay_s": " of seconds", "time": " of minutes"}
MAX_ARRAY = 1000  # SLURM's MaxArraySize is 1001 unless a cluster says otherwise
_MINUTES = 60  # of a job unless told otherwise; one that needs more is requeued and goes on
_YEAR_MINUTES = 365 * 24 * 60
_SQUEUE_SECONDS = 60
_STOP_SECONDS = 10.0
_AGAIN_SECONDS = (60.0, 600.0)  # until what SLURM did not take is tried again: the first time, and at most


def slurm_options(words: Iterable[str]) -> dict[str, str]:
    """Reads the words of `--slurm KEY=VALUE`. Raises ConfigError."""
    options = {}
    for word in words:
        key, _, value = word.partition("=")
        if not key or not value:
            raise ConfigError(f"--slurm {word!r} is not KEY=VALUE. Example: --slurm partition=cpu --slurm time=120")
        options[key] = value
    return options


def check_cluster(cluster: str | None, jobs: int | None = None, slurm: Mapping[str, str] | None = None) -> None:
    """Raises ConfigError for what cannot be meant, EnvironmentProblem for what is not installed. Writes nothing.

    Args:
        cluster: "slurm" or "local", None for no jobs at all.
        jobs: at once.
        slurm: parameters of the jobs by submitit's names, without their prefix `slurm_`.
    """
    if cluster is None:
        if jobs is not None or slurm:
            raise ConfigError(f"--{'slurm' if slurm else 'jobs'} is for --cluster {' or '.join(CLUSTERS)}. Add that.")
        return
    if cluster not in CLUSTERS:
        raise unknown_name("cluster", cluster, CLUSTERS)
    if jobs is not None and jobs < 1:
        raise ConfigError(f"{jobs} jobs at once are not possible. Legal: 1 or more.")
    if slurm and cluster != "slurm":
        raise ConfigError(f"--slurm {next(iter(slurm))}=... is for --cluster slurm, not for {cluster}. Leave it out.")
    for key, value in (slurm or {}).items():
        if key not in SLURM_OPTIONS:
            raise unknown_name("SLURM option", key, SLURM_OPTIONS)
        if key in _NUMBERS and not (value.isdecimal() and int(value)):
            raise ConfigError(f"--slurm {key}={value} is not possible. Legal: a whole number{_NUMBERS[key]} from 1.")
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise EnvironmentProblem(
            f"--cluster {cluster} needs the package submitit. Install it: pip install 'vidssl[cluster]'"
        ) from None
    if cluster == "slurm" and not all(map(shutil.which, ("sbatch", "srun", "squeue", "scancel"))):
        raise EnvironmentProblem(
            "--cluster slurm needs SLURM's commands (sbatch, srun, squeue, scancel), and they are not all here. Run "
            "prep on a login node of the cluster, or take --cluster local."
        )


@contextmanager
def _blocked(*numbers: signal.Signals) -> Iterator[None]:
    """What is blocked stays so in a new process: Ctrl-C at the terminal is for us, we end the others in order."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Local:
    """Processes of this machine.

    Args:
        log: folder of the jobs' logs.
        jobs: at once.
    """

    least_seconds = 0.1  # between two looks
    refused = ""

    def __init__(self, log: Path, jobs: int) -> None:
        from submitit import AutoExecutor

        self._executor = AutoExecutor(folder=log, cluster="local")
        self._executor.update_parameters(timeout_min=_YEAR_MINUTES)
        self._jobs = jobs

    def room(self, handed: int) -> int:
        """How many more jobs can be submitted now, of which `handed` are not over."""
        return self._jobs - handed

    def submit(self, parts: Sequence[Part]) -> list[Any]:
        """Returns submitit's jobs."""
        with _blocked(signal.SIGINT):  # SIGTERM has to reach them: `cancel` sends it
            return [self._executor.submit(part) for part in parts]

    def alive(self, jobs: Sequence[Any]) -> dict[str, str] | None:
        """Id -> state of those that wait or run."""
        return {job.job_id: RUNNING for job in jobs if not job.done()}

    def cancel(self, jobs: Sequence[Any]) -> str:
        """Ends them and waits for it. Returns what went wrong, "" where nothing did."""
        until = time.monotonic() + _STOP_SECONDS
        while (left := [job for job in jobs if not job.done()]) and time.monotonic() < until:
            for job in left:  # its id is that of submitit's controller, which hands SIGTERM on
                os.kill(int(job.job_id), signal.SIGTERM)
            time.sleep(0.5)
        return ""


class Slurm:
    """SLURM's queue.

    Args:
        log: folder of the jobs' logs and scripts.
        name: of the jobs.
        jobs: in the queue at once, waiting or running; None for as many as an array can have.
        workers: processes of a job, None for one a core.
        options: checked by `check_cluster`.
    """

    least_seconds = 1.0

    def __init__(self, log: Path, name: str, jobs: int | None, workers: int | None, options: Mapping[str, str]) -> None:
        from submitit import AutoExecutor

        values: dict[str, Any] = {"time": _MINUTES}
        if workers:
            values["cpus_per_task"] = workers
        values |= {key: int(value) if key in _NUMBERS else value for key, value in options.items()}
        if values.get("exclusive") == "true":
            values["exclusive"] = True
        if "cpus_per_task" in values:  # since 22.05 srun does not take it over from sbatch
            values["srun_args"] = [f"--cpus-per-task={values['cpus_per_task']}"]
        self._log = log
        self._executor = AutoExecutor(folder=log, cluster="slurm")
        self._executor.update_parameters(
            name=name,
            slurm_array_parallelism=MAX_ARRAY,
            **{f"slurm_{key}": value for key, value in values.items()},
        )
        self._jobs = jobs or MAX_ARRAY
        self._arrays: set[str] = set()
        self._queued = 0
        self.refused = ""  # why it did not take the last jobs
        self._again, self._pause = 0.0, _AGAIN_SECONDS[0]
        self._most = MAX_ARRAY

    def room(self, handed: int) -> int:
        """How many more jobs can be submitted now, of which `handed` are not over. Clusters limit what a user has in
        the queue, and there a job is a little longer than until its work is over. After jobs were not taken there is
        none for a while, and then for fewer: other jobs of this user may fill the queue. Where none of ours is in it
        nothing is gained by waiting."""
        if handed and time.monotonic() < self._again:
            return 0
        return min(self._most, self._jobs - max(handed, self._queued))

    def submit(self, parts: Sequence[Part]) -> list[Any]:
        """Raises EnvironmentProblem where sbatch does not take them; `refused` says why."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if not parts:
            return []
        try:
            with _blocked(signal.SIGINT, signal.SIGTERM):  # sbatch ends in order: else nobody knows if it has the jobs
                jobs = self._executor.submit_array(parts)
        except (FailedJobError, FailedSubmissionError, BlockingIOError) as error:  # the last: no process for sbatch
            self._refuse(len(parts), str(error).strip())
            raise EnvironmentProblem(
                f"SLURM did not take {len(parts)} jobs: {self.refused}. Change it with --slurm KEY=VALUE "
                f"({', '.join(SLURM_OPTIONS)}). Fewer at once: --jobs N."
            ) from None
        self.refused, self._again, self._pause = "", 0.0, _AGAIN_SECONDS[0]
        self._most = min(MAX_ARRAY, 2 * self._most)
        self._arrays |= _arrays(jobs)
        return jobs

    def _refuse(self, count: int, why: str) -> None:
        self.refused, self._most = why, max(1, count // 2)
        self._again = time.monotonic() + self._pause
        self._pause = min(_AGAIN_SECONDS[1], 2 * self._pause)
        # Of a thousand parts they take much room. Should SLURM have the jobs after all, they end without them.
        for file in self._log.glob("[0-9a-f]" * 32 + ".pkl"):
            file.unlink()

    def alive(self, jobs: Sequence[Any]) -> dict[str, str] | None:
        """Id -> state, of a waiting one also the reason; None where SLURM does not answer."""
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T %r"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=_SQUEUE_SECONDS, check=True)
        except (subprocess.SubprocessError, OSError):
            return None
        states = {}
        for line in answer.stdout.splitlines():
            job, state, *reason = line.split(maxsplit=2)
            states[job] = " ".join([state, *(f"({why})" for why in reason if state != RUNNING)])
        self._queued = sum(job.partition("_")[0] in self._arrays for job in states)
        return states

    def cancel(self, jobs: Sequence[Any]) -> str:
        """Asks for it; SLURM does it in its time. Returns what went wrong, "" where nothing did."""
        arrays = sorted(_arrays(jobs))
        if not arrays:
            return ""
        command = ["scancel", *arrays]
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=_SQUEUE_SECONDS, check=True)
        except subprocess.CalledProcessError as error:
            why = error.stderr.strip() or f"status {error.returncode}"
        except (subprocess.SubprocessError, OSError) as error:
            why = str(error)
        else:
            return ""
        return f"jobs {', '.join(arrays)} may still run, they could not be cancelled: {why}. Try: {' '.join(command)}"


def _arrays(jobs: Sequence[Any]) -> set[str]:
    """Ids of the arrays they belong to, or their own."""
    return {job.job_id.partition("_")[0] for job in jobs}
