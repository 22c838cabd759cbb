"""`vidssl list data`: what it says of stores that are not as they should be."""

from __future__ import annotations

import json
import re
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
    assert "nothing is prepared yet" not in CliRunner().invoke(app, ["list", "data"]).stdout
    assert catalog.prepared() == ["good"], "what is not finished is not opened"


def shown(data: Path, monkeypatch: pytest.MonkeyPatch, columns: int, terminal: bool) -> list[str]:
    """The table of a set with splits, one with a long name and one with a problem."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    counts = {"train": 238_401, "test": 19_881, "videos": 258_282, "splits": 3, "classes": 400}
    whole = {**counts, "hours": 717.45, "megabytes": 72_431.5}
    picture = {"format": "h264", "picture": "171x128"}
    rows = [
        {"name": "a-long-name-of-some-set", **whole, **picture},
        {"name": "k400", **picture, "problem": "not finished, shards done: 1; run its `vidssl prep` again"},
    ]
    monkeypatch.setattr("vidssl.report.listing.data_rows", lambda: rows)
    out = CliRunner().invoke(app, ["list", "data"], color=True, catch_exceptions=False).stdout
    return re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()


@pytest.mark.parametrize(
    ("columns", "left_out"), [(120, ""), (100, "splits"), (60, "splits, picture, "), (40, "splits")]
)
def test_a_narrow_terminal_cuts_nothing(
    columns: int, left_out: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = shown(data, monkeypatch, columns, terminal=True)
    head = next(line for line in table if "name" in line).split()
    assert head[0] == "name"
    assert {"videos", "problem"} <= set(head)
    values = {"videos": "258,282", "train": "238,401", "hours": "717.450", "picture": "171x128", "format": "h264"}
    words = " ".join(table).split()
    assert all(value in words for key, value in values.items() if key in head)
    notes = [line for line in table if line.startswith("no room for ")]
    assert bool(notes) == bool(left_out)
    assert all(note.startswith(f"no room for {left_out}") for note in notes)
    assert max(len(line) for line in table if line not in notes) <= columns


def test_a_pipe_gets_whole_lines(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = shown(data, monkeypatch, 40, terminal=False)
    assert any("not finished, shards done: 1; run its `vidssl prep` again" in line for line in table)
    assert any(line.split()[0] == "a-long-name-of-some-set" and "171x128" in line for line in table if line.strip())
