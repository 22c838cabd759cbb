"""What happens to prep from outside: sources that go away, a full disk, killed workers, a second prep."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest

from vidssl.data import work
from vidssl.data.encode import Encoder
from vidssl.data.picture import Recipe
from vidssl.data.store import open_store
from vidssl.data.transcode import transcode
from vidssl.data.work import Job, process

from .prepared import hashes, manifest, prep
from .test_prep_kill import finish, holds_lock, start, wait_for

VICTIM = "left/2.mp4"
SHARD_VIDEOS = 5  # as the program of test_prep_kill has it


@pytest.fixture(scope="module")
def undisturbed(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    prep(tiny_source, store, name="killed", shard_videos=SHARD_VIDEOS)
    return hashes(store)


@pytest.fixture
def source(tiny_source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_source, tmp_path / "source")


# ---- sources that change under its hands


def without_it(job: Job) -> dict[str, Any]:
    """The victim goes away after it was listed."""
    if job.video.id == VICTIM:
        job.video.file.path.unlink()
    return process(job)


def while_it_is_read(job: Job) -> dict[str, Any]:
    """The victim goes away after it was hashed."""
    real = work.transcode
    if job.video.id == VICTIM:
        work.transcode = lambda path, recipe: (path.unlink(), real(path, recipe))[1]  # type: ignore[assignment]
    try:
        return process(job)
    finally:
        work.transcode = real


def cut_while_it_is_read(job: Job) -> dict[str, Any]:
    """The victim loses its second half after it was hashed, as a file that is copied anew."""
    real = work.transcode
    if job.video.id == VICTIM:
        path = job.video.file.path
        work.transcode = lambda *words: (os.truncate(path, path.stat().st_size // 2), real(*words))[1]  # type: ignore[assignment]
    try:
        return process(job)
    finally:
        work.transcode = real


@pytest.mark.parametrize("happens", [without_it, while_it_is_read, cut_while_it_is_read])
def test_a_file_that_goes_away_is_told_and_taken_when_it_is_back(
    happens: Any, tiny_source: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr("vidssl.data.prep_work.process", happens)
        summary = prep(source, store)
    assert (summary.ok, summary.rejected) == (11, 1)
    row = manifest(store)[VICTIM]
    assert row["status"] == "rejected"
    assert "cannot be read" in row["reason"] or "while it was read" in row["reason"]
    assert VICTIM not in open_store(store).ids
    shutil.copy2(tiny_source / VICTIM, source / VICTIM)  # with the time it had: only the content can tell
    again = prep(source, store)
    assert (again.ok, again.skipped) == (12, 11)
    assert VICTIM in open_store(store).ids


def test_a_source_that_cannot_be_written(tiny_source: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    source.mkdir()
    with mounted(["--bind", "-o", "ro", str(tiny_source)], source):
        with pytest.raises(OSError, match="Read-only"):
            (source / "new").touch()
        assert prep(source, store, name="killed", shard_videos=SHARD_VIDEOS).ok == 12
    assert hashes(store) == undisturbed


# ---- no space


@contextmanager
def mounted(arguments: list[str], place: Path) -> Iterator[None]:
    """A mount for as long as the test needs it. Skips where that is not allowed."""
    done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk(tiny_source: Path, program: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """First there is space for a few videos, then for all of them but not for their shards, then for all."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(["-t", "tmpfs", "-o", "size=24k", "tmpfs"], disk):
        for size in ("24k", "88k"):
            subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
            code, out, err = finish(start(program, tiny_source, disk / "store", env=FAST))
            assert code == 2, err
            assert "No space left" in out
            assert "same command" in out
            assert "Traceback" not in err
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        code, _, err = finish(start(program, tiny_source, disk / "store", env=FAST))
        assert code == 0, err
        assert hashes(disk / "store") == undisturbed


FAST = {**os.environ, "SLOWLY": "0"}


# ---- other processes


def slow_at_first(job: Job) -> dict[str, Any]:
    """Leaves the number of its process and waits, when it comes to the victim for the first time."""
    mark = Path(os.environ["VIDSSL_TEST_MARK"])
    if job.video.id == VICTIM and not mark.exists():
        half = mark.with_suffix(".half")
        half.write_text(str(os.getpid()))
        half.replace(mark)
        time.sleep(60)
    return process(job)


def test_a_worker_killed_from_outside_loses_nothing(
    tiny_source: Path, undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system does when memory runs out: the video is tried once more, alone."""
    mark, store = tmp_path / "mark", tmp_path / "store"
    monkeypatch.setenv("VIDSSL_TEST_MARK", str(mark))
    monkeypatch.setattr("vidssl.data.prep_work.process", slow_at_first)

    def kill() -> None:
        while not mark.exists():
            time.sleep(0.01)
        os.kill(int(mark.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    summary = prep(tiny_source, store, name="killed", shard_videos=SHARD_VIDEOS, workers=2)
    killer.join(5)
    assert mark.exists()
    assert summary.ok == 12
    assert hashes(store) == undisturbed


def test_the_second_of_two_is_refused_and_the_first_goes_on(
    tiny_source: Path, program: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    first = start(program, tiny_source, store)
    wait_for(lambda: holds_lock(store, str(first.pid)), first)
    code, out, _ = finish(start(program, tiny_source, store))
    assert first.poll() is None
    assert code == 2
    assert out.startswith("DataError")
    assert f"pid {first.pid}" in out
    code, _, err = finish(first)
    assert code == 0, err
    assert hashes(store) == undisturbed


# ---- memory


def test_decoded_frames_do_not_wait_for_the_garbage_collector(tiny_source: Path) -> None:
    """A worker that has seen a thousand videos, or one large one, is as small as at its first."""
    recipe = Recipe("h264", "cover", (64, 48), (64, 48), 8)
    gc.collect()
    gc.disable()
    try:
        for number in range(3):
            assert transcode(tiny_source / "left" / f"{number}.mp4", recipe).status == "ok"
        waiting = [type(thing).__name__ for thing in gc.get_objects() if type(thing) in (av.VideoFrame, Encoder)]
    finally:
        gc.enable()
    assert "Encoder" not in waiting
    assert len(waiting) <= 3, waiting  # of each video the frame whose display matrix was read
