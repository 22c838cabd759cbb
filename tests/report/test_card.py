"""The model card says what the run's files say, no more, and its code runs as it stands."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tests.finished import CLASSES, make_finetuned, make_run, small_net, write_summary  # noqa: F401
from vidssl.engine.progress import Reporter
from vidssl.errors import RunError
from vidssl.export import SUFFIXES, export
from vidssl.report.card import Artifact, card

QUIET = Reporter(quiet=True)
LOST = "lost to noise, of the accuracy (video table, mean; less is better)"
FILE = Artifact("net.onnx", "onnx", "ab" * 32, 12_345_678, 12, None, 1.5e-6, 2.5, 1e-4, (1, 3), "onnxruntime 1.2")


@pytest.fixture
def run(tmp_path, small_net):  # noqa: F811
    return tmp_path / "run"


def tables(text):
    """Every table of the card as Markdown readers see it, a list of rows of cells."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 4:
            found[-1][-1].append("".join(child.content for child in token.children))
    return found


def change_summary(run, **entries):
    file = run / "summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def test_the_head_is_what_the_hub_reads(run):
    spec = make_run(run)
    data = ModelCard(card(run, FILE, spec)).data
    assert data.library_name == "vidssl"
    assert data.pipeline_tag == "video-classification"
    assert data.license == "unknown"
    assert {"video", "self-supervised-learning", "rotnet", "small-test-net", "onnx"} == set(data.tags)


def test_every_number_with_its_interval_and_chance(run):
    spec = make_run(run)
    other = make_run(run / "evals" / "other", data__target="this|that")
    scores = {"top1": 0.5, "chance": 0.2, "interval": [0.41, 0.59], "videos": 40, "classes": 5}
    robust = {"table": "video", "relative_drop": {"mean": 0.123}, "videos": 40}
    pretrain = json.loads((run / "summary.json").read_text())["pretrain"]
    write_summary(run / "evals" / "other", other, pretrain, {"finetune": scores, "robustness": robust, "cka": {}})
    facts, numbers = tables(card(run, FILE, spec))
    assert numbers == [
        ["folder", "data", "stage", "measure", "%", "95 % interval", "chance", "videos"],
        ["run", "mine", "pretext task", "accuracy (test clips)", "43.2", "40.0 to 46.0", "25.0", "77"],
        ["run", "mine", "linear", "top-1 of 3 classes", "67.9", "60.1 to 74.2", "33.3", "96"],
        ["run", "mine", "retrieval", "top-1, gallery of 480", "25.0", "20.0 to 31.0", "10.0", "96"],
        ["run", "mine", "retrieval", "top-5, gallery of 480", "50.0", "", "30.0", "96"],
        ["evals/other", "this|that", "finetune", "top-1 of 5 classes", "50.0", "41.0 to 59.0", "20.0", "40"],
        ["evals/other", "this|that", "robustness", LOST, "12.3", "", "", "40"],
    ]
    shown = dict(row for row in facts if row[0])
    assert shown["parameters"] == "1,012"
    assert shown["input"].startswith("float32 [B, 3, 4, 16, 16]")
    assert shown["output"] == "float32 [B, 12]: the mean of the last map"
    assert shown["file"] == "net.onnx, onnx, 12.3 MB"
    assert "at most 1.5e-06, of outputs up to 2.5 (allowed: 0.0001 of that)" in shown["checked"]


def test_no_folder_of_the_machine_and_no_licence_made_up(run):
    spec = make_run(
        run,
        data__source="/home/somebody/videos/cats",
        data__target="/home/somebody/dogs",
        init__weights="/home/x/r21d.pth",
    )
    weights = {"path": "/home/x/r21d.pth", "format": "rspnet", "matched": 99, "sha256": "cd" * 32}
    change_summary(run, weights=weights)
    text = card(run, FILE, spec)
    assert "/home" not in text
    assert "Pre-trained on `cats` (subset `all`, 1,234 training videos, contents `aaaabbbbccccdddd`)" in text
    assert "Under which licence they were given is not stated here" in text
    assert f"the file `r21d.pth` (format rspnet, 99 tensors, sha256 `{'cd' * 32}`)" in text
    assert "did not begin from nothing" in text
    settings = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])
    assert settings["init"]["weights"] == "r21d.pth"
    assert settings["data"]["source"] == "cats"
    assert settings["pretrain"]["epochs"] == 200


@pytest.mark.parametrize(
    ("source", "says"),
    [("k400", "are for research unless"), ("embedded", "no footage"), ("mine", "is not stated here")],
)
def test_what_is_known_of_the_data(run, source, says):
    text = card(run, FILE, make_run(run, data__source=source))
    assert says in text
    assert ("are for research" in text) == (source == "k400")
    assert ("belong to their owners" in text) == (source != "embedded")
    assert "did not begin from nothing" not in text


@pytest.mark.parametrize(
    ("source", "target", "footage", "research"),
    [
        ("embedded", "ucf101:2", [False, True], [False, True]),
        ("k400", "embedded-motion", [True, False], [True, False]),
        ("ucf101", "ucf101:2", [True], [True]),
        ("mine", "hmdb51", [True, True], [False, True]),
    ],
)
def test_what_is_known_of_each_data_set(run, source, target, footage, research):
    spec = make_run(run, data__source=source, data__target=target)
    text = card(run, replace(FILE, classes=CLASSES), spec)
    part = text.partition("## Data and licences")[2].partition("- Licence of these")[0]
    seen = re.split("^- ", part, flags=re.M)[1:]
    assert [f"on `{name}`" in text for name, text in zip((source, target), seen, strict=False)] == [True] * len(footage)
    assert ["belong to their owners" in text for text in seen] == footage
    assert ["there is no footage" in text for text in seen] == [not there for there in footage]
    assert ["are for research" in text for text in seen] == research


def test_what_to_beware_of(run):
    spec = make_run(run, preset="small")
    pretrain = json.loads((run / "summary.json").read_text())["pretrain"]
    change_summary(run, pretrain={**pretrain, "warnings": {"chance": "pretrain is not above chance (0.2)."}})
    text = card(run, FILE, spec)
    assert "`small` preset was used" in text
    assert "vidssl warned: pretrain is not above chance (0.2)." in text
    assert "was used" not in card(run, FILE, make_run(run.with_name("paper")))


def test_a_run_without_numbers(run):
    spec = make_run(run)
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match="goes on where it stopped"):
        card(run, FILE, spec)


@pytest.mark.parametrize("classifier", [False, True], ids=["backbone", "classifier"])
@pytest.mark.parametrize("format", SUFFIXES)
def test_the_code_runs_as_it_stands(run, tmp_path, monkeypatch, capsys, format, classifier):
    spec = make_run(run)
    if classifier:
        make_finetuned(run / "evals" / "mine", spec)
    out = tmp_path / f"net{SUFFIXES[format]}"
    export(run, format, out, "mine" if classifier else None, QUIET)
    text = out.with_name(f"{out.name}.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert tuple(names["logits" if classifier else "feature"].shape) == (1, 3 if classifier else 12)
    assert not classifier or capsys.readouterr().out.strip() in CLASSES
    assert f"# [1, {3 if classifier else 12}]" in code
    if classifier:
        listed = [token.content for token in MarkdownIt("commonmark").parse(text) if token.type == "inline"][-3:]
        assert listed == ["`left`", "`right | or 'so'`", "`still`"]
    assert torch.__version__ in text
