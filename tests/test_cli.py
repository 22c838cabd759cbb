"""The command line as a user meets it: help without torch, one message and status 2 for a mistake, nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


def vidssl(*words, home, timeout=120, **env):
    return subprocess.run(
        [sys.executable, "-m", "vidssl", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "VIDSSL_HOME": str(home), "COLUMNS": "200", **env},
    )


VERBS = [(), ("run",), ("prep",), ("eval",), ("preview",), ("doctor",), ("list",), ("list", "tasks")]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb) or "vidssl")
def test_help_is_there_and_imports_no_torch(verb):
    script = (
        "import sys\n"
        f"sys.argv = ['vidssl', *{verb!r}, '--help']\n"
        "from vidssl.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'numba', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: vidssl" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "--task", "prb"), ["'prb'", "Did you mean 'prp'"]),
        (("run", "--backbone", "shufflnet"), ["Did you mean 'shufflenet'"]),
        (("run", "--data", "ucf110"), ["unknown data set 'ucf110'", "embedded", "vidssl prep folder"]),
        (("run", "--set", "pretrain.epoch=3"), ["Did you mean 'pretrain.epochs'"]),
        (("run", "--set", "pretrain.epochs"), ["section.key=value"]),
        (("run", "--eval", "finetun"), ["Did you mean 'finetune'"]),
        (("run", "--preset", "papr"), ["paper", "small"]),
        (("eval", "nowhere", "--on", "embedded"), ["nowhere", "vidssl list runs"]),
        (("eval", "--on", "embedded"), ["a run or a file of weights", "--weights FILE"]),
        (("eval", "nowhere", "--weights", "x.pth", "--on", "embedded"), ["one of the two"]),
        (("eval", "--weights", "x.pth", "--on", "embedded"), ["--backbone NAME", "vidssl list backbones"]),
        (("eval", "nowhere", "--backbone", "r21d", "--on", "embedded"), ["--weights FILE", "knows its own backbone"]),
        (("eval", "--weights", "x.pth", "--backbone", "r21", "--on", "embedded"), ["Did you mean 'r21d'"]),
        (("eval", "--weights", "/no/x.pth", "--backbone", "shufflenet", "--on", "embedded"), ["weights at /no/x.pth"]),
        (("run", "--init", "/no/x.pth"), ["no file of weights at /no/x.pth"]),
        (("prep", "folder", "--source", "/nowhere/at/all", "--name", "x"), ["/nowhere/at/all"]),
        (("prep", "folder"), ["--source DIR and --name NAME", "Example"]),
        (("prep", "ucf"), ["unknown data set to prepare 'ucf'", "folder"]),
        (("prep", "embedded", "--format", "h265"), ["h265", "h264"]),
        (("preview", "--task", "prb"), ["Did you mean 'prp'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_gives_one_message_and_status_2(tmp_path, words, says):
    done = vidssl(*words, home=tmp_path / "home")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr
    assert not (tmp_path / "home").exists(), "a mistake must not leave anything behind"


def test_debug_shows_the_traceback(tmp_path):
    done = vidssl("--debug", "run", "--task", "prb", home=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_doctor_says_that_it_works(tmp_path):
    done = vidssl("doctor", "--json", home=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["works"]
    assert {part["package"] for part in found["parts"] if part["problem"]} <= {"ffcv", "nvidia-dali-cuda130"}


def test_lists_as_json(tmp_path):
    tasks = json.loads(vidssl("list", "tasks", "--json", home=tmp_path).stdout)
    prp = next(task for task in tasks if task["name"] == "prp")
    assert prp["group"] == "ST"
    assert [level["chance"] for level in prp["levels"]] == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    assert (prp["clips"], prp["frames_needed"], prp["labels"]) == (1, 129, "4 dilations, and 32 frames to rebuild")
    backbones = json.loads(vidssl("list", "backbones", "--json", home=tmp_path).stdout)
    shufflenet = next(b for b in backbones if b["name"] == "shufflenet" and not b["options"])
    assert (shufflenet["parameters"], shufflenet["with_400_classes"]) == (3_606_288, 4_374_688)
    assert shufflenet["gmac"] == pytest.approx(0.513, rel=0.005)
    assert (shufflenet["feature"], shufflenet["last_map"]) == (1920, "1920x1x4x4")
    assert (shufflenet["paper_millions"], shufflenet["paper_counts_with"]) == (4.59, [512])
    assert ("r3d", {"blocks": 2}) in [(row["name"], row["options"]) for row in backbones]
    shown = vidssl("list", "backbones", home=tmp_path, COLUMNS="80").stdout
    assert "33,166,272" in shown
    assert "include linear layers: mobilenet 512 and 101, shufflenet 512, squeezenet 101" in " ".join(shown.split())
    assert json.loads(vidssl("list", "data", "--json", home=tmp_path).stdout) == []
    assert json.loads(vidssl("list", "runs", "--json", home=tmp_path).stdout) == []
