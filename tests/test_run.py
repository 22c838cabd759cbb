"""A whole run through the command line on tiny videos: exact after SIGKILL, nothing done twice, nothing overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file

# a run of seconds: a quarter of the network's width on 16 px
SMALL = [
    "--epochs", "3", "--set", "data.size=32", "--set", "backbone.width=0.5", "--set", "pretrain.batch=3",
    "--set", "task.decoder_width=0.05", "--set", "task.head_width=0.05", "--set", "finetune.epochs=2",
    "--set", "eval.clips=2",
    "--set", "eval.pretext_repeats=2", "--set", "engine.layout=contiguous", "--decoder", "pyav",
    "--set", "engine.checkpoint_every=2", "--set", "engine.log_every=3",
]  # fmt: skip


def vidssl(*words, home):
    return subprocess.run(
        command(*words), capture_output=True, text=True, timeout=300, check=False, env=environment(home)
    )


def command(*words):
    return [sys.executable, "-m", "vidssl", *map(str, words)]


def environment(home):
    return {**os.environ, "VIDSSL_HOME": str(home), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def home(tiny_source, tmp_path_factory):
    """A home with the tiny videos as data set `tiny`: train and test by csv, and `plain` without labels."""
    home = tmp_path_factory.mktemp("home")
    source = tmp_path_factory.mktemp("source") / "videos"
    shutil.copytree(tiny_source, source)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.mp4"))
    for split, part in (("train", [0, 1, 2]), ("test", [3])):
        rows = [f"{name},{name.partition('/')[0]}" for name in files if int(name.rpartition("/")[2][0]) in part]
        (source / f"{split}.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    done = vidssl("prep", "folder", "--source", source, "--name", "tiny", "--short-side", 48, "--json", home=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"] == 12
    plain = tmp_path_factory.mktemp("plain")
    for number, name in enumerate(files[:4]):
        shutil.copy(source / name, plain / f"{number}.mp4")
    assert vidssl("prep", "folder", "--source", plain, "--name", "plain", "--short-side", 48, home=home).returncode == 0
    return home


@pytest.fixture(scope="module")
def finished(home):
    """A finished run and what it printed."""
    out = home / "whole"
    done = vidssl("run", "--data", "tiny", "--out", out, *SMALL, home=home)
    assert done.returncode == 0, done.stderr
    return out, done


def log_without_time(out):
    lines = (out / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "time"} for line in lines]


def numbers(out):
    """The summary without what differs between two equal runs: seconds, speed, place."""
    summary = json.loads((out / "summary.json").read_text())
    for part in (summary["pretrain"], *summary["evals"].values(), summary["evals"]["finetune"]["train"]):
        for key in ("seconds", "clips_per_second", "data_wait", "resumed_at_step"):
            part.pop(key, None)
    summary["evals"]["finetune"]["train"] = {
        k: v for k, v in summary["evals"]["finetune"]["train"].items() if k in ("steps", "epochs", "clips")
    }
    return summary["pretrain"], summary["evals"]


def test_summary_has_every_number(finished):
    out, done = finished
    summary = json.loads((out / "summary.json").read_text())
    pretrain = summary["pretrain"]
    assert pretrain["metric"] == "accuracy"
    assert pretrain["chance"] == 0.25
    assert pretrain["interval"][0] <= pretrain["value"] <= pretrain["interval"][1]
    assert pretrain["tested_on"] == "test"
    assert pretrain["extended_clips"] > 0, "videos of 20 to 31 frames are too short for most dilations"
    assert {"epochs", "clips_per_second", "data_wait"} <= set(pretrain)
    assert set(summary["evals"]) == {"finetune", "linear", "retrieval"}
    assert summary["evals"]["retrieval"]["left_out"].startswith("k = [10, 20, 50]")
    assert summary["evals"]["finetune"]["chance"] == pytest.approx(1 / 3)
    assert 0 < pretrain["test_extended_clips"] <= pretrain["test_clips"] == 3 * 2, "three test videos, each twice"
    assert f"pretrain: {100 * pretrain['extended_clips'] / pretrain['clips']:.0f} % of the clips" in done.stderr
    assert "needs up to 129 frames; 0 of 9 videos have as many" in done.stderr, "said before the training as well"
    assert f"pretext test: {100 * pretrain['test_extended_clips'] / 6:.0f} % of the clips" in done.stderr
    assert "no number of the paper" in done.stdout
    for name in ("spec.toml", "environment.json", "measured.json", "log.jsonl", "model.safetensors", "pretrain.png"):
        assert (out / name).stat().st_size > 0
    lines = log_without_time(out)
    assert lines[0]["step"] == 0
    assert set(lines[0]["watch"]) == {"knn", "linear", "chance", "rankme", "spread"}
    record = next(line for line in lines if "watch" not in line)
    assert {"stage", "step", "epoch", "loss", "accuracy", "chance", "lr"} <= set(record)


def test_again_does_nothing_twice(finished, home):
    out, _ = finished
    before = {
        path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "summary.json"
    }
    done = vidssl("run", "--data", "tiny", "--out", out, *SMALL, home=home)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.3, 1.1, 2.5, 4.0, 6.0])
def test_sigkill_at_any_moment_then_again_equals_never_stopped(finished, home, tmp_path, after):
    whole, _ = finished
    out = tmp_path / "cut"
    words = command("run", "--data", "tiny", "--out", out, *SMALL)
    process = subprocess.Popen(words, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = time.monotonic()
    while not (out / "spec.toml").exists() and process.poll() is None and time.monotonic() - started < 120:
        time.sleep(0.02)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = vidssl("run", "--data", "tiny", "--out", out, *SMALL, home=home)
    assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert log_without_time(out) == log_without_time(whole)
    pretrain, evals = numbers(out)
    expected_pretrain, expected_evals = numbers(whole)
    assert evals == expected_evals
    assert {k: pretrain[k] for k in ("value", "interval", "clips", "extended_clips")} == {
        k: expected_pretrain[k] for k in ("value", "interval", "clips", "extended_clips")
    }


@pytest.mark.slow
def test_two_processes_make_one_run(home, tmp_path):
    out = tmp_path / "two"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "vidssl"]
    words = [*launch, "run", "--data", "tiny", "--out", str(out), *SMALL, "--set", "pretrain.batch=5"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment(home))
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["evals"]) == {"finetune", "linear", "retrieval"}
    assert summary["pretrain"]["clips"] == 9 * 3
    lines = [record for record in log_without_time(out) if record["stage"] == "pretrain"]
    assert [record["step"] for record in lines if "watch" not in record] == [3, 6]
    assert [record["step"] for record in lines if "watch" in record] == [0, 2, 4, 6]

    # the second process tests the network that the first has written
    words = [*launch, "eval", str(out), "--on", "tiny", "--with", "robustness", "--out", str(tmp_path / "noisy")]
    words += ["--set", "eval.noise_kinds=['shot']", "--set", "eval.noise_severities=[1]", "--set", "finetune.batch=5"]
    words += ["--set", "finetune.epochs=1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment(home))
    assert done.returncode == 0, done.stderr
    evals = json.loads((tmp_path / "noisy" / "summary.json").read_text())["evals"]
    assert evals["robustness"]["clean"]["top1"] == evals["finetune"]["top1"]


def test_sigterm_leaves_a_checkpoint_and_says_how_to_go_on(home, tmp_path):
    out = tmp_path / "stopped"
    words = [*SMALL, "--set", "pretrain.epochs=400"]
    process = subprocess.Popen(
        command("run", "--data", "tiny", "--out", out, *words), env=environment(home), stderr=subprocess.PIPE, text=True
    )
    started = time.monotonic()
    while not list(out.glob("checkpoints/*.pt")) and process.poll() is None and time.monotonic() - started < 120:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "The same command goes on" in stderr
    assert "Traceback" not in stderr


def test_a_folder_of_another_spec_is_left_alone(finished, home):
    out, _ = finished
    before = (out / "spec.toml").read_bytes()
    done = vidssl("run", "--data", "tiny", "--out", out, *SMALL, "--seed", 1, home=home)
    assert done.returncode == 2
    assert "seed: None -> 1" in done.stderr
    assert "--out" in done.stderr
    assert (out / "spec.toml").read_bytes() == before


def test_a_folder_with_other_files_is_left_alone(home, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    done = vidssl("run", "--data", "tiny", "--out", tmp_path, *SMALL, home=home)
    assert done.returncode == 2
    assert "thesis.txt" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_videos_too_short_are_left_out_where_that_is_asked_for(home, tmp_path):
    words = ["run", "--task", "rotnet", "--data", "tiny", "--eval", "none", "--out", tmp_path / "run", "--epochs", "1"]
    words += ["--set", "task.short_videos=skip", "--set", "data.size=32", "--set", "backbone.width=0.5"]
    words += ["--set", "task.recipe=original", "--set", "engine.layout=contiguous", "--decoder", "pyav"]
    refused = vidssl(*words, home=home)
    assert refused.returncode == 2
    assert "all 9 training videos of 'tiny' are shorter than the 31 frames" in refused.stderr
    assert not (tmp_path / "run").exists()
    done = vidssl(*words, "--set", "data.frames=12", home=home)
    assert done.returncode == 0, done.stderr
    # training videos of 20 to 22, 24 to 26 and 28 to 30 frames; twelve frames at stride 2 take 23
    assert "3 of 9 videos are shorter than the 23 frames" in done.stderr
    pretrain = json.loads((tmp_path / "run" / "summary.json").read_text())["pretrain"]
    assert (pretrain["videos_skipped"], pretrain["videos_trained"], pretrain["extended_clips"]) == (3, 6, 0)
    spec = tomllib.loads((tmp_path / "run" / "spec.toml").read_text())
    assert "jitter" not in spec["task"], "a setting that this recipe does not use"
    assert spec["augmentation"][0]["jitter"] == [0, 0, 0, 0]
    assert spec["augmentation"][0]["rotation_degrees"] == 10
    assert vidssl(*words, "--set", "data.frames=12", home=home).returncode == 0


def test_no_step_at_all_leaves_a_whole_run(home, tmp_path):
    words = ["--epochs", "0", "--eval", "none", "--set", "watch.every=0", "--set", "engine.layout=contiguous"]
    done = vidssl("run", "--data", "tiny", *words, "--out", tmp_path / "run", home=home)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_data_without_labels_pretrain_and_say_that_nothing_is_evaluated(home, tmp_path):
    done = vidssl("run", "--data", "plain", "--out", tmp_path / "run", *SMALL, home=home)
    assert done.returncode == 0, done.stderr
    assert "nothing is evaluated" in done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["evals"] == {}
    looks = [line["watch"] for line in log_without_time(tmp_path / "run") if "watch" in line]
    assert [set(look) for look in looks] == [{"rankme", "spread"}] * len(looks)
    assert len(looks) == 4, "before the first of three epochs and after each"
    asked = vidssl("run", "--data", "tiny", "--target", "plain", "--out", tmp_path / "other", *SMALL, home=home)
    assert asked.returncode == 2
    assert "no labels" in asked.stderr
    assert "--eval none" in asked.stderr


def test_subset_larger_than_the_data(home, tmp_path):
    done = vidssl("run", "--data", "tiny", "--subset", "50k", "--out", tmp_path / "run", *SMALL, home=home)
    assert done.returncode == 2
    assert "9 training videos" in done.stderr
    assert not (tmp_path / "run").exists()


def test_eval_of_a_finished_run(finished, home):
    out, _ = finished
    words = ("eval", out, "--on", "tiny", "--with", "linear,retrieval", "--set", "eval.clips=2")
    done = vidssl(*words, "--json", home=home)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    ours = json.loads((out / "summary.json").read_text())["evals"]
    assert summary["evals"]["linear"]["top1"] == ours["linear"]["top1"]
    assert summary["evals"]["retrieval"]["top5"] == ours["retrieval"]["top5"]
    kept = (out / "evals" / "tiny" / "stages" / "linear.json").stat().st_mtime_ns
    assert vidssl(*words, home=home).returncode == 0
    assert (out / "evals" / "tiny" / "stages" / "linear.json").stat().st_mtime_ns == kept


def test_exported_weights_are_the_backbone(finished):
    out, _ = finished
    from vidssl import create_backbone

    create_backbone("shufflenet", width=0.5).load_state_dict(load_file(out / "model.safetensors"))


def test_a_cut_index_is_named_and_mended_by_prep(home, tmp_path):
    copied = tmp_path / "home"
    shutil.copytree(home / "data" / "plain", copied / "data" / "plain")
    index = copied / "data" / "plain" / "index.parquet"
    index.write_bytes(index.read_bytes()[:100])
    done = vidssl("run", "--data", "plain", "--eval", "none", home=copied)
    assert done.returncode == 2
    assert "index.parquet" in done.stderr
    assert "vidssl prep" in done.stderr


def test_an_output_that_cannot_be_written(home, tmp_path):
    (tmp_path / "file").write_text("")
    done = vidssl("run", "--data", "tiny", "--out", tmp_path / "file" / "run", *SMALL, home=home)
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "--out" in done.stderr


def test_preview_writes_a_picture(home, tmp_path):
    out = tmp_path / "prp.png"
    done = vidssl("preview", "--task", "prp", "--data", "tiny", "--out", out, "--set", "data.size=32", home=home)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_runs_are_listed(finished, home):
    folder = home / "runs" / "mine"
    shutil.copytree(finished[0], folder)
    rows = json.loads(vidssl("list", "runs", "--json", home=home).stdout)
    assert rows[0]["run"] == "mine"
    assert rows[0]["state"] == "finished"
    assert {"pretext", "finetune", "linear", "retrieval"} <= set(rows[0])
    shutil.rmtree(folder)


RETRIEVE = [
    "--with", "retrieval", "--set", "eval.clips=2", "--set", "data.size=32", "--set", "backbone.width=0.5",
    "--set", "engine.layout=contiguous",
]  # fmt: skip


def test_eval_of_weights_gives_the_numbers_of_the_run(finished, home):
    out, _ = finished
    words = ("eval", "--weights", out / "model.safetensors", "--backbone", "shufflenet", "--on", "tiny", *RETRIEVE)
    done = vidssl(*words, "--json", home=home)
    assert done.returncode == 0, done.stderr
    assert "weights: 294 tensors" in done.stderr
    assert "preset 'small' because there is no GPU" in done.stderr
    assert "chance" in done.stdout
    assert "format vidssl, input unit" in done.stdout
    summary = json.loads(done.stdout.splitlines()[-1])
    ours = json.loads((out / "summary.json").read_text())["evals"]["retrieval"]
    theirs = summary["evals"]["retrieval"]
    assert {k: v for k, v in theirs.items() if k != "seconds"} == {k: v for k, v in ours.items() if k != "seconds"}
    assert summary["pretrain"] is None
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    assert summary["weights"]["sha256"] == digest

    folder = home / "runs" / f"weights-shufflenet-{digest[:8]}" / "evals" / "tiny"
    assert summary["directory"] == str(folder)
    kept = (folder / "stages" / "retrieval.json").stat().st_mtime_ns
    assert vidssl(*words, home=home).returncode == 0
    assert (folder / "stages" / "retrieval.json").stat().st_mtime_ns == kept
    assert json.loads(vidssl("list", "runs", "--json", home=home).stdout) == []


def test_a_run_begins_with_weights(finished, home, tmp_path):
    weights = tmp_path / "public.pth"
    tensors = load_file(finished[0] / "model.safetensors")
    torch.save(
        {"arch": "shufflenet", "state_dict": {f"module.{key}": value for key, value in tensors.items()}}, weights
    )
    out, begin = tmp_path / "run", ("run", "--data", "tiny", "--init", weights, "--eval", "none", *SMALL)
    words = (*begin, "--set", "pretrain.lr=0.0", "--out", out)

    shown = vidssl(*begin, "--dry-run", home=home)
    assert tomllib.loads(shown.stdout)["init"]["weights"] == str(weights)
    assert tomllib.loads(shown.stdout)["backbone"]["input"] == "efficient3d"
    assert "weights: 294 tensors" in shown.stderr
    chosen = vidssl(*begin, "--set", "backbone.input=unit", "--dry-run", home=home)
    assert tomllib.loads(chosen.stdout)["backbone"]["input"] == "unit"

    done = vidssl(*words, home=home)
    assert done.returncode == 0, done.stderr
    # at a learning rate of zero the weights that came out are those that went in
    parameters = {key: value for key, value in load_file(out / "model.safetensors").items() if key.endswith("weight")}
    assert all(torch.equal(value, tensors[key]) for key, value in parameters.items())
    spec = tomllib.loads((out / "spec.toml").read_text())
    assert spec["backbone"]["input"] == "efficient3d"
    assert spec["identity"]["weights"] == hashlib.sha256(weights.read_bytes()).hexdigest()

    torch.save({"state_dict": tensors}, weights)
    changed = vidssl(*words, home=home)
    assert changed.returncode == 2
    assert f"the file of weights {weights} changed since this run began" in changed.stderr


def test_weights_of_another_network_are_refused_before_anything_is_written(finished, home, tmp_path):
    out, weights = tmp_path / "run", finished[0] / "model.safetensors"
    done = vidssl("run", "--data", "nowhere", "--init", weights, "--set", "backbone.width=1.0", "--out", out, home=home)
    assert done.returncode == 2
    assert "They are of a run with backbone shufflenet (width=0.5, groups=3" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--backbone", "c3d", "--set", "data.frames=4"], ["C3D takes no clip of 4 frames", "8 or more"]),
        (["--backbone", "vit", "--set", "data.size=40"], ["ViT takes no clip of 40 pixels", "multiples of 16"]),
        (["--set", "task.recipe=original", "--set", "task.flip=0.0"], ["task.flip belongs to", "recipe=original"]),
        (["--task", "cvrl", "--set", "task.area=[0.2,1.0]"], ["task.area has no effect", "geometry=shared"]),
        (["--task", "cvrl", "--set", "task.jitter=0.2"], ["task.jitter = 0.2 is not a list of 4 numbers"]),
        (["--task", "tdl", "--set", "task.queue=2"], ["a queue of 2 keys is smaller than a step of 9", "task.queue"]),
        (["--task", "cvrl", "--set", "engine.micro_batch=4"], ["cvrl compares all samples of a step"]),
        (["--set", "engine.micro_batch=-1"], ["engine.micro_batch = -1 is too small"]),
        (["--set", "engine.precision=bf16"], ["bf16 needs a GPU", "fp32"]),
    ],
)
def test_what_cannot_be_computed_is_refused_before_anything_is_written(home, tmp_path, words, says):
    done = vidssl("run", "--data", "tiny", "--eval", "none", *words, "--out", tmp_path / "run", home=home)
    assert done.returncode == 2, done.stderr
    assert all(text in done.stderr for text in says), done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_dry_run_refuses_what_the_run_would(home):
    words = ("--task", "cvrl", "--set", "pretrain.batch=1", "--dry-run")
    done = vidssl("run", "--data", "tiny", "--eval", "none", *words, home=home)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "has none to compare" in done.stderr


def test_a_run_of_before_inputs_goes_on(finished, home, tmp_path):
    out = tmp_path / "old"
    shutil.copytree(finished[0], out, ignore=shutil.ignore_patterns("evals"))
    spec = tomllib.loads((out / "spec.toml").read_text())
    del spec["init"], spec["backbone"]["input"]
    (out / "spec.toml").write_text(tomli_w.dumps(spec))
    state, text = load_file(out / "model.safetensors"), json.dumps({"backbone": spec["backbone"]})
    save_file(state, out / "model.safetensors", {"spec": text})
    (out / "stages" / "retrieval.json").unlink()
    (out / "summary.json").unlink()
    done = vidssl("run", "--data", "tiny", "--out", out, *SMALL, home=home)
    assert done.returncode == 0, done.stderr
    assert numbers(out) == numbers(finished[0])
    again = vidssl("eval", out, "--on", "tiny", "--with", "retrieval", "--json", home=home)
    assert again.returncode == 0, again.stderr
    assert (
        json.loads(again.stdout.splitlines()[-1])["evals"]["retrieval"]["top1"] == numbers(out)[1]["retrieval"]["top1"]
    )


def test_a_run_of_a_gpu_is_evaluated_without_one_but_not_gone_on_with(finished, home, tmp_path):
    out = tmp_path / "gpu"
    shutil.copytree(finished[0], out, ignore=shutil.ignore_patterns("evals"))
    spec = tomllib.loads((out / "spec.toml").read_text())
    spec["engine"] |= {"precision": "bf16", "compile": "on"}
    (out / "spec.toml").write_text(tomli_w.dumps(spec))
    done = vidssl("run", "--data", "tiny", "--out", out, *SMALL, home=home)
    assert done.returncode == 2
    assert "begun in bf16 on a GPU, and there is none here" in done.stderr
    again = vidssl("eval", out, "--on", "tiny", "--with", "retrieval", "--json", home=home)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout.splitlines()[-1])
    assert (summary["spec"]["engine"]["precision"], summary["spec"]["engine"]["compile"]) == ("fp32", "off")
    assert summary["evals"]["retrieval"]["top1"] == numbers(finished[0])[1]["retrieval"]["top1"]


def test_what_a_run_was_made_with_is_evaluated_in_its_own_folder(finished, home, tmp_path):
    """Nothing is fine-tuned a second time; the summary grows."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out, ignore=shutil.ignore_patterns("evals"))
    kept = (out / "stages" / "finetune.json").stat().st_mtime_ns
    done = vidssl("eval", out, "--on", "tiny", "--with", "robustness", "--json", home=home)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["directory"] == str(out)
    assert set(summary["evals"]) == {"finetune", "linear", "retrieval", "robustness"}
    assert summary["evals"]["robustness"]["clean"]["top1"] == summary["evals"]["finetune"]["top1"]
    assert (out / "stages" / "finetune.json").stat().st_mtime_ns == kept
    assert numbers(out)[0] == numbers(finished[0])[0]
    assert "severity 5" in done.stdout

    refused = vidssl("eval", out, "--on", "tiny", "--with", "cka", home=home)
    assert refused.returncode == 2
    assert "cka needs 4 test videos or more, and 'tiny' has 3" in refused.stderr


