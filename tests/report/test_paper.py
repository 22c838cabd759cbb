"""The paper's number stands beside ours where the protocol is the paper's, and only there."""

from __future__ import annotations

import pytest

from vidssl.presets import small_preset
from vidssl.report.listing import backbone_rows
from vidssl.report.paper import ARCHITECTURES, cell, published, tables
from vidssl.spec import RunSpec, override

PROTOCOL = {"data.source": "k400", "data.subset": "50k", "data.target": "ucf101"}


def test_all_published_cells_are_there():
    assert len(tables()) == 127
    assert cell(1, "R21D", "RSP") == 78.0
    assert cell(1, "Shuffle", "V-MAE") is None
    assert cell(2, "10k", "Rot") == 37.6


def test_the_papers_protocol_gets_the_papers_number():
    value, where = published(override(RunSpec(), PROTOCOL))
    assert value == 21.9
    assert where == "table 1, Shuffle / PRP"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("data.source", "embedded", "source embedded, the paper's k400"),
        ("data.subset", "30k", "subset 30k"),
        ("data.size", 64, "size 64, the paper's 112"),
        ("pretrain.epochs", 50, "pre-training epochs 50, the paper's 200"),
        ("finetune.epochs", 10, "fine-tuning epochs 10"),
        ("eval.stride", 2, "eval.stride 2, the paper's 1"),
        ("eval.crop", "random", "eval.crop random, the paper's centre"),
        ("eval.flip", 0.5, "eval.flip 0.5, the paper's 0.0"),
        ("eval.average", "logits", "eval.average logits, the paper's softmax"),
        ("task.recipe", "original", "task.recipe original, the paper's paper"),
        ("task.complexity", 1, "task.complexity 1, the paper's 3"),
        ("backbone.name", "mobilenet", "no cell for prp on mobilenet"),
        ("backbone.width", 0.5, "backbone.width 0.5, the paper's network has 2.0"),
    ],
)
def test_any_other_gets_none_and_says_what_differs(key, value, says):
    number, why = published(override(RunSpec(), {**PROTOCOL, key: value}))
    assert number is None
    assert says in why


def test_the_small_preset_is_never_the_papers_protocol():
    spec = override(RunSpec(), {**PROTOCOL, **small_preset("prp", 50_000, 9537)})
    assert published(spec)[0] is None


def test_the_small_preset_sees_as_many_clips_whatever_the_data():
    for videos in (190, 480, 50_000):
        epochs = small_preset("prp", videos, videos)["pretrain.epochs"]
        assert epochs == 1 or 4300 < epochs * videos < 5300


def test_with_their_linear_layers_our_networks_have_the_papers_counts_and_cost():
    for row in backbone_rows():
        if row["name"] in ARCHITECTURES and not row["options"]:
            millions, gflops, head = ARCHITECTURES[row["name"]]
            assert row["paper_millions"] == row["ours_millions"] == millions
            assert row["paper_counts_with"] == list(head)
            # the paper's cost is two a multiply-add, and a little more than convolutions
            assert 2 * row["gmac"] == pytest.approx(gflops, rel=0.08)
