"""Files of a run are written whole or not at all, also where the disk is full."""

from __future__ import annotations

import errno
import os

import pytest

from vidssl.engine.runs import RunDirectory, write_atomic
from vidssl.errors import EnvironmentProblem, RunError


def test_a_full_disk_leaves_the_old_file_and_says_what_to_try(tmp_path, monkeypatch):
    file = tmp_path / "summary.json"
    write_atomic(file, "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match=r"No space left on device.*--out"):
        write_atomic(file, "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("summary.json", "old")]


def test_a_damaged_spec_is_named(tmp_path):
    (tmp_path / "spec.toml").write_text("[task\nname = ")
    with pytest.raises(RunError, match=r"spec\.toml cannot be read"):
        RunDirectory(tmp_path).stored()


def test_rewinding_keeps_other_stages(tmp_path):
    run = RunDirectory(tmp_path)
    for stage, step in (("pretrain", 1), ("pretrain", 2), ("finetune", 1), ("finetune", 2), ("finetune", 3)):
        run.log({"stage": stage, "step": step})
    run.rewind_log("finetune", 2)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert '"step": 3' not in lines[-1]
