"""Each benchmark runs: a script that no test runs dies in the next refactor. And the harness tells the truth."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from vidssl.data.prep import prepare
from vidssl.engine.progress import Reporter

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NEED_A_RUN = {"tasks.py", "task_seeds.py", "codec_cue.py"}  # tested on one, below
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if path.name not in NEED_A_RUN | {"common.py"})


@pytest.fixture(scope="module")
def common() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_common", BENCHMARKS / "common.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    """Runs a script once for all tests that look at its result."""

    @cache
    def run(script: str) -> dict:
        folder = tmp_path_factory.mktemp("bench")
        command = [sys.executable, str(BENCHMARKS / script), "--smoke", "--out", str(folder / "result.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr[-2000:]
        result = json.loads(done.stdout.splitlines()[-1])
        assert result == json.loads((folder / "result.json").read_text())
        return result

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_runs_in_seconds_and_ends_with_its_result(script, result_of):
    result = result_of(script)
    assert result["smoke"] is True
    assert {"cpu", "cores", "load", "python", "packages", "commit", "gpu"} <= set(result["environment"])
    timed = {row["name"]: row for row in result["rows"] if not row["error"]}
    assert result["baseline"] in timed
    unit = result["unit"]
    assert all(row[f"cpu_ms_per_{unit}"]["median"] > 0 for row in timed.values())
    assert all("cpu_ratio" in row for name, row in timed.items() if row["against"] not in ("", name))


def test_decode_times_the_same_work_for_all(result_of):
    """The embedded set's originals and its stores show the same pictures, so nobody is timed on less work."""
    result = result_of("decode.py")
    assert {"pyav, h264 store", "jpeg, mjpeg store", "raw memmap"} <= set(result["agreement"])
    assert max(result["agreement"].values()) < 8
    failed = {row["name"]: row["error"] for row in result["rows"] if row["error"]}
    assert set(failed) <= {"dali, h264 store", "dali, mjpeg store"}


def test_step_counts_the_work_and_takes_ratios_within_a_network(result_of):
    result = result_of("step.py")
    rows = {row["name"]: row for row in result["rows"]}
    peer = rows["shufflenet, peer, contiguous"]
    assert peer["against"] == "shufflenet, eager, contiguous"
    assert peer["gflop_per_clip"] == rows[peer["against"]]["gflop_per_clip"] > 0
    assert all(0 < row["share_of_peak"] < 1 for row in rows.values() if "share_of_peak" in row)
    assert all(row["memory_mib"] > 0 for row in rows.values() if "memory_mib" in row)
    assert len([row for row in rows.values() if "share_of_peak" in row]) == 4


def test_transforms_takes_shares_of_the_step_and_peers_do_the_same_work(result_of):
    result = result_of("transforms.py")
    rows = {row["name"]: row for row in result["rows"]}
    assert not any(row["error"] for row in rows.values())
    for recipe in ("paper", "original"):
        views, copy = rows[f"rotnet, {recipe}: views"], rows[f"rotnet, {recipe}: copy"]
        assert 0 < views["share_of_step"] < 1
        assert views["bytes_read"] == 4 * 16 * 40 * 53 * 3
        assert views["bytes_written"] == 4 * (4 * 3 * 16 * 32 * 32 * 4 + 4 * 8)  # four turned copies and their labels
        assert views["batch_ms"] > copy["batch_ms"] > 0
    assert len(result["agreement"]) == 4
    # grey levels; a turn the other way would be at 4, a crop 4 pixels too low at 7, a flip too many at 15
    assert max(result["agreement"].values()) < 3


def test_a_failing_candidate_is_a_row_and_the_others_go_on(common, tmp_path, capsys):
    def cannot_open():
        raise OSError("no such\n  device")

    def fails_later():
        def call(number: int) -> int:
            if number == 2:
                raise ValueError("third time")
            return 1

        return call

    table = [
        common.Candidate("works", lambda: lambda number: 1),
        common.Candidate("closed", cannot_open),
        common.Candidate("breaks", fails_later),
    ]
    options = argparse.Namespace(smoke=False, iterations=5, warm_up=3, out=None)
    assert common.run(options, "test", table, "step", "works") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    errors = {row["name"]: row["error"] for row in result["rows"]}
    assert errors == {"works": "", "closed": "OSError: no such device", "breaks": "ValueError: third time"}
    assert common.run(options, "test", table[1:2], "step", "closed") == 1


