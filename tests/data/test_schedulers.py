"""Who runs the jobs of prep: what can be asked of it, and SLURM's queue as its commands tell it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from vidssl.data.schedulers import SLURM_OPTIONS, Slurm, check_cluster, slurm_options
from vidssl.errors import ConfigError, EnvironmentProblem

# ---- what is asked


def test_impossible_settings_are_told() -> None:
    for words, expected in [
        ({"cluster": None, "jobs": 2}, "--jobs is for --cluster local or slurm"),
        ({"cluster": "slum"}, "Did you mean 'slurm'"),
        ({"cluster": "local", "jobs": 0}, "0 jobs"),
        ({"cluster": "local", "slurm": {"time": "5"}}, "is for --cluster slurm"),
        ({"cluster": "slurm", "slurm": {"partion": "cpu"}}, "Did you mean 'partition'"),
        ({"cluster": "slurm", "slurm": {"nodes": "2"}}, "unknown SLURM option 'nodes'"),
        ({"cluster": "slurm", "slurm": {"time": "1:00:00"}}, "whole number of minutes"),
        ({"cluster": "slurm", "slurm": {"cpus_per_task": "0"}}, "whole number from 1"),
    ]:
        with pytest.raises(ConfigError, match=expected):
            check_cluster(**words)  # type: ignore[arg-type]
    assert slurm_options(["partition=cpu", "gres=a:1=b"]) == {"partition": "cpu", "gres": "a:1=b"}
    for word in ("partition", "=cpu", "partition="):
        with pytest.raises(ConfigError, match="KEY=VALUE"):
            slurm_options([word])


def test_options_are_submitits() -> None:
    from submitit.slurm import slurm

    assert set(SLURM_OPTIONS) <= slurm.SlurmExecutor._valid_parameters()


def test_missing_slurm_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="login node"):
        check_cluster("slurm")


def test_missing_submitit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'vidssl\[cluster\]'"):
        check_cluster("local")


# ---- the queue


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Three jobs at once, and commands that answer from the files `squeue.txt` and `sbatch.txt`."""
    for command in ("srun", "squeue", "sbatch"):
        (tmp_path / command).write_text(f"#!/bin/sh\ncat '{tmp_path}/{command}.txt'\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return Slurm(tmp_path / "log", "prep", 3, None, {})


def test_states_of_the_queue(slurm: Slurm, tmp_path: Path) -> None:
    """Some states come without a reason."""
    (tmp_path / "squeue.txt").write_text("7_0 RUNNING None\n7_1 PENDING (a b)\n7_2 COMPLETING \n")
    assert slurm.alive([]) == {"7_0": "RUNNING", "7_1": "PENDING ((a b))", "7_2": "COMPLETING"}


def test_jobs_bounds_what_is_in_the_queue(slurm: Slurm, tmp_path: Path) -> None:
    """One whose work is over and that still is in the queue counts too. Others of this user do not."""
    assert slurm.room(0) == 3
    (tmp_path / "sbatch.txt").write_text("Submitted batch job 7\n")
    part: Any = str
    assert [job.job_id for job in slurm.submit([part, part])] == ["7_0", "7_1"]
    assert slurm.room(2) == 1
    (tmp_path / "squeue.txt").write_text("7_0 COMPLETING None\n7_1 RUNNING None\n8 RUNNING None\n")
    slurm.alive([])
    assert slurm.room(1) == 1
    (tmp_path / "squeue.txt").write_text("7_1 RUNNING None\n")
    slurm.alive([])
    assert slurm.room(1) == 2


def test_what_is_refused_is_tried_again_later_and_in_smaller_lots(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout of sbatch, or a queue that other jobs of this user fill."""
    now = 100.0
    monkeypatch.setattr("vidssl.data.schedulers.time.monotonic", lambda: now)
    part: Any = str
    with pytest.raises(EnvironmentProblem, match=r"SLURM did not take 2 jobs: .*--jobs"):
        slurm.submit([part, part])
    assert not list((tmp_path / "log").glob("*.pkl"))
    assert "sbatch.txt" in slurm.refused
    assert (slurm.room(1), slurm.room(0)) == (0, 1)
    now += 60
    assert slurm.room(1) == 1
    (tmp_path / "sbatch.txt").write_text("Submitted batch job 7\n")
    slurm.submit([part])
    assert (slurm.room(1), slurm.refused) == (2, "")


def test_a_queue_that_cannot_be_asked_or_told_is_no_end(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch.txt").write_text("Submitted batch job 7\n")
    part: Any = str
    jobs = slurm.submit([part, part])
    (tmp_path / "scancel").write_text("#!/bin/sh\necho Socket timed out >&2; exit 1\n")
    (tmp_path / "scancel").chmod(0o755)
    assert slurm.cancel(jobs).endswith(
        "jobs 7 may still run, they could not be cancelled: Socket timed out. Try: scancel 7"
    )
    (tmp_path / "scancel").write_text("#!/bin/sh\nexec sleep 5\n")
    monkeypatch.setattr("vidssl.data.schedulers._SQUEUE_SECONDS", 0.05)
    assert "timed out" in slurm.cancel(jobs)
    monkeypatch.setenv("PATH", "")
    assert "jobs 7 may still run" in slurm.cancel(jobs)
    assert slurm.alive(jobs) is None
    assert slurm.cancel([]) == ""
