"""A store of 100,000 videos, and prep over many: what grows with their number, and what must not."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.media import moving_square, write_video

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_store_of_100_000_videos_is_opened_and_planned(tmp_path: Path) -> None:
    """In a process of its own. Seconds are those of a quiet machine many times over: it must not be minutes."""
    benchmark = load("store")
    benchmark.generate(tmp_path / "store", videos=100_000, frames=64)
    command = [sys.executable, "-c", benchmark.FRESH, str(tmp_path / "store"), "64"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    steps = json.loads(done.stdout)
    assert steps["open"]["peak_mib"] < 500
    assert steps["plan an epoch"]["peak_mib"] < 500
    assert steps["open"]["seconds"] < 20
    assert steps["plan an epoch"]["seconds"] < 20


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_videos(tmp_path: Path) -> None:
    """A frame of these has 0.1 MB: a worker that kept those of its videos would grow by a gigabyte."""
    benchmark = load("prep")
    for number in range(4):
        write_video(tmp_path / "originals" / f"{number}.mp4", moving_square(30, (320, 240), speed=number))
    originals = sorted((tmp_path / "originals").iterdir())
    few, many = (benchmark.peak_memory(originals, count, tmp_path) for count in (50, 400))
    assert many["worker_mib"] < few["worker_mib"] + 20
    assert many["main_mib"] < few["main_mib"] + 20
