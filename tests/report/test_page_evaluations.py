"""On the page of runs: official splits, and the commands for what is missing."""

from __future__ import annotations

import html
import json
import re
import shlex
import tomllib
from pathlib import Path

import tomli_w

from vidssl.spec import parse_override

from .test_page import Parts, folder, page_of, pretrained, undrawn  # noqa: F401


def test_the_mean_over_official_splits(tmp_path):
    def splits(file, folders):
        result = {"top1": 0.4, "chance": 0.1, "splits": {"1": 0.3, "2": 0.5}, "seconds": 2.0}
        hits = {"top1": 0.25, "chance": {"top1": 0.05}, "splits": {"1": 0.2, "2": 0.3}, "seconds": 2.0}
        robust = {"clean": {"top1": 0.45}, "noises": {"shot": {}}, "relative_drop": {"mean": 0.6}, "chance": 0.1}
        evals = {"linear": result, "retrieval": hits, "robustness": {**robust, "splits": {"1": 0.35, "2": 0.55}}}
        spec = {"data": {"target": "ucf101:all"}}
        file.write_text(json.dumps({"spec": spec, "evals": evals, "splits": folders}))

    def check(page, name):
        assert f"{name}: mean over the official splits of ucf101" in page
        rows = Parts(page).rows
        assert ["stage", "measure", "mean, %", "chance", "split 1", "split 2"] in rows
        assert ["linear probe", "top-1", "40.0", "10.0", "30.0", "50.0"] in rows
        assert ["retrieval", "top-1", "25.0", "5.0", "20.0", "30.0"] in rows
        assert ["robustness to noise", "clean top-1, same videos", "45.0", "10.0", "35.0", "55.0"] in rows
        assert ["", "relative drop, mean of 1 noises (lower is better)", "60.0", "", "", ""] in rows

    run, out = pretrained(folder(tmp_path / "mine", "ucf101:1", range(6))), tmp_path / "out"
    folder(run / "evals" / "ucf101_split2", "ucf101:2", range(3))
    splits(run / "evals" / "ucf101_splits.json", {"1": str(run), "2": str(run / "evals" / "ucf101_split2")})
    check(page_of(tmp_path, run), "mine")
    assert "mean over" not in page_of(tmp_path, run / "evals" / "ucf101_split2")
    for split in ("1", "2"):
        folder(out / f"split{split}", f"ucf101:{split}", range(6))
    splits(out / "ucf101_splits.json", {"1": "moved", "2": "moved"})
    page = page_of(tmp_path, out)
    check(page, "out")
    assert "out on ucf101:2" in page


def test_the_first_official_split_is_the_data_set(tmp_path):
    a, b = folder(tmp_path / "a", "ucf101", range(6)), folder(tmp_path / "b", "ucf101:1", range(3))
    other = folder(tmp_path / "c", "ucf101:2", range(3))
    page = page_of(tmp_path, a, b, other)
    assert "Compared on ucf101<" in page
    assert [row[:3] for row in Parts(page).rows if row[:1] == ["linear probe"] and row[1] == "a"] == [
        ["linear probe", "a", "b"]
    ]


def request(path: Path, **requested) -> Path:
    content = tomllib.loads((path / "spec.toml").read_text())
    content["identity"]["requested"] = json.dumps(requested)
    (path / "spec.toml").write_text(tomli_w.dumps(content))
    return path


def test_the_command_for_what_is_missing_is_that_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path / "home"))
    run = pretrained(folder(tmp_path / "home" / "runs" / "mine", wrong=range(6)))
    changes = {"eval.ks": [1, 5], "eval.average": "logits", "finetune.epochs": 3}
    asked = {"run": "mine", "weights": "ab", "on": "a b:2", **changes}
    request(folder(run / "evals" / "a b_split2", "a b:2", range(3)), **asked)
    out = request(folder(tmp_path / "else where", "a b:2", range(3)), **asked)
    weights = {"task.name": "none", "data.source": "none"}
    public = request(folder(tmp_path / "public", "there", range(3), **weights), weights="ab", on="there")

    def commands(path):
        return [
            shlex.split(html.unescape(text))
            for text in re.findall("<code>(vidssl .*?)</code>", page_of(tmp_path, path))
        ]

    own, beside = commands(run)
    rest = ["--with", "finetune,retrieval,robustness,cka"]
    assert own == ["vidssl", "eval", "mine", "--on", "somewhere", *rest]
    assert beside[:7] == ["vidssl", "eval", "mine", "--on", "a b:2", *rest]
    assert beside[7::2] == ["--set"] * 3
    assert dict(parse_override(text) for text in beside[8::2]) == changes
    assert commands(out) == [[*beside, "--out", str(out)]]
    what = ["--weights", "FILE", "--backbone", "shufflenet", "--on", "there"]
    assert commands(public) == [["vidssl", "eval", *what, *rest, "--out", str(public)]]
