"""Exported files compute what the network computes, at any batch size; one that does not is never left behind."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vidssl import create_backbone, load_weights
from vidssl import export as exporting
from vidssl.engine.progress import Reporter
from vidssl.errors import ConfigError, EnvironmentProblem, RunError
from vidssl.evals.classify import Classify
from vidssl.export import SUFFIXES, export
from vidssl.tasks.base import ClipSpec

from .finished import CLASSES, digest, make_finetuned, make_run, small_net, write_summary  # noqa: F401

QUIET = Reporter(quiet=True)
SCORES = {"top1": 0.5, "chance": 1 / 3, "interval": [0.4, 0.6], "videos": 40, "classes": 3}
PAPER = ("shufflenet", "squeezenet", "mobilenet", "c3d", "r3d", "r21d", "videoswin")
QUICK = (("squeezenet", "onnx"), ("r21d", "torch-export"))


@pytest.fixture
def run(tmp_path, small_net):  # noqa: F811
    make_run(tmp_path / "run")
    return tmp_path / "run"


def runner(file, extra=None):
    """The file as whoever has no vidssl runs it: clip -> output."""
    if file.suffix == ".pt2":
        return torch.export.load(file, extra_files=extra).module()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    if extra is not None:
        extra["vidssl.json"] = session.get_modelmeta().custom_metadata_map["vidssl"]
    return lambda x: torch.from_numpy(session.run(None, {"clip": x.numpy()})[0])


def by_hand(run, x_BCTHW):
    """Pixels scaled as ImageNet's are, the layers in turn, the mean of the map."""
    state = load_file(run / "model.safetensors")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x_BCTHW - mean.view(1, 3, 1, 1, 1)) / std.view(1, 3, 1, 1, 1)
    x = torch.conv3d(x, state["layers.0.weight"], state["layers.0.bias"], stride=(1, 2, 2), padding=1)
    x = (x - state["layers.1.running_mean"].view(1, -1, 1, 1, 1)) / torch.sqrt(
        state["layers.1.running_var"].view(1, -1, 1, 1, 1) + 1e-5
    )
    return torch.nn.functional.max_pool3d(x.relu(), 2).mean((2, 3, 4))


@pytest.mark.parametrize("format", ["torch-export", "onnx"])
def test_a_program_scales_pixels_itself_and_takes_any_batch(run, tmp_path, format):
    out = tmp_path / f"net{SUFFIXES[format]}"
    made = export(run, format, out, None, QUIET)
    network = runner(out)
    for count in (1, 2, 5):
        x_BCTHW = torch.rand(count, 3, 4, 16, 16)
        torch.testing.assert_close(network(x_BCTHW), by_hand(run, x_BCTHW), rtol=1e-4, atol=1e-5)
    assert made.difference <= 1e-5
    assert made.sha256 == digest(out)
    assert f"`{made.sha256}`" in (tmp_path / f"{out.name}.md").read_text()
    assert {file.name for file in tmp_path.iterdir()} == {"run", out.name, f"{out.name}.md"}


def test_safetensors_load_with_their_scaling(run, tmp_path):
    out = tmp_path / "deep" / "net.safetensors"
    made = export(run, "safetensors", out, None, QUIET)
    backbone = create_backbone("small-test-net").eval()
    assert load_weights(backbone, out).input == "imagenet"
    x_BCTHW = torch.rand(2, 3, 4, 16, 16)
    torch.testing.assert_close(backbone.pooled(x_BCTHW), by_hand(run, x_BCTHW), rtol=1e-4, atol=1e-5)
    assert made.difference == 0
    assert made.reader == "vidssl.load_weights"


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_classifier_with_the_names_of_its_classes(run, tmp_path, format):
    spec = make_run(tmp_path / "same")
    task = make_finetuned(run / "evals" / "mine", spec)
    out = tmp_path / f"net{SUFFIXES[format]}"
    assert export(run, format, out, "mine", QUIET).classes == CLASSES
    x_BCTHW = torch.rand(4, 3, 4, 16, 16)
    if format == "safetensors":
        again = Classify(create_backbone("small-test-net"), ClipSpec(4, 16), Classify.Args(3)).eval()
        assert load_weights(again, out).classifier
        got = again.logits(x_BCTHW)
        with safe_open(out, "pt") as file:
            classes = json.loads(file.metadata()["classes"])
    else:
        extra = {"vidssl.json": ""}
        got = runner(out, extra)(x_BCTHW)
        classes = json.loads(extra["vidssl.json"])["classes"]
    torch.testing.assert_close(got, task.logits(x_BCTHW), rtol=1e-4, atol=1e-5)
    assert classes == CLASSES


def test_a_classifier_of_another_run_or_of_none(run, tmp_path):
    with pytest.raises(RunError, match="This run has: none"):
        export(run, "onnx", tmp_path / "net.onnx", "nowhere", QUIET)
    spec = make_run(tmp_path / "other")
    for number, asked in enumerate(({"run": "other"}, {"run": "run", "weights": "0a" * 32}, {}, {"run": "run"})):
        spec = replace(spec, seed=number)  # the last is of a namesake with another seed
        elsewhere = tmp_path / f"elsewhere{number}"
        make_finetuned(elsewhere, spec, on="mine", **asked)
        with pytest.raises(RunError, match=r"is no evaluation of the run .*, another network"):
            export(run, "onnx", tmp_path / "net.onnx", str(elsewhere), QUIET)


