"""prep through a real SLURM of one node.

tools/slurm.sh start FOLDER && SLURM_CONF=FOLDER/slurm.conf pytest -m slurm; tools/slurm.sh stop FOLDER
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidssl.data.prep import prepare
from vidssl.errors import EnvironmentProblem

from .jobs import OPTIONS, job_ids, staged, submit, wait_for
from .prepared import hashes, prep

pytestmark = pytest.mark.slurm

SLURM = {**OPTIONS, "cluster": "slurm", "workers": 1, "slurm": {"time": "10"}}


# Not in sh: dash unblocks the signals that it was started with.
SLOW_SBATCH = """#!{python}
import pathlib, subprocess, sys, time
subprocess.run(["{sbatch}", *sys.argv[1:]], check=True)
pathlib.Path("{folder}/submitted").touch()
time.sleep(2)
"""


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def queue() -> str:
    return ask("squeue", "--me", "--noheader", "--array", "--format=%i %T")


@pytest.fixture(scope="module", autouse=True)
def _slurm() -> None:
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.fail("no SLURM answers here: start one with tools/slurm.sh and set SLURM_CONF")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["scontrol", "requeue"], id="requeued"),
        pytest.param(["scancel", "--signal=USR2"], id="told that its time is over"),
    ],
)
def test_a_requeued_job_goes_on(words: list[str], job_source: Path, job_hashes: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    submitting = submit(job_source, store, **SLURM)
    wait_for(lambda: staged(store, "000000") >= 2)
    job = job_ids(store)[0]
    ask(*words, job)
    wait_for(lambda: f"{job} PENDING" in queue())
    kept = staged(store, "000000")
    ask("scontrol", "update", f"job={job}", "StartTime=now")
    wait_for(lambda: list((store / "staging").glob("jobs-*/000000.2")))
    assert staged(store, "000000") >= kept
    _, err = submitting.communicate(timeout=120)
    assert submitting.returncode == 0, err
    assert hashes(store) == job_hashes


def test_jobs_bounds_the_queue(job_source: Path, job_hashes: dict[str, str], tmp_path: Path) -> None:
    submitting = submit(job_source, tmp_path / "store", **SLURM, jobs=1)
    most = 0
    while submitting.poll() is None:
        most = max(most, len(queue().splitlines()))
        time.sleep(0.05)
    assert (submitting.returncode, most) == (0, 1)
    assert hashes(tmp_path / "store") == job_hashes


def test_jobs_of_a_killed_prep_do_no_harm(job_source: Path, job_hashes: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    submitting = submit(job_source, store, **SLURM)
    wait_for(lambda: staged(store) >= 1)
    submitting.kill()
    submitting.wait()
    assert queue(), "its jobs run on"
    prep(job_source, store, **SLURM)
    assert hashes(store) == job_hashes
    wait_for(lambda: not queue())
    assert hashes(store) == job_hashes


def test_a_stopped_prep_cancels_its_jobs(job_source: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    submitting = submit(job_source, store, **SLURM)
    wait_for(lambda: staged(store) >= 1)
    submitting.send_signal(signal.SIGTERM)
    _, err = submitting.communicate(timeout=60)
    assert submitting.returncode == 130, err
    wait_for(lambda: not queue())
    assert staged(store) >= 1


def test_a_prep_stopped_while_it_submits_cancels_its_jobs(
    job_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM has the jobs, and its answer is late."""
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    slow.write_text(SLOW_SBATCH.format(python=sys.executable, sbatch=shutil.which("sbatch"), folder=tmp_path))
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    submitting = submit(job_source, tmp_path / "store", **SLURM)
    wait_for((tmp_path / "submitted").exists)
    assert queue()
    os.killpg(submitting.pid, signal.SIGINT)
    _, err = submitting.communicate(timeout=60)
    assert submitting.returncode == 130, err
    wait_for(lambda: not queue())


def test_what_slurm_refuses_is_told(job_source: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"(?s)SLURM did not take 2 jobs.*invalid partition.*--slurm.*--jobs"):
        prepare(source=job_source, store_dir=tmp_path / "store", **{**SLURM, "slurm": {"partition": "nowhere"}})
