"""The picture of a training: what is drawn is what was logged."""

from __future__ import annotations

import json

from vidssl.report.curves import draw_curves, read_log


def lines(watched: bool):
    out = [
        {"stage": "pretrain", "step": step, "loss": 1 / step, "accuracy": step / 10, "chance": 0.25}
        for step in range(1, 6)
    ]
    look = {"knn": 0.3, "linear": 0.4, "chance": 0.125, "rankme": 5.0, "spread": 0.02}
    return out + [{"stage": "pretrain", "step": step, "watch": look} for step in (0, 5)] * watched


def test_panels_hold_the_logged_values(tmp_path):
    other = {"stage": "finetune", "step": 1, "loss": 9.0}
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines(True), other]))
    figure = draw_curves(read_log(tmp_path, "pretrain"), "accuracy", "prp")
    loss, metric, worth, rank = figure.axes[:4]
    assert loss.lines[0].get_xydata()[:, 1].tolist() == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert [line.get_label() for line in metric.lines] == ["training clips", "chance"]
    assert metric.lines[0].get_ydata().tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [line.get_ydata()[-1] for line in worth.lines] == [0.3, 0.4, 0.125]
    assert rank.lines[0].get_xydata().tolist() == [[0, 5], [5, 5]]
    figure.savefig(tmp_path / "curves.png")


def test_panels_are_those_of_what_was_looked_at(tmp_path):
    assert len(draw_curves(lines(False), "accuracy", "prp").axes) == 2
    unlabelled = lines(True)
    for line in unlabelled:
        if "watch" in line:
            line["watch"] = {"rankme": 5.0, "spread": 0.02}
    assert len(draw_curves(unlabelled, "accuracy", "prp").axes) == 4  # loss, metric, rank, and its second scale
    assert len(draw_curves(read_log(tmp_path, "pretrain"), "accuracy", "no step was made").axes) == 2
