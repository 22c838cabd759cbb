"""The page of runs: what is on it is what was measured, what is not is said, and nothing comes from elsewhere."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from vidssl.data.store import open_store
from vidssl.errors import ConfigError, RunError
from vidssl.evals.predictions import Predictions
from vidssl.report import page as page_module
from vidssl.report.confusion import COUNTED, draw_confusion, draw_per_class, most_confused
from vidssl.report.curves import png
from vidssl.report.report_verb import report_verb
from vidssl.spec import RunSpec, override, to_dict


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures are made and not rendered, which takes most of the time; one test renders them."""
    monkeypatch.setattr(page_module, "png", lambda figure: b"picture of " + type(figure).__name__.encode())


CLASSES = ["<b>left</b>", "right", "still"]
LABELS = [0] * 8 + [1] * 8 + [2] * 8


def answers(wrong: range) -> list[int]:
    return [(label + 1) % 3 if k in wrong else label for k, label in enumerate(LABELS)]


def predictions(wrong: range, classes: list[str] = CLASSES) -> Predictions:
    probabilities = np.full((len(LABELS), 3), 0.1)
    probabilities[np.arange(len(LABELS)), answers(wrong)] = 0.8
    return Predictions([f"v{k:02d}" for k in range(len(LABELS))], np.array(LABELS), probabilities, classes)


def classified(top1: float) -> dict:
    interval = [max(0, top1 - 0.2), min(1, top1 + 0.2)]
    return {"top1": top1, "chance": 1 / 3, "interval": interval, "videos": 24, "classes": 3, "seconds": 12.0}


def folder(path: Path, target: str = "somewhere", wrong: range | None = None, **changes) -> Path:
    """A run's folder, or an evaluation's, with a finished linear probe if `wrong` videos are given."""
    spec = override(RunSpec(), {"task.name": "rotnet", "data.source": "x", "data.target": target, **changes})
    path.mkdir(parents=True)
    (path / "spec.toml").write_text(tomli_w.dumps({**to_dict(spec), "identity": {"request": "0"}}))
    (path / "stages").mkdir()
    if wrong is not None:
        (path / "stages" / "linear.json").write_text(json.dumps(classified(1 - len(wrong) / 24)))
        predictions(wrong).save(path / "predictions" / "linear.npz")
    return path


def pretrained(path: Path) -> Path:
    result = {"metric": "accuracy", "value": 0.875, "chance": 0.25, "interval": [0.8, 0.95], "seconds": 60.0}
    result |= {"clips_per_second": 9.5, "tested_on": "test", "warnings": {"chance": "lr < 0.1 & falling"}}
    (path / "stages" / "pretrain.json").write_text(json.dumps(result))
    line = {"stage": "pretrain", "loss": 1.0, "accuracy": 0.5, "chance": 0.25}
    (path / "log.jsonl").write_text("".join(json.dumps({**line, "step": step}) + "\n" for step in (1, 2)))
    return path


