"""Fixtures for all tests: the shared real videos where they are, tiny generated videos, and stores made of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch: threads of several workers would wait for each other's turn
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from vidssl.engine.progress import Reporter

from .media import moving_square, write_video

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TINY_CLASSES = {"left": 2, "right": 6, "still": 0}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked gpu are skipped without a GPU, and fail where VIDSSL_REQUIRE_GPU=1 says that there is one."""
    if item.get_closest_marker("gpu") and os.environ.get("VIDSSL_REQUIRE_GPU") != "1":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU here")


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or leaves anything in the home of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDSSL_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with `actions`, `fights`, `real` and `odd`. On CI it has to be there."""
    if not SHARED_DATA.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{SHARED_DATA} is missing on CI")
        pytest.skip(f"{SHARED_DATA} is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four H.264 videos, 64x48, 20 to 31 frames, in class folders. Read only: copy it to change it."""
    source = tmp_path_factory.mktemp("tiny") / "source"
    for place, (name, speed) in enumerate(TINY_CLASSES.items()):
        for number in range(4):
            frames = moving_square(20 + place * 4 + number, speed=speed, phase=number * 5 + place)
            write_video(source / name / f"{number}.mp4", frames)
    return source


@pytest.fixture(scope="session")
def quiet() -> Reporter:
    return Reporter(quiet=True)


def _tiny_store(source: Path, folder: Path, format: str) -> Path:
    from vidssl.data.prep import prepare

    store, quiet = folder / format, Reporter(quiet=True)
    prepare(source=source, name=format, store_dir=store, format=format, short_side=48, workers=1, progress=quiet)
    return store


@pytest.fixture(scope="session")
def tiny_store(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny videos as an H.264 store, 64x48."""
    return _tiny_store(tiny_source, tmp_path_factory.mktemp("stores"), "h264")


@pytest.fixture(scope="session")
def tiny_mjpeg_store(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny videos as an MJPEG store, 64x48."""
    return _tiny_store(tiny_source, tmp_path_factory.mktemp("stores"), "mjpeg")