@pytest.mark.slow
def test_all_evaluations_on_other_data_then_the_report(finished, home, tiny_source, tmp_path):
    source = tmp_path / "videos"
    shutil.copytree(tiny_source, source)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.mp4"))
    for split, part in (("train", "01"), ("test", "23"), ("train2", "23"), ("test2", "01")):
        rows = [f"{name},{name.partition('/')[0]}" for name in files if name.rpartition("/")[2][0] in part]
        (source / f"{split}.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    prepared = vidssl("prep", "folder", "--source", source, "--name", "halves", "--short-side", 48, home=home)
    assert prepared.returncode == 0, prepared.stderr
    words = (
        *("eval", finished[0], "--on", "halves", "--with", "all", "--against", finished[0]),
        *("--set", "eval.noise_kinds=['shot']", "--set", "eval.noise_severities=[1, 5]", "--set", "eval.cka_batch=4"),
        *("--set", "finetune.epochs=1", "--set", "eval.seeds=2", "--out", tmp_path / "evals"),
    )
    done = vidssl(*words, "--json", home=home)
    assert done.returncode == 0, done.stderr
    evals = json.loads(done.stdout.splitlines()[-1])["evals"]
    weights = hashlib.sha256((finished[0] / "model.safetensors").read_bytes()).hexdigest()
    other = f"{finished[0].name}-{weights[:8]}"
    assert set(evals) == {"finetune", "linear", "retrieval", "robustness", "cka", f"cka-{other}"}
    assert len(evals["finetune"]["seeds"]) == 2
    assert list(evals["robustness"]["noises"]["shot"]) == ["1", "5"]
    assert evals["cka"]["maps"]["pre-trained / pre-trained"]["dropped"] == 2, "6 test videos in minibatches of 4"
    itself = evals[f"cka-{other}"]["maps"]
    assert itself[f"pre-trained / {other}"]["mean"] == pytest.approx(
        evals["cka"]["maps"]["pre-trained / pre-trained"]["mean"], abs=1e-9
    )
    files = {path.relative_to(tmp_path / "evals").as_posix() for path in (tmp_path / "evals").rglob("*.*")}
    assert {"finetuned.safetensors", "neighbours.npz", "predictions/finetune.npz", "predictions/linear.npz"} <= files
    stages = {path: path.stat().st_mtime_ns for path in (tmp_path / "evals" / "stages").iterdir()}
    assert vidssl(*words, home=home).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "evals" / "stages").iterdir()} == stages

    both = ("eval", finished[0], "--on", "halves:all", "--with", "retrieval", "--set", "eval.ks=[1, 3]", "--json")
    done = vidssl(*both, "--out", tmp_path / "splits", home=home)
    assert done.returncode == 0, done.stderr
    mean = json.loads(done.stdout.splitlines()[-1])
    kept = [json.loads((tmp_path / "splits" / f"split{n}" / "summary.json").read_text()) for n in (1, 2)]
    assert mean == json.loads((tmp_path / "splits" / "halves_splits.json").read_text())
    for measure in ("top1", "top3"):
        assert mean["evals"]["retrieval"][measure] == sum(each["evals"]["retrieval"][measure] for each in kept) / 2
    # halves swapped: the nearest of every query are other videos
    assert kept[0]["evals"]["retrieval"] != kept[1]["evals"]["retrieval"]
    single = vidssl("eval", finished[0], "--on", "tiny:all", "--with", "retrieval", home=home)
    assert single.returncode == 2
    assert "a single official split" in single.stderr

    page = vidssl("report", tmp_path / "evals", "--out", tmp_path / "report.html", home=home)
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image") >= 6
    assert "robustness" in text


