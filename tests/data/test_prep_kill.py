"""prep is killed, stopped, starved of space, and loses workers. What follows is what an undisturbed prep leaves."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.media import moving_square, write_video
from vidssl.data import files, manifest, prep_work, shards
from vidssl.data.pool import Died, WorkerPool
from vidssl.data.store import open_store
from vidssl.data.work import Job, process
from vidssl.errors import EnvironmentProblem

from .prepared import hashes
from .prepared import manifest as read_manifest
from .prepared import prep as run_prep

PROGRAM = """
import os, resource, signal, sys, time
from pathlib import Path
from vidssl.data import work
from vidssl.data.prep import prepare
from vidssl.errors import VidsslError

def slowly(*words, real=work.stage):
    done = real(*words)
    time.sleep(float(os.environ.get("SLOWLY", 0.2)))  # else these videos are all done before a signal arrives
    return done

work.stage = slowly  # here, where the spawned workers see it too

if __name__ == "__main__":
    # a shell's background job, and so all it starts, ignores Ctrl-C unless told otherwise
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if len(sys.argv) > 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    try:
        source, store = map(Path, sys.argv[1:3])
        prepare(source=source, name="killed", store_dir=store, short_side=48, workers=2, shard_videos=5)
    except VidsslError as error:
        print(type(error).__name__, error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 videos, two of them bad."""
    folder = tmp_path_factory.mktemp("many") / "source"
    for number in range(14):
        frames = moving_square(60 + number, size=(320, 240), speed=1 + number % 5, phase=number)
        write_video(folder / f"class {number % 3}" / f"{number}.mp4", frames)
    (folder / "class 0" / "empty.mp4").write_bytes(b"")
    cut = folder / "class 1" / "cut.mp4"
    cut.write_bytes((folder / "class 1" / "1.mp4").read_bytes()[:-3000])
    return folder


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    run_prep(source, store, name="killed", shard_videos=5, workers=2)
    return hashes(store)


def start(program: Path, *arguments: Any, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(program), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(running: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = running.communicate(timeout=60)
    return running.returncode, out, err


def wait_for(condition: Any, running: subprocess.Popen[str]) -> None:
    while not condition() and running.poll() is None:
        time.sleep(0.005)


def holds_lock(store: Path, pid: str) -> bool:
    return (store / ".lock").exists() and (store / ".lock").read_text() == pid


def staged(store: Path) -> int:
    return len(list((store / "staging").glob("*.json")))


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(
    seed: int, source: Path, program: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    store, moments = tmp_path / "store", random.Random(seed)
    kills = 0
    for _ in range(3):
        running = start(program, source, store)
        wait_for((store / "store.json").exists, running)
        wait_for(lambda: staged(store) >= 1, running)
        time.sleep(moments.uniform(0, 0.5))
        running.kill()
        kills += running.wait() == -signal.SIGKILL
        finish(running)
    assert kills
    code, _, err = finish(start(program, source, store))
    assert code == 0, err
    assert hashes(store) == undisturbed


@pytest.mark.slow
def test_killed_with_its_workers_at_20_moments(
    source: Path, program: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Any moment from its start to its end, as when a machine goes down; a store that gets finished is compared."""
    alone = {"start_new_session": True, "env": {**os.environ, "SLOWLY": "0.03"}}
    moments, begun = random.Random(0), time.monotonic()
    assert finish(start(program, source, tmp_path / "timed", **alone))[0] == 0
    whole = time.monotonic() - begun
    stores = [tmp_path / "store 0"]
    kills = 0
    while kills < 20:
        running = start(program, source, stores[-1], **alone)
        time.sleep(moments.uniform(0.25, 1) * whole)
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        code, _, err = finish(running)
        kills += code == -signal.SIGKILL
        if code == 0:
            stores.append(tmp_path / f"store {len(stores)}")
        else:
            assert code == -signal.SIGKILL, err
    for store in stores:
        code, _, err = finish(start(program, source, store, **alone))
        assert code == 0, err
        assert hashes(store) == undisturbed


class Crash(BaseException):
    """Nothing catches it on the way: the process might as well have ended there."""


def crashing_replacing(real: Any, after: int) -> Any:
    """`replacing` that crashes at its n-th use, before the new file has its name: the state that a crash after the
    use before it would leave, and work half done beside it."""
    used = 0

    def wrapper(file: Path, sync: bool = True) -> Any:
        nonlocal used
        used += 1

        @files.contextmanager
        def scope() -> Iterator[Path]:
            crash = used == after
            with real(file, sync) as temporary:
                yield temporary
                if crash:
                    raise Crash

        return scope()

    return wrapper


def test_crash_at_every_commit(tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First run and growth; a crash at each file that the main process puts in its place, then a run to the end."""
    source, clean = tmp_path / "source", tmp_path / "clean"
    shutil.copytree(tiny_source, source, ignore=shutil.ignore_patterns("[23].mp4"))
    steps: list[dict[str, Any]] = [{"subset": 2, "shard_videos": 2}, {"shard_videos": 3}]
    for options in steps:
        run_prep(source, clean, **options)
    expected, crashes = hashes(clean), 0
    for after in range(1, 40):
        store = tmp_path / f"store {after}"
        with monkeypatch.context() as patch:
            crashing = crashing_replacing(files.replacing, after)
            patch.setattr(manifest, "replacing", crashing)
            patch.setattr(shards, "replacing", crashing)
            patch.setattr(prep_work, "WorkerPool", InProcess)
            done = 0
            try:
                for done, options in enumerate(steps):  # noqa: B007
                    run_prep(source, store, **options)
                break
            except Crash:
                crashes += 1
        with monkeypatch.context() as patch:
            patch.setattr(prep_work, "WorkerPool", InProcess)
            for options in steps[done:]:
                run_prep(source, store, **options)
        assert hashes(store) == expected, f"crash {after} in step {done}"
    assert 12 < crashes < 39  # the last store was made without one: every place was tried


class InProcess:
    """A pool without processes: every commit happens where the test can count it."""

    def __init__(self, function: Any, workers: int) -> None:
        self._function = function

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, tasks: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            yield task, self._function(task)


def test_terminated_stops_cleanly(source: Path, program: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    for number in (signal.SIGTERM, signal.SIGINT):
        running = start(program, source, store)
        wait_for(partial(holds_lock, store, str(running.pid)), running)
        wait_for(lambda: staged(store) >= 2, running)
        running.send_signal(number)
        code, _, err = finish(running)
        assert code == 130
        assert "same command" in err
        assert "Traceback" not in err
    code, _, err = finish(start(program, source, store))
    assert code == 0, err
    assert hashes(store) == undisturbed


def test_no_space_left(source: Path, program: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """Files of more than so many bytes cannot be written: first a video fails in a worker, then a shard."""
    store = tmp_path / "store"
    for limit in (3000, 40_000):
        code, out, err = finish(start(program, source, store, limit))
        assert code == 2, err
        assert out.startswith("EnvironmentProblem")
        assert "cannot be written" in out
        assert "same command" in out
        assert "Traceback" not in err
    code, _, err = finish(start(program, source, store))
    assert code == 0, err
    assert hashes(store) == undisturbed


def test_growing_without_space_keeps_the_store(source: Path, program: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run_prep(source, store, name="killed", subset=5)
    before = hashes(store)
    assert finish(start(program, source, store, 3000))[0] == 2
    after = hashes(store)
    assert {name: after[name] for name in before} == before
    assert len(open_store(store)) == 5 - sum(row["status"] != "ok" for row in read_manifest(store).values())


# ---- workers that die


def deadly_process(job: Job) -> dict[str, Any]:
    """Kills its process over a certain video."""
    if job.video.id == "left/2.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    return process(job)


def test_a_deadly_video_is_rejected(tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prep_work, "process", deadly_process)
    summary = run_prep(tiny_source, tmp_path / "store", workers=2)
    assert (summary.ok, summary.rejected) == (11, 1)
    row = read_manifest(tmp_path / "store")["left/2.mp4"]
    assert row["status"] == "rejected"
    assert "SIGSEGV" in row["reason"]
    assert len(open_store(tmp_path / "store")) == 11


def moody(task: tuple[str, str]) -> str:
    """Dies over "twice" always, over "once" the first time."""
    name, memory = task
    mark = Path(memory) / name
    if name == "twice" or (name == "once" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "wrong":
        raise ValueError("wrong")
    return name.upper()


def test_pool_survives_deaths(tmp_path: Path) -> None:
    names = ["a", "once", "b", "twice", "c", "d", "e"]
    with WorkerPool(moody, 2) as pool:
        results = {task[0]: result for task, result in pool.run((name, str(tmp_path)) for name in names)}
    died = results.pop("twice")
    assert isinstance(died, Died)
    assert "SIGKILL" in died.reason
    assert results == {name: name.upper() for name in names if name != "twice"}


def test_pool_hands_exceptions_on(tmp_path: Path) -> None:
    with WorkerPool(moody, 2) as pool, pytest.raises(ValueError, match="wrong"):
        list(pool.run([("wrong", str(tmp_path))]))


def test_script_without_main_guard_is_told(source: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAM.replace('if __name__ == "__main__":', "if True:"))
    code, out, _ = finish(start(script, source, tmp_path / "store"))
    assert code == 2
    assert "__main__" in out
    assert EnvironmentProblem.__name__ in out


def test_workers_do_not_import_torch() -> None:
    probe = "import sys, vidssl.data.work; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
