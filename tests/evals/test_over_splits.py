"""The mean over official splits, by hand."""

from __future__ import annotations

import pytest

from vidssl.evals.over_splits import mean_over_splits


def scored(top1, chance):
    return {"top1": top1, "chance": chance, "interval": [0.0, 1.0], "seconds": 2.0}


def retrieved(top1, **more):
    return {"top1": top1, **more, "chance": {"top1": 0.1, **dict.fromkeys(more, 0.5)}, "seconds": 1.0}


def noisy(clean, weak, strong):
    kinds = {kind: {"1": {"top1": weak}, "5": {"top1": strong}} for kind in ("shot", "impulse")}
    return {"clean": {"top1": clean}, "noises": kinds, "chance": 0.1, "table": "video", "seconds": 3.0}


def test_every_measure_is_the_mean_of_the_splits():
    found = mean_over_splits(
        {
            "1": {"finetune": scored(0.8, 0.1), "retrieval": retrieved(0.2, top5=0.6)},
            "2": {"finetune": scored(0.7, 0.1), "retrieval": retrieved(0.3, top5=0.5)},
            "3": {"finetune": scored(0.6, 0.4), "retrieval": retrieved(0.4, top5=0.1)},
        }
    )
    assert found["finetune"]["top1"] == pytest.approx(0.7)
    assert found["finetune"]["chance"] == pytest.approx(0.2)
    assert found["finetune"]["splits"] == {"1": 0.8, "2": 0.7, "3": 0.6}
    assert found["finetune"]["seconds"] == 6.0
    assert (found["retrieval"]["top1"], found["retrieval"]["top5"]) == (pytest.approx(0.3), pytest.approx(0.4))
    assert found["retrieval"]["chance"] == {"top1": pytest.approx(0.1), "top5": pytest.approx(0.5)}


def test_what_a_split_lacks_has_no_mean():
    """A k that the gallery of one split is too small for, and an evaluation that one split has not."""
    found = mean_over_splits(
        {
            "1": {"finetune": scored(0.8, 0.1), "retrieval": retrieved(0.2, top50=0.9)},
            "2": {"retrieval": retrieved(0.3)},
        }
    )
    assert set(found) == {"retrieval"}
    assert "top50" not in found["retrieval"]


def test_the_drop_is_that_of_the_mean_accuracies():
    """Not the mean of the splits' drops: (0.5 - 0.2) / 0.5 and (1.0 - 0.9) / 1.0 would give 0.35."""
    found = mean_over_splits({"1": {"robustness": noisy(0.5, 0.2, 0.1)}, "2": {"robustness": noisy(1.0, 0.9, 0.5)}})
    assert found["robustness"]["relative_drop"]["1"] == pytest.approx((0.75 - 0.55) / 0.75)
    assert found["robustness"]["relative_drop"]["5"] == pytest.approx((0.75 - 0.3) / 0.75)
    assert found["robustness"]["relative_drop"]["mean"] == pytest.approx((0.75 - 0.425) / 0.75)