@pytest.mark.slow
def test_results_of_other_weights_or_other_labels_are_not_handed_out(finished, home, tiny_source, tmp_path):
    run, place, source = tmp_path / "run", tmp_path / "evals", tmp_path / "videos"
    shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("evals"))
    shutil.copytree(tiny_source, source)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.mp4"))

    def prepare(train, test):
        for split, part in (("train", train), ("test", test)):
            rows = [f"{name},{name.partition('/')[0]}" for name in files if name.rpartition("/")[2][0] in part]
            (source / f"{split}.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
        shutil.rmtree(home / "data" / "again", ignore_errors=True)
        done = vidssl("prep", "folder", "--source", source, "--name", "again", "--short-side", 48, home=home)
        assert done.returncode == 0, done.stderr

    prepare("01", "23")
    words = ("eval", run, "--on", "again", "--with", "retrieval", "--out", place)
    assert vidssl(*words, home=home).returncode == 0
    prepare("23", "01")
    other_split = vidssl(*words, home=home)
    assert other_split.returncode == 2
    assert "labels or splits of the target data 'again' changed" in other_split.stderr

    prepare("01", "23")
    state = load_file(run / "model.safetensors")
    save_file({key: value + 1 if "weight" in key else value for key, value in state.items()}, run / "model.safetensors")
    retrained = vidssl(*words, home=home)
    assert retrained.returncode == 2
    assert "weights" in retrained.stderr
    shutil.rmtree(home / "data" / "again")