def test_ratios_are_pair_by_pair_and_candidates_take_turns(common):
    """A machine that becomes five times slower half-way must not change the ratio."""
    order: list[str] = []

    def sleeper(name: str, milliseconds: float):
        def call(number: int) -> int:
            order.append(name)
            time.sleep(milliseconds / 1000 * (5 if number >= 4 else 1))
            return 2

        return call

    table = [common.Candidate("slow", lambda: sleeper("slow", 8)), common.Candidate("fast", lambda: sleeper("fast", 2))]
    rows = common.measure(table, iterations=8, warm_up=0)
    assert order[2:] == ["slow", "fast"] * 8  # after one opening call each
    result = common.report("test", rows, "step", "slow")
    assert 2.4 < result["rows"][1]["wall_ratio"]["median"] < 4.4
    assert 3.5 < rows[0].wall[0] < 8  # two units a call


def test_processor_time_counts_threads_and_finished_children(common):
    before = common.cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert common.cpu_seconds() - before > 0.02


@pytest.mark.slow
def test_tasks_runs_each_task_once_and_two_untrained_networks(tiny_source, tmp_path):
    source, store = tmp_path / "videos", tmp_path / "store"
    shutil.copytree(tiny_source, source)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.mp4"))
    for split in ("train", "test"):
        mine = [name for name in files if name.endswith("3.mp4") == (split == "test")]
        rows = [f"{name},{name.partition('/')[0]}" for name in mine]
        (source / f"{split}.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    prepare(source=source, name="tiny", store_dir=store, short_side=48, workers=1, progress=Reporter(quiet=True))
    settings = ["data.size=32", "backbone.width=0.5", "eval.clips=2", "finetune.epochs=1", "pretrain.epochs=2"]
    command = [
        sys.executable,
        str(BENCHMARKS / "tasks.py"),
        "--runs",
        str(tmp_path / "runs"),
        "--data",
        str(store),
    ]
    command += ["--tasks", "rotnet", "--jobs", "2", "--out", str(tmp_path / "result.json")]
    command += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == json.loads(done.stdout.splitlines()[-1])
    assert [row["task"] for row in result["rows"]] == ["rotnet", "untrained", "fitted"]
    assert set(result["rows"][0]["evals"][str(store)]) == {"finetune", "linear", "retrieval"}
    assert result["rows"][0]["pretrain"]["epochs"] == 2
    untrained, fitted = (load_file(tmp_path / "runs" / name / "model.safetensors") for name in ("untrained", "fitted"))
    differs = {key.rpartition(".")[2] for key in untrained if not torch.equal(untrained[key], fitted[key])}
    assert differs == {"running_mean", "running_var", "num_batches_tracked"}

    # the same store twice: what the scores differ by is the stores' doing, so here by nothing
    command = [sys.executable, str(BENCHMARKS / "codec_cue.py"), str(tmp_path / "runs" / "rotnet"), "--repeats", "2"]
    done = subprocess.run(
        [*command, "--stores", str(store), str(store)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert one == other
    assert one["clips"] == 2 * one["videos"]
    assert 0 <= one["value"] <= 1

    command = [
        sys.executable,
        str(BENCHMARKS / "task_seeds.py"),
        "--runs",
        str(tmp_path / "seeds"),
        "--data",
        str(store),
    ]
    command += [word for setting in settings for word in ("--set", setting)]
    for seeds in (["0"], ["1"]):
        done = subprocess.run(
            [*command, "--tasks", "rotnet", "--seeds", *seeds], capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["task"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    assert set(rows) == {"rotnet", "untrained", "fitted"}
    assert all(row["retrieval"]["seeds"] == [0, 1] for row in rows.values()), "the first call's seed counts too"
    mine, other = (rows[name]["retrieval"]["values"] for name in ("rotnet", "fitted"))
    assert rows["rotnet"]["above"]["fitted"]["values"] == [mine[0] - other[0], mine[1] - other[1]]
    assert mine[0] == result["rows"][0]["evals"][str(store)]["retrieval"]["top1"], "the same run without fine-tuning"