class Parts(HTMLParser):
    """Text by cell of tables, sources of pictures, and every address."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[list[str]] = []
        self.bold: list[str] = []
        self.sources: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(page)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.cells]

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")
        elif tag == "br":
            self.cells[-1][-1] += " "
        self.addresses += [value for key, value in attrs if key in ("src", "href")]
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.cells[-1][-1] += data
            if "strong" in self.open:
                self.bold.append(data)


def page_of(tmp_path: Path, *runs: Path, frames: bool = False) -> str:
    return report_verb([str(run) for run in runs], tmp_path / "out.html", frames).read_text()


def test_one_run_its_numbers_and_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "png", png)
    run = pretrained(folder(tmp_path / "mine", wrong=range(6)))
    page = page_of(tmp_path, run)
    parts = Parts(page)
    assert ["pre-training", "accuracy, test videos", "87.5", "80.0 to 95.0", "25.0", "60", "9.5"] in parts.rows
    assert ["linear probe", "top-1 of 3 classes", "75.0", "55.0 to 95.0", "33.3", "12", ""] in parts.rows
    assert "Not evaluated: fine-tuning, retrieval, robustness to noise, CKA." in page
    assert f"vidssl eval {run} --on somewhere --with finetune,retrieval,robustness,cka" in page
    assert "No number of the paper stands beside these: source x, the paper&#39;s k400" in page
    pictures = re.findall('src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 3  # curves, classes, confusion
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert "Compared on" not in page


def test_nothing_from_elsewhere_and_nothing_unescaped(tmp_path):
    page = page_of(
        tmp_path, pretrained(folder(tmp_path / "a<i>", wrong=range(6))), folder(tmp_path / "b", wrong=range(3))
    )
    parts = Parts(page)
    assert all(address.startswith(("data:image/", "#")) for address in parts.addresses)
    assert not parts.tags & {"script", "i", "b", "link", "iframe"}
    assert "lr &lt; 0.1 &amp; falling" in page
    assert "a&lt;i&gt;" in page


def test_names_of_classes_are_text(tmp_path):
    """More classes than stand in the matrix are listed on the page by name, those taken for one another."""
    run, count = folder(tmp_path / "a", wrong=range(6)), COUNTED + 1
    labels = np.arange(count)
    probabilities = np.eye(count)[(labels + 1) % count]
    Predictions([f"v{k:02d}" for k in labels], labels, probabilities, [f"<b>class {k}</b>" for k in labels]).save(
        run / "predictions" / "linear.npz"
    )
    page = page_of(tmp_path, run)
    assert "&lt;b&gt;class 3&lt;/b&gt;" in page
    assert "b" not in Parts(page).tags


def test_dollars_in_names_are_no_formula(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "png", png)
    run = pretrained(folder(tmp_path / "a$_$b", "$^$", range(6)))
    predictions(range(6), ["$left$", "right $\\$", "$_$"]).save(run / "predictions" / "linear.npz")
    assert page_of(tmp_path, run).count("data:image/png") == 3


def test_the_papers_number_stands_beside_its_protocol_alone(tmp_path):
    same = {"data.source": "k400", "data.subset": "50k"}
    run = folder(tmp_path / "same", "ucf101", range(6), **same)
    (run / "stages" / "finetune.json").write_text(json.dumps(classified(0.5)))
    table_1 = json.loads((Path(report_verb.__code__.co_filename).parent / "paper_tables.json").read_text())["records"]
    theirs = next(r["value"] for r in table_1 if (r["table"], r["row"], r["column"]) == (1, "Shuffle", "Rot"))
    page = page_of(tmp_path, run)
    row = next(row for row in Parts(page).rows if row[0] == "fine-tuning")
    assert row[5:7] == [f"{theirs:.1f}", f"{50 - theirs:+.1f}"]
    assert "Paper: table 1, Shuffle / Rot of arXiv 2306.06010" in page
    other = folder(tmp_path / "other", "ucf101", range(6), **same, **{"data.size": 64})
    assert "size 64, the paper&#39;s 112" in page_of(tmp_path, other)


def test_runs_on_the_same_videos_are_compared(tmp_path):
    """Wrong are of A the videos 0 to 5, of B 4 to 15, of C 0 to 6."""
    a, b, c = (
        folder(tmp_path / name, wrong=wrong)
        for name, wrong in zip("abc", (range(6), range(4, 16), range(7)), strict=True)
    )
    parts = Parts(page_of(tmp_path, a, b, c))
    pair = next(row for row in parts.rows if row[:3] == ["linear probe", "a", "b"])
    # both right: 16 to 23; only A: 6 to 15; only B: 0 to 3; none: 4 and 5
    assert pair[3] == "+25.0"
    assert pair[5:9] == ["8", "10", "4", "2"]
    assert pair[9] == f"{2 * sum([1, 14, 91, 364, 1001]) / 2**14:.3f}"
    assert next(row for row in parts.rows if row[:3] == ["linear probe", "a", "c"])[5:9] == ["17", "1", "0", "6"]
    assert not parts.bold  # a is first, but not clearly before c, and b's interval holds 0
    better = Parts(page_of(tmp_path, folder(tmp_path / "d", wrong=range(0)), a, b))
    assert better.bold[0] == "100.0"
    assert [row[:2] for row in better.rows if row[0] == "d"] == [["d", "not evaluated"]]


def test_several_seeds_and_other_ks_are_said_and_not_bold(tmp_path):
    a, b = folder(tmp_path / "a", wrong=range(0)), folder(tmp_path / "b", wrong=range(20))
    (a / "stages" / "linear.json").write_text(json.dumps(classified(0.9) | {"seeds": [1.0, 0.8]}))
    hits = {"top5": 0.5, "chance": {"top5": 0.25}, "interval": [0.2, 0.8], "gallery": 8, "queries": 4, "seconds": 0.1}
    (b / "stages" / "retrieval.json").write_text(json.dumps(hits))
    parts = Parts(page_of(tmp_path, a, b))
    assert ["a", "not evaluated", "90.0 70.0 to 100.0 mean of 2 seeds", "not evaluated", "not evaluated"] in parts.rows
    assert ["b", "not evaluated", "16.7 0.0 to 36.7", "50.0 20.0 to 80.0 top-5", "not evaluated"] in parts.rows
    assert ["chance", "", "33.3", "25.0", ""] in parts.rows
    assert "top-1 of 3 classes, mean of seeds: 100.0, 80.0" in [row[1] for row in parts.rows if len(row) > 1]
    assert parts.bold == ["+83.3"]  # the pair alone, of the first seeds


def test_what_cannot_be_compared_is_said(tmp_path):
    a, b = folder(tmp_path / "a", wrong=range(3)), folder(tmp_path / "b", wrong=range(12), **{"eval.clips": 3})
    (b / "predictions" / "linear.npz").unlink()
    page = page_of(tmp_path, a, b)
    assert "<li>linear probe, b: predictions were not kept" in page
    assert not Parts(page).bold
    assert re.search(r"Not evaluated alike:\s+eval.clips is 10 or 3\.", page)
    predictions(range(12), ["x", "right", "still"]).save(b / "predictions" / "linear.npz")
    assert "<li>linear probe, a and b: the two runs know different classes" in page_of(tmp_path, a, b)


def test_evaluations_on_other_data_are_found(tmp_path):
    run = pretrained(folder(tmp_path / "mine", wrong=range(6)))
    folder(run / "evals" / "there", "there", range(3))
    folder(run / "evals" / "again", "somewhere", range(2))
    page = page_of(tmp_path, run)
    assert "mine on there" in page
    assert "Compared on somewhere" in page
    assert ["linear probe", "mine", "mine, evals/again"] in [row[:3] for row in Parts(page).rows]
    alone = page_of(tmp_path, run / "evals" / "there")
    assert "mine/evals/there on there" in alone
    assert "accuracy, test videos" in alone  # the pre-training is the run's
    assert "mine on somewhere" not in alone


def test_weights_without_a_run_and_unfinished_runs(tmp_path):
    weights = tmp_path / "weights-r3d-0a1b"
    there = folder(weights / "evals" / "there", "there", range(6), **{"task.name": "none", "data.source": "none"})
    facts = {"path": "/secret/place/public.pt", "format": "torchvision", "sha256": "0a1b2c"}
    (there / "summary.json").write_text(
        json.dumps({"weights": facts, "pretrain": None, "backbone_parameters": 1234567})
    )
    page = page_of(tmp_path, weights)
    assert "public.pt, format torchvision, sha256 0a1b2c" in page
    assert "/secret/place" not in page
    assert "1,234,567 parameters" in page
    assert "Nothing was pre-trained here." in page
    assert "vidssl eval --weights FILE --backbone shufflenet --on there --with finetune,retrieval" in page
    assert "The pre-training is not finished" in page_of(tmp_path, folder(tmp_path / "begun"))


def test_robustness_and_cka_are_shown(tmp_path):
    run = folder(tmp_path / "mine", wrong=range(6))
    entry = {"top1": 0.45, "interval": [0.3, 0.6], "relative_drop": 0.4}
    robust = {
        "table": "video", "resolution": [128, 171], "network_size": 112, "resolution_note": "noise < resize",
        "videos": 24, "clips": 10, "classes": 3, "chance": 1 / 3, "seconds": 5.0,
        "clean": {"top1": 0.75, "interval": [0.6, 0.9]},
        "noises": {"shot": {"1": entry}}, "relative_drop": {"1": 0.4, "mean": 0.4},
    }  # fmt: skip
    (run / "stages" / "robustness.json").write_text(json.dumps(robust))
    block = {"first": 1, "last": 2, "share": 0.5, "mean": 0.3, "threshold": 0.9, "from": "<stem>", "to": "stage2"}
    maps = {
        "pre-trained / pre-trained": {"layers": [4, 4], "mean": 0.625, "block": block, "videos": 24, "dropped": 0},
        "pre-trained / fine-tuned": {"layers": [4, 4], "mean": None, "block": None, "videos": 24, "dropped": 0},
    }
    cka = {"modules": "blocks", "batch": 8, "maps": maps, "seconds": 3.0}
    (run / "stages" / "cka.json").write_text(json.dumps(cka))
    other = {"pre-trained / other": {**maps["pre-trained / fine-tuned"], "layers": [4, 7]}}
    (run / "stages" / "cka-other.json").write_text(json.dumps(cka | {"maps": other}))
    (run / "cka_self.png").write_bytes(b"picture")
    page = page_of(tmp_path, run)
    rows = Parts(page).rows
    assert ["", "relative drop, mean of 1 noises (lower is better)", "40.0", "", "", "", ""] in rows
    assert ["shot", "45.0 (40.0)"] in rows
    assert "noise &lt; resize" in page
    pretrained_map = ["4 x 4", "0.300", "50.0 % of the layers, <stem> to stage2, CKA from 0.9 on", "24", "0"]
    assert ["pre-trained / pre-trained", *pretrained_map] in rows
    assert ["pre-trained / fine-tuned", "4 x 4", "", "", "24", "0"] in rows
    assert ["pre-trained / other", "4 x 7", "", "", "24", "0"] in rows
    assert "data:image/png;base64,cGljdHVyZQ==" in page
    assert "made without frames" in page


def test_retrieval_examples_come_from_the_store(tmp_path, tiny_store):
    store = open_store(tiny_store)
    run = folder(tmp_path / "mine", str(tiny_store), None)
    hits = {"top1": 0.5, "chance": {"top1": 0.25}, "interval": [0.2, 0.8], "gallery": 8, "queries": 4, "seconds": 0.1}
    (run / "stages" / "retrieval.json").write_text(json.dumps(hits))
    assert "No examples: nearest neighbours were not kept" in page_of(tmp_path, run, frames=True)
    np.savez(
        run / "neighbours.npz",
        queries=store.ids[:4],
        gallery=store.ids[4:],
        query_labels=store.labels[:4],
        gallery_labels=store.labels[4:],
        nearest=np.tile(np.arange(8), (4, 1)),
        similarity=np.zeros((4, 8), np.float32),
    )
    assert "data:image/jpeg" in page_of(tmp_path, run, frames=True)
    assert "data:image/jpeg" not in page_of(tmp_path, run)


def test_mistakes(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path / "home"))
    run = folder(tmp_path / "home" / "runs" / "named", wrong=range(6))
    with pytest.raises(RunError, match=r"unknown run 'name'\. Did you mean 'named'"):
        page_of(tmp_path, Path("name"))
    with pytest.raises(RunError, match="is named twice"):
        page_of(tmp_path, run, Path("named"))
    mine = tmp_path / "mine.html"
    mine.write_text("my notes")
    with pytest.raises(ConfigError, match="is no report of vidssl"):
        report_verb(["named"], mine, False)
    assert mine.read_text() == "my notes"
    with pytest.raises(ConfigError, match="is a folder"):
        report_verb(["named"], tmp_path, False)
    assert report_verb(["named"], None, False) == run / "report.html"
    assert report_verb(["named"], None, False) == run / "report.html"  # its own page may be made anew
    (run / "stages" / "linear.json").write_text("{")
    with pytest.raises(RunError, match=r"linear\.json cannot be read"):
        page_of(tmp_path, run)


def test_confusion_by_hand():
    found = predictions(range(6))  # six of eight "left" taken for "right"
    axes = draw_confusion(found, "title").axes[0]
    assert axes.images[0].get_array().tolist() == [[0.25, 0.75, 0], [0, 1, 0], [0, 0, 1]]
    assert [text.get_text() for text in axes.texts] == ["2", "6", "8", "8"]
    assert [label.get_text() for label in axes.get_yticklabels()] == CLASSES
    assert most_confused(found) == [("<b>left</b>", "right", 6, 8)]
    bars = draw_per_class(found, 1 / 3, "title").axes[0]
    assert [bar.get_width() for bar in bars.patches] == [100, 100, 25]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["right (8)", "still (8)", "<b>left</b> (8)"]


def test_many_classes_and_classes_without_videos():
    count = 50
    labels = np.arange(1, count)  # class 0 has no test video
    probabilities = np.zeros((count - 1, count))
    probabilities[np.arange(count - 1), np.where(labels < 5, 0, labels)] = 1
    found = Predictions([f"v{k}" for k in labels], labels, probabilities, [f"class {k}" for k in range(count)])
    matrix = draw_confusion(found, "title").axes[0].images[0].get_array()
    assert matrix.mask[0].all()
    assert not matrix.mask[1:].any()
    bars = draw_per_class(found, 0.02, "title").axes[0]
    names = [label.get_text() for label in bars.get_yticklabels()]
    assert len(names) == 41
    assert names[20] == "(9 classes between)"
    assert names[-4:] == ["class 1 (1)", "class 2 (1)", "class 3 (1)", "class 4 (1)"]
