"""Fixtures of several tests: archives, jobs, and the program that is killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.media import moving_square, write_video
from vidssl.data import prep_work

from .jobs import OPTIONS, make_source
from .packing import files_of, tar_bytes, write
from .prepared import hashes
from .prepared import prep as run_prep
from .test_prep_kill import PROGRAM, InProcess


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prep_work, "WorkerPool", InProcess)  # processes of their own are in test_killed
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # half of the time of these tests
    return tmp_path / "home"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes below a folder, five videos, one of them bad, and another file."""
    folder = tmp_path_factory.mktemp("unpacked") / "source"
    for number in range(4):
        name = f"{'left' if number % 2 else 'right'}/{number}.mp4"
        write_video(folder / "deep" / name, moving_square(9 + number, speed=number + 1))
    write(folder / "deep/left/bad.mp4", b"no video at all")
    write(folder / "deep/notes.txt", b"hello")
    return folder


@pytest.fixture(scope="module")
def expected(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDSSL_HOME", str(tmp_path_factory.mktemp("home")))
        store = tmp_path_factory.mktemp("expected") / "store"
        run_prep(unpacked, store, shard_videos=2)
    return hashes(store)


@pytest.fixture
def packed(unpacked: Path, tmp_path: Path) -> Path:
    return write(tmp_path / "source" / "a.tar.gz", tar_bytes(files_of(unpacked), "w:gz")).parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("program") / "program.py"
    file.write_text(PROGRAM)
    return file


@pytest.fixture(scope="module")
def job_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("handed") / "source")


@pytest.fixture(scope="module")
def job_hashes(job_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    summary = run_prep(job_source, store, **OPTIONS)
    assert (summary.ok, summary.rejected) == (9, 1)
    return hashes(store)
