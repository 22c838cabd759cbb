"""prep through jobs: local ones here, SLURM's in test_slurm.py. What comes out is what one process makes."""

from __future__ import annotations

import os
import signal
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission

from vidssl.data import cluster, prep_work
from vidssl.data import prep as prep_module
from vidssl.data.cluster_job import SUBMISSION, Part, claim, collect, make_place, take_over
from vidssl.data.pool import WorkerPool
from vidssl.data.prep_plan import PrepPlan
from vidssl.data.shards import stage
from vidssl.engine.progress import Reporter
from vidssl.errors import EnvironmentProblem

from .jobs import OPTIONS, ROOT, below, job_ids, runs, send, staged, submit, wait_for
from .prepared import hashes, prep

LOCAL = {**OPTIONS, "cluster": "local", "jobs": 2, "workers": 1}


def test_ctrl_c_amid_a_submission_cancels_it(capsys: pytest.CaptureFixture[str]) -> None:
    cancelled = []

    class Queue:
        def room(self, handed: int) -> int:
            return 1

        def submit(self, parts: list[Part]) -> list[str]:
            signal.raise_signal(signal.SIGINT)
            return ["its job"]

        def cancel(self, jobs: list[str]) -> str:
            cancelled.extend(jobs)
            return "jobs 7 may still run"

    handed: list[Any] = []
    part: Any = None
    queue: Any = Queue()
    progress = Reporter()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), cluster._cancelling(queue, handed, progress):
            cluster._hand_out(queue, deque([cluster._Handed(part, 5)]), handed, progress)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert cancelled == ["its job"]
    assert "jobs 7 may still run" in capsys.readouterr().err


def test_jobs_that_are_refused_wait_while_others_run(capsys: pytest.CaptureFixture[str]) -> None:
    class Queue:
        refused = "Socket timed out"

        def room(self, handed: int) -> int:
            return 1

        def submit(self, parts: list[Part]) -> list[str]:
            raise EnvironmentProblem("SLURM did not take 1 jobs")

    queue: Any = Queue()
    part: Any = None
    waiting, running = deque([cluster._Handed(part, 5)]), [cluster._Handed(part, 5)]
    cluster._hand_out(queue, waiting, running, Reporter())
    assert (len(waiting), len(running)) == (1, 1)
    assert "did not take 1 more jobs: Socket timed out" in capsys.readouterr().err
    with pytest.raises(EnvironmentProblem):
        cluster._hand_out(queue, waiting, [], Reporter())


# ---- who may write


def row(number: int) -> dict[str, Any]:
    return {"number": number, "status": "ok"}


def test_an_older_run_cannot_write(tmp_path: Path) -> None:
    first = claim(tmp_path, make_place(tmp_path, "7").stem)
    assert first is not None
    stage(first / "staging", row(1), b"video")
    second = claim(tmp_path, "7")
    assert second is not None
    with pytest.raises(FileNotFoundError):
        stage(first / "staging", row(2), b"video")
    assert sorted(file.name for file in (second / "staging").iterdir()) == ["00000001.json", "00000001.mp4"]
    assert claim(tmp_path, "8") is None


def test_take_over_ends_a_submission_and_keeps_its_videos(tmp_path: Path) -> None:
    place = make_place(tmp_path / "staging" / "jobs-old", "7")
    (tmp_path / "shards").mkdir()
    stage(place / "staging", row(1), b"video")
    stage(place / "staging", row(2), None)
    (place / "staging" / "00000003.mp4").write_bytes(b"video without its row")
    (place / "shards" / "000000.tar").write_bytes(b"shard without its table")
    take_over(tmp_path)
    with pytest.raises(FileNotFoundError):
        stage(place / "staging", row(4), b"video")
    assert claim(tmp_path / "staging" / "jobs-old", "7") is None
    assert sorted(hashes(tmp_path)) == ["staging/00000001.json", "staging/00000001.mp4", "staging/00000002.json"]


# ---- whole preps in local jobs


