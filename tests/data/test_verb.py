"""`vidssl prep` as it is typed: checking a store, and what does not go together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vidssl.cli import app
from vidssl.data.store import open_store
from vidssl.errors import VidsslError

from .prepared import hashes, prep


def typed(*words: object) -> tuple[int, str]:
    """Exit status and output; a mistake's message with status 2, as `main` makes it."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, VidsslError):
        return 2, str(done.exception)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_verify_says_what_is_damaged_and_prep_mends_it(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path))
    store = tmp_path / "data" / "mine"
    prep(tiny_source, store, name="mine")
    whole = hashes(store)
    assert typed("prep", "--verify", "mine")[0] == 0
    tar = store / "shards" / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    code, out = typed("prep", "--verify", store, "--json")
    assert code == 1
    assert list(json.loads(out.splitlines()[-1])["problems"]) == ["shards/000000.tar"]
    assert "--repair" in out
    assert typed("prep", "--verify", "mine", "--repair")[0] == 1
    prep(tiny_source, store, name="mine")
    assert hashes(store) == whole
    assert typed("prep", "--verify", "mine")[0] == 0


@pytest.mark.slow
def test_jobs_of_this_machine(tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path))
    words = ("prep", "folder", "--source", tiny_source, "--short-side", 48, "--name")
    assert typed(*words, "one", "--workers", 1)[0] == 0
    assert typed(*words, "jobs", "--cluster", "local", "--jobs", 2)[0] == 0
    one, jobs = (tmp_path / "data" / name for name in ("one", "jobs"))
    assert hashes(one, "shards") == hashes(jobs, "shards")
    assert open_store(one).fingerprint() == open_store(jobs).fingerprint()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs a data set"),
        (("k400", "--verify", "k400"), "no meaning"),
        (("--verify", "nowhere"), "no prepared data set"),
        (("folder", "--source", ".", "--name", "x", "--repair"), "--verify STORE --repair"),
        (("k400", "--download", "--cluster", "local"), "no use for --cluster"),
        (("embedded", "--cluster", "local"), "no use for --cluster"),
        (("k400", "--cluster", "local"), "give --source DIR"),
        (("folder", "--source", ".", "--name", "x", "--jobs", 2), "--cluster"),
        (("folder", "--source", ".", "--name", "x", "--cluster", "lsf"), "slurm"),
        (("folder", "--source", ".", "--name", "x", "--cluster", "slurm", "--slurm", "partition"), "KEY=VALUE"),
    ],
)
def test_what_does_not_go_together(
    words: tuple[object, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path / "home"))
    code, out = typed("prep", *words)
    assert code == 2
    assert message in out
    assert not (tmp_path / "home" / "data").exists()
