"""Every task on one process and on two: the same losses, weights, key networks and queues.

Three steps of 4 or 5 samples, so that the two processes have unequal shares; the backbone has batch norm.
"""

from __future__ import annotations

import json

import pytest
import torch

from tests.engine.test_ranks import launch
from tests.tasks.two_ranks import RUNS


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for world in (1, 2):
        launch("tests.tasks.two_ranks", world, folder)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_one_process_and_two_train_the_same(results, name):
    logs = [
        [json.loads(line) for line in (results / f"{name}-world{world}" / "log.jsonl").read_text().splitlines()]
        for world in (1, 2)
    ]
    assert len(logs[0]) == 3
    for one, two in zip(*logs, strict=True):
        for key in one.keys() - {"time", "stage"}:
            assert one[key] == pytest.approx(two[key], rel=2e-4, abs=2e-5), key
    alone = torch.load(results / f"{name}-world1-rank0.pt")
    for rank in range(2):
        shared = torch.load(results / f"{name}-world2-rank{rank}.pt")
        assert shared.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(shared[key], value, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: key + text)
