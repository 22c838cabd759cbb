"""One process and two give the same training: the same clips, the same weights, the same log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def launch(module: str, world: int, folder: Path) -> None:
    """Runs a module in so many processes."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={world}",
        "-m",
        module,
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for world in (1, 2):
        launch("tests.engine.two_ranks", world, folder)
    return folder


def seen(folder, world) -> list:
    parts = [json.loads((folder / f"world{world}-rank{rank}.json").read_text())["seen"] for rank in range(world)]
    return sorted((video, tuple(frames)) for part in parts for video, frames in part)


def test_the_same_clips_whoever_decodes_them(results):
    assert seen(results, 1) == seen(results, 2)
    assert [video for video, _ in seen(results, 2)] == sorted(list(range(13)) * 3)


def test_the_same_weights(results):
    one = torch.load(results / "world1-rank0.pt")
    for rank in range(2):
        other = torch.load(results / f"world2-rank{rank}.pt")
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


def test_the_same_log_and_pretext_score(results):
    logs = [
        [json.loads(line) for line in (results / f"world{world}" / "log.jsonl").read_text().splitlines()]
        for world in (1, 2)
    ]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]]
    assert [r["loss"] for r in logs[0]] == pytest.approx([r["loss"] for r in logs[1]], rel=1e-4)
    tested = [json.loads((results / f"world{world}-rank0.json").read_text())["tested"] for world in (1, 2)]
    assert tested[0]["value"] == tested[1]["value"]
    assert tested[0]["interval"] == pytest.approx(tested[1]["interval"])
    assert tested[0]["clips"] == 26
    assert [each["test_extended_clips"] for each in tested] == [4, 4], "of two short videos, each twice"


def test_ranks_drop_different_units(results):
    first, second = (json.loads((results / f"dropout-rank{rank}.json").read_text()) for rank in range(2))
    assert first["dropped"] != second["dropped"]


def test_two_ranks_with_dropout_killed_and_started_again_equal_never_stopped(results):
    for rank in range(2):
        assert json.loads((results / f"killed-rank{rank}.json").read_text())["start"] == 4
        whole, resumed = (torch.load(results / f"{name}-rank{rank}.pt") for name in ("dropout", "killed"))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
