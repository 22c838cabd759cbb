"""Damaged or lost shards take nothing away from a finished store, whatever the next prep chooses; and true counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vidssl.data import prep_work
from vidssl.data.prep_summary import PrepSummary
from vidssl.data.seen import Seen, read_seen, write_seen
from vidssl.data.verify import verify
from vidssl.engine.progress import Reporter
from vidssl.errors import DataError

from .prepared import hashes
from .prepared import prep as run_prep
from .test_prep_kill import InProcess

QUIET = Reporter(quiet=True)


class Listening(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def prep(source: Path, store: Path, **options: Any) -> PrepSummary:
    return run_prep(source, store, shard_videos=4, **options)


@pytest.fixture(scope="module")
def good(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store grown 3 -> 12, of shards of 3, 4, 4 and 1 videos, with its lists, and a home that knows its sources.

    Read only: copy it to change it.
    """
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDSSL_HOME", str(folder / "home"))
        patch.setattr(prep_work, "WorkerPool", InProcess)
        for subset in (3, 12):
            prep(tiny_source, folder / "store", subset=subset)
    return folder / "store"


@pytest.fixture
def source(tiny_source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_source, tmp_path / "source")  # with the times of the files


@pytest.fixture
def store(good: Path, source: Path, home: Path, tmp_path: Path) -> Path:
    store = shutil.copytree(good, tmp_path / "store")
    prep(source, store, subset=12)  # where the store lies now, nobody has seen its sources yet
    return store


def turn_bit(store: Path, shard: int) -> None:
    """In the first video of a shard."""
    file = store / "shards" / f"{shard:06d}.tar"
    data = bytearray(file.read_bytes())
    data[700] ^= 1
    file.write_bytes(data)


def test_a_smaller_choice_after_a_repair_brings_all_back(source: Path, store: Path) -> None:
    before, heard = hashes(store), Listening()
    turn_bit(store, 1)
    turn_bit(store, 2)
    assert verify(store, QUIET, repair=True).put_back == 2
    summary = prep(source, store, subset=3, progress=heard)
    assert hashes(store) == before  # and subsets/12.txt
    assert (summary.videos, summary.ok, summary.beside, summary.skipped) == (11, 11, 8, 9)
    assert summary.subset["videos"] == 3
    assert any("8 videos of damaged or lost shards" in line for line in heard.said)
    assert any("8 videos" in note and "beside the choice" in note for note in summary.notes())


@pytest.mark.parametrize("name", ["000002.tar", "000002.parquet"])
def test_a_smaller_choice_brings_lost_files_back(source: Path, store: Path, name: str) -> None:
    before = hashes(store)
    (store / "shards" / name).unlink()
    dry = prep(source, store, subset=3, dry_run=True)
    assert (dry.to_do, dry.beside) == (4, 4)
    summary = prep(source, store, subset=3)
    assert hashes(store) == before
    assert (summary.beside, summary.skipped) == (4, 3)


def test_what_cannot_be_made_again_is_told_and_nothing_changes(source: Path, store: Path, tmp_path: Path) -> None:
    (store / "shards" / "000001.tar").unlink()
    rows = pq.read_table(store / "manifest.parquet").to_pylist()
    left = sorted(row["path"] for row in rows if row["shard"] == 1 and row["path"].startswith("left/"))
    assert left
    before = hashes(store)
    (source / "left").rename(tmp_path / "left")
    for subset in (2, None):
        with pytest.raises(DataError, match=rf"shards \(000001\).* lacks {len(left)} of their videos \({left[0]}"):
            prep(source, store, subset=subset)
    assert hashes(store) == before
    assert not (store / "staging").exists()
    (tmp_path / "left").rename(source / "left")
    prep(source, store, subset=3)
    assert verify(store, QUIET).problems == {}


def test_videos_can_be_given_up(source: Path, store: Path, tmp_path: Path) -> None:
    """As the message of `lost.py` says; the lists that go away for it are told."""
    (store / "shards" / "000001.tar").unlink()
    (store / "shards" / "000001.parquet").unlink()
    (store / "manifest.parquet").unlink()
    heard = Listening()
    assert prep(source, store, subset=3, progress=heard).ok == 3
    assert [line.split()[0] for line in heard.said] == ["subsets/12.txt"]
    assert verify(store, QUIET).problems == {}


# ---- counts


def test_a_second_repair_says_the_same(store: Path) -> None:
    turn_bit(store, 1)
    assert [verify(store, QUIET, repair=True).put_back for _ in range(2)] == [1, 1]


def test_a_repair_says_what_the_next_prep_does(source: Path, store: Path, home: Path) -> None:
    before = hashes(store)
    turn_bit(store, 1)
    shutil.rmtree(home / "cache")  # nothing tells that the sources are the same
    assert verify(store, QUIET, repair=True).put_back == 4
    heard = Listening()
    assert prep(source, store, progress=heard).skipped == 8
    assert any("3 videos" in line and "not used" in line for line in heard.said)
    (store / "shards" / "000002.parquet").unlink()
    assert verify(store, QUIET, repair=True).put_back == 4
    assert prep(source, store).skipped == 8
    assert hashes(store) == before


def test_staged_videos_were_done_before(
    source: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real, done = tmp_path / "new", prep_work.process, []

    def breaking(job: Any) -> dict[str, Any]:
        if len(done) == 6:
            raise KeyboardInterrupt
        done.append(job)
        return real(job)

    with monkeypatch.context() as patch:
        patch.setattr(prep_work, "process", breaking)
        with pytest.raises(KeyboardInterrupt):
            prep(source, store)
    assert len(list((store / "staging").glob("*.json"))) == 2  # the others are in their shard
    assert prep(source, store).skipped == 6


def test_a_repair_does_not_take_an_old_video_for_a_changed_one(source: Path, store: Path, home: Path) -> None:
    """A prep was killed after it had seen that a file has changed, with a size that is the same."""
    turn_bit(store, 1)
    _, row = [row for row in pq.read_table(store / "manifest.parquet").to_pylist() if row["shard"] == 1][:2]
    look = read_seen(store)[row["path"]]
    write_seen(store, [(row["path"], Seen(look.revision + 1, look.mtime_ns + 1, 0, ""))])
    assert verify(store, QUIET, repair=True).put_back == 2
    staged = json.loads((store / "staging" / f"{row['number']:08d}.json").read_text())
    assert "mtime_ns" not in staged
