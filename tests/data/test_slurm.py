"""prep through a real SLURM of one node.

tools/slurm.sh start FOLDER && SLURM_CONF=FOLDER/slurm.conf pytest -m slurm; tools/slurm.sh stop FOLDER
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vidssl.data.prep import prepare
from vidssl.errors import EnvironmentProblem

from .jobs import OPTIONS, job_ids, make_source, staged, submit, wait_for
from .prepared import hashes, prep

pytestmark = pytest.mark.slurm

SLURM = {**OPTIONS, "cluster": "slurm", "workers": 1, "slurm": {"time": "10"}}


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def queue() -> str:
    return ask("squeue", "--me", "--noheader", "--array", "--format=%i %T")


@pytest.fixture(scope="module", autouse=True)
def _slurm() -> None:
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.fail("no SLURM answers here: start one with tools/slurm.sh and set SLURM_CONF")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("handed") / "source")


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    prep(source, store, **OPTIONS)
    return hashes(store)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["scontrol", "requeue"], id="requeued"),
        pytest.param(["scancel", "--signal=USR2"], id="told that its time is over"),
    ],
)
def test_a_requeued_job_goes_on(words: list[str], source: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(prep, source, store, **SLURM)
        wait_for(lambda: staged(store, "000000") >= 2)
        job = job_ids(store)[0]
        ask(*words, job)
        wait_for(lambda: f"{job} PENDING" in queue())
        kept = staged(store, "000000")
        ask("scontrol", "update", f"job={job}", "StartTime=now")
        wait_for(lambda: list((store / "staging").glob("jobs-*/000000.2")))
        assert staged(store, "000000") >= kept
        summary = running.result()
    assert (summary.ok, summary.rejected) == (9, 1)
    assert hashes(store) == undisturbed


def test_jobs_of_a_killed_prep_do_no_harm(source: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    submitting = submit(source, store, **SLURM)
    wait_for(lambda: staged(store) >= 1)
    submitting.kill()
    submitting.wait()
    assert queue(), "its jobs run on"
    prep(source, store, **SLURM)
    assert hashes(store) == undisturbed
    wait_for(lambda: not queue())
    assert hashes(store) == undisturbed


def test_a_stopped_prep_cancels_its_jobs(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    submitting = submit(source, store, **SLURM)
    wait_for(lambda: staged(store) >= 1)
    submitting.send_signal(signal.SIGTERM)
    _, err = submitting.communicate(timeout=20)
    assert submitting.returncode == 130, err
    wait_for(lambda: not queue())
    assert staged(store) >= 1


def test_what_slurm_refuses_is_told(source: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"(?s)SLURM did not take the jobs.*invalid partition.*--slurm"):
        prepare(source=source, store_dir=tmp_path / "store", **{**SLURM, "slurm": {"partition": "nowhere"}})
