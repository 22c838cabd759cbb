"""What is kept of a test, and what is read from it."""

from __future__ import annotations

import numpy as np
import pytest

from vidssl.errors import RunError
from vidssl.evals.predictions import Predictions
from vidssl.evals.statistics import student_interval
from vidssl.evals.target import Target

PROBABILITIES = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]])


def made():
    ids = ["a/1.mp4", "a/2.mp4", "b/ü.mp4", "b/4.mp4"]
    return Predictions(ids, np.array([0, 0, 1, 1]), PROBABILITIES, ["jump", "run & fall", "never tested"])


def test_confusion_and_classes_by_hand():
    said = made()
    assert said.predicted.tolist() == [0, 1, 0, 2]
    assert said.confusion().tolist() == [[1, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert said.per_class() == {"jump": 0.5, "run & fall": 0.0}, "a class without test videos has no accuracy"


def test_kept_and_read_again(tmp_path):
    said = made()
    said.save(tmp_path / "predictions" / "finetune.npz")
    again = Predictions.load(tmp_path / "predictions" / "finetune.npz")
    assert (again.ids, again.classes) == (said.ids, said.classes)
    assert np.array_equal(again.probabilities_VK, PROBABILITIES)
    assert again.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("content", [None, b"no archive", b"PK\x03\x04 cut"])
def test_a_file_that_is_none_of_these_is_named(tmp_path, content):
    path = tmp_path / "finetune.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"finetune\.npz"):
        Predictions.load(path)


def test_answers_that_are_no_numbers_are_no_answers():
    """argmax would take them for the first class."""
    target = Target(None, np.arange(2), np.arange(2), 3)
    with pytest.raises(RunError, match="not finite"):
        target.predictions(np.array([[0.5, 0.5, 0.0], [np.nan, 0.2, 0.1]]))


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (10, 2.2622), (31, 2.0423)])
def test_students_interval_by_the_printed_table(count, quantile):
    values = np.random.default_rng(count).normal(size=count)
    half = quantile * values.std(ddof=1) / np.sqrt(count)
    low, high = student_interval(values)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-4)
