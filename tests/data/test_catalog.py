"""`vidssl list data`: what it says of stores that are not as they should be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vidssl.cli import app
from vidssl.data import catalog


@pytest.fixture
def data(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the stores, with the tiny store under two names."""
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path))
    for name in ("bad", "good"):
        shutil.copytree(tiny_store, tmp_path / "data" / name)
    return tmp_path / "data"


def listed() -> dict[str, dict[str, Any]]:
    done = CliRunner().invoke(app, ["list", "data", "--json"], catch_exceptions=False)
    return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "bad", "version": 9}', None])
def test_a_damaged_store_does_not_hide_the_others(content: str | None, data: Path) -> None:
    (data / "bad" / "store.json").unlink()
    if content is not None:
        (data / "bad" / "store.json").write_text(content)
    rows = listed()
    assert rows["bad"].keys() == {"name", "problem", "store"}
    assert (rows["good"]["videos"], "problem" in rows["good"]) == (12, False)


def test_what_is_not_finished_says_so(data: Path) -> None:
    """In a first prep, before the index; in a later one; after `--verify --repair`, which takes tars away."""
    (data / "good" / "staging").mkdir()
    for file in (data / "bad").glob("*.*"):
        if file.name != "store.json":
            file.unlink()
    rows, again = listed(), "unless prep is at work on it, run its `vidssl prep` again"
    assert rows["bad"]["problem"] == f"not finished, shards done: 1; {again}"
    assert (rows["bad"]["format"], rows["bad"]["picture"], "videos" in rows["bad"]) == ("h264", "64x48", False)
    assert rows["good"]["problem"] == f"not all is done; {again}"
    (data / "good" / "shards" / "000000.tar").unlink()
    assert listed()["good"]["problem"] == "1 of 1 shards are missing; run its `vidssl prep` again"
    shown = CliRunner().invoke(app, ["list", "data"]).stdout
    assert "nothing is prepared yet" not in shown
    assert catalog.prepared() == ["good"], "what is not finished is not opened"