@pytest.mark.parametrize("older", [False, True])
def test_an_evaluation_with_another_seed_is_of_the_run(run, tmp_path, older):
    asked = {"run": "run", "seed": 7, "finetune.epochs": 3} | (
        {} if older else {"weights": digest(run / "model.safetensors")}
    )
    make_finetuned(tmp_path / "out", make_run(tmp_path / "same", seed=7, finetune__epochs=3), on="mine", **asked)
    export(run, "safetensors", tmp_path / "net.safetensors", str(tmp_path / "out"), QUIET)
    card = (tmp_path / "net.safetensors.md").read_text()
    assert "this one pre-training (seed 0)" in card
    assert "No row is of this file" in card


def test_evaluations_by_the_name_of_their_data(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = make_run(tmp_path / "same", data__target="ucf101:2")
    place = run / "evals" / "ucf101_split2"
    make_finetuned(place, spec, run="run", on="ucf101:2")
    write_summary(place, spec, {}, {"finetune": SCORES})
    export(run, "safetensors", tmp_path / "a.safetensors", "ucf101:2", QUIET)
    assert (
        "| `evals/ucf101_split2` | `ucf101:2` | finetune (this file) |" in (tmp_path / "a.safetensors.md").read_text()
    )
    make_finetuned(run, make_run(tmp_path / "again"))  # its own target
    for number, name in enumerate(("mine", "mine:1")):
        export(run, "safetensors", tmp_path / f"{number}.safetensors", name, QUIET)
    make_finetuned(run / "evals" / "mine", spec, run="run", on="mine")
    with pytest.raises(RunError, match="may be any of"):
        export(run, "safetensors", tmp_path / "c.safetensors", "mine", QUIET)


def test_the_card_has_the_numbers_of_the_exported_network(run, tmp_path):
    """Not those of the run's own fine-tuning, nor those of another evaluation on the same data."""
    spec = make_run(tmp_path / "same", eval__seeds=2)
    pretrain = json.loads((run / "summary.json").read_text())["pretrain"]
    write_summary(run, spec, pretrain, {"finetune": {**SCORES, "top1": 0.111}})
    of_seeds = {**SCORES, "interval_of": "the mean of 2 seeds"}
    make_finetuned(tmp_path / "out", spec, run="run", on="mine")
    write_summary(tmp_path / "out", spec, pretrain, {"finetune": of_seeds, "linear": {**SCORES, "top1": 0.333}})
    export(run, "safetensors", tmp_path / "net.safetensors", str(tmp_path / "out"), QUIET)
    rows = [line for line in (tmp_path / "net.safetensors.md").read_text().splitlines() if "top-1 of 3" in line]
    assert rows == [
        "| `run` | `mine` | finetune | top-1 of 3 classes | 11.1 | 40.0 to 60.0 | 33.3 | 40 |",
        "| `out` | `mine` | finetune (this file) | top-1 of 3 classes | 50.0 | 40.0 to 60.0 (of the mean of 2 seeds) "
        "| 33.3 | 40 |",
        "| `out` | `mine` | linear | top-1 of 3 classes | 33.3 | 40.0 to 60.0 | 33.3 | 40 |",
    ]


@pytest.mark.parametrize("wrong", [lambda y: y + 1e-3 * y.abs().max(), lambda y: y * float("nan")])
def test_a_file_that_computes_something_else_is_not_left(run, tmp_path, monkeypatch, wrong):
    write, reopen = exporting._WAYS["torch-export"]

    def spoilt(*arguments):
        network, reader = reopen(*arguments)
        return lambda x: wrong(network(x)), reader

    monkeypatch.setitem(exporting._WAYS, "torch-export", (write, spoilt))
    with pytest.raises(RunError, match="Nothing was written"):
        export(run, "torch-export", tmp_path / "net.pt2", None, QUIET)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_what_is_there_is_left_as_it_is(run, tmp_path):
    for name in ("net.pt2", "net.pt2.md"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(RunError, match="is there already"):
            export(run, "torch-export", tmp_path / "net.pt2", None, QUIET)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_mistakes(run, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'torch-export'"):
        export(run, "torchexport", tmp_path / "net.pt2", None, QUIET)
    with pytest.raises(ConfigError, match=r"ends with '\.onnx'"):
        export(run, "onnx", tmp_path / "net.pt2", None, QUIET)
    with pytest.raises(RunError, match="vidssl list runs"):
        export(tmp_path / "nowhere", "onnx", tmp_path / "net.onnx", None, QUIET)
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        export(run, "torch-export", tmp_path / "net.pt2", None, QUIET)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_without_the_packages_of_onnx(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'vidssl\[export\]'"):
        export(run, "onnx", tmp_path / "net.onnx", None, QUIET)


def test_without_a_runtime_the_reference_of_onnx_checks(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    made = export(run, "onnx", tmp_path / "net.onnx", None, QUIET)
    assert made.reader == f"onnx {onnx.__version__}"
    assert made.difference <= 1e-5


@pytest.mark.parametrize(
    ("name", "format"),
    [
        pytest.param(name, format, marks=() if (name, format) in QUICK else pytest.mark.slow)
        for name in PAPER
        for format in ("torch-export", "onnx")
    ],
)
def test_the_benchmarks_networks(tmp_path, name, format):
    make_run(tmp_path / "run", backbone=name, frames=8, size=32)
    made = export(tmp_path / "run", format, tmp_path / f"net{SUFFIXES[format]}", None, QUIET)
    assert made.difference <= 1e-5 * made.largest