@pytest.mark.slow
def test_a_killed_job_is_handed_out_again(job_source: Path, job_hashes: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    submitting = submit(job_source, store, **LOCAL)
    victim = wait_for(lambda: next(filter(None, (stopped_amid(store, job) for job in job_ids(store))), None))
    assert len(job_ids(store)) == 2
    send(victim, signal.SIGKILL)
    wait_for(lambda: len(job_ids(store)) > 2 or submitting.poll() is not None)
    assert submitting.poll() is None, "it is handed out again"
    _, err = submitting.communicate(timeout=120)
    assert submitting.returncode == 0, err
    assert hashes(store) == job_hashes


def stopped_amid(store: Path, job: str) -> list[int]:
    """The stopped processes of a job that has finished some of its videos and not all; none where it is elsewhere."""
    file = next(iter((store / "staging").glob(f"{SUBMISSION}*/log/{job}_submitted.pkl")))
    part = DelayedSubmission.load(file).function.name
    if not staged(store, part):
        return []
    processes = below(int(job))[1:]
    send(processes, signal.SIGSTOP)
    if 0 < staged(store, part) < 5:
        return processes
    send(processes, signal.SIGCONT)
    return []


@pytest.mark.slow
def test_what_another_run_took_away_is_handed_out_again(
    job_source: Path, job_hashes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run thought dead renames the folder of a finished part: once before it is collected, once amid it."""
    renamed = []

    def collect_late(place: Path, store: Path) -> None:
        part = place.name.partition(".")[0]
        if part not in renamed:
            if part == "000001":
                (place / "shards" / "000001.tar").replace(store / "shards" / "000001.tar")
            renamed.append(part)
            claim(place.parent, part)
        collect(place, store)

    monkeypatch.setattr(cluster, "collect", collect_late)
    summary = prep(job_source, tmp_path / "store", **LOCAL)
    assert sorted(renamed) == ["000000", "000001"]
    assert (summary.ok, summary.rejected) == (9, 1)
    assert hashes(tmp_path / "store") == job_hashes


@pytest.mark.slow
def test_archives_are_parts(job_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two compressed archives, each read by one job, and one that lets any member be opened alone."""
    packed = tmp_path / "packed"
    packed.mkdir()
    for archive in ("class 0.tar.gz", "class 1.tar.gz", "class 2.tar"):
        name, _, kind = archive.partition(".tar")
        with tarfile.open(packed / archive, f"w:{kind[1:]}") as tar:
            tar.add(job_source / name, name)
    prep(packed, tmp_path / "alone", **OPTIONS)
    parts = []

    def hand_out(scheduler: Any, waiting: Any, *others: Any, real: Any = cluster._hand_out) -> None:
        parts.extend(one.part for one in waiting)
        real(scheduler, waiting, *others)
        monkeypatch.undo()

    monkeypatch.setattr(cluster, "_hand_out", hand_out)
    summary = prep(packed, tmp_path / "store", **LOCAL)
    assert (summary.ok, summary.rejected) == (9, 1)
    assert hashes(tmp_path / "store") == hashes(tmp_path / "alone")
    read = [{job.video.file.path.name for shard in part.plan.jobs for job in shard} for part in parts]
    assert [names for names in read if names != {"class 2.tar"}] == [{"class 0.tar.gz"}, {"class 1.tar.gz"}]


@pytest.mark.slow
def test_replacements_of_damaged_videos_do_not_wait_in_the_queue(
    job_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = []

    def do(store: Path, plan: PrepPlan, cluster: str, workers: int, progress: Reporter, **options: Any) -> int:
        handed.append([job.video.id for shard in plan.jobs for job in shard])
        return prep_work.work(store, plan, workers, progress)

    monkeypatch.setattr(prep_module, "work_on_cluster", do)
    summary = prep(job_source, tmp_path / "store", **LOCAL, subset=9)
    assert (summary.ok, summary.rejected) == (9, 1)
    assert [(len(ids), "class 0/empty.mp4" in ids) for ids in handed] == [(9, True)]


class Broken(Part):
    """The second part cannot be done."""

    def __call__(self) -> str:
        if self.name == "000001":
            raise SystemExit("no such luck")
        return super().__call__()


@pytest.mark.slow
def test_a_job_that_always_fails_ends_prep(
    job_source: Path, job_hashes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the job imports this module
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "Part", Broken)
        with pytest.raises(EnvironmentProblem) as caught:
            prep(job_source, store, **LOCAL)
    message = str(caught.value)
    assert "3 times in a row" in message
    log = Path(message.partition("Its log: ")[2].partition(". What")[0])
    assert "no such luck" in log.read_text()
    assert (store / "shards" / "000000.parquet").exists()
    prep(job_source, store, **OPTIONS)
    assert hashes(store) == job_hashes


@pytest.mark.slow
def test_jobs_of_a_killed_prep_do_no_harm(job_source: Path, job_hashes: dict[str, str], tmp_path: Path) -> None:
    """They sleep while the same command runs to its end, and wake up after it."""
    store = tmp_path / "store"
    submitting = submit(job_source, store, **LOCAL)
    wait_for(lambda: staged(store) >= 2)
    asleep = [process for job in job_ids(store) for process in below(int(job))]
    send(asleep, signal.SIGSTOP)
    submitting.kill()
    submitting.wait()
    assert sum(map(runs, asleep)) >= 5, "controllers, jobs and workers"
    try:
        prep(job_source, store, **LOCAL)
        assert hashes(store) == job_hashes
    finally:
        send(asleep, signal.SIGCONT)
    wait_for(lambda: not any(map(runs, asleep)))
    assert hashes(store) == job_hashes


@pytest.mark.slow
def test_ctrl_c_ends_the_jobs_and_keeps_their_videos(
    job_source: Path, job_hashes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    submitting = submit(job_source, store, **LOCAL)
    wait_for(lambda: staged(store) >= 2)
    started = [process for job in job_ids(store) for process in below(int(job))]
    os.killpg(submitting.pid, signal.SIGINT)  # a terminal sends it to all of them
    _, err = submitting.communicate(timeout=60)
    assert submitting.returncode == 130, err
    assert "same command" in err
    assert "Traceback" not in err
    assert not any(map(runs, started))
    finished = staged(store) + 5 * len(list((store / "staging").glob("jobs-*/*/shards/*.parquet")))
    assert finished >= 2
    done = []

    class Counting(WorkerPool):
        def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
            for task, result in super().run(tasks):
                done.append(task)
                yield task, result

    monkeypatch.setattr(prep_work, "WorkerPool", Counting)
    prep(job_source, store, **OPTIONS)  # without a cluster
    assert hashes(store) == job_hashes
    assert len(done) == 10 - finished
