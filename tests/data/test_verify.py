"""verify finds a single bit anywhere in a store, says where, and prep mends what it found."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidssl.data.lock import locked, unchanging
from vidssl.data.manifest import read_table
from vidssl.data.verify import verify
from vidssl.data.work import Job, process
from vidssl.engine.progress import Reporter
from vidssl.errors import DataError, EnvironmentProblem

from .prepared import hashes, prep

QUIET = Reporter(quiet=True)
SHARD_VIDEOS = 5


@pytest.fixture(scope="module")
def source(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 videos in three classes, one of them cut."""
    folder = tmp_path_factory.mktemp("verify") / "source"
    shutil.copytree(tiny_source, folder)
    cut = folder / "right" / "3.mp4"
    cut.write_bytes(cut.read_bytes()[:-500])
    return folder


@pytest.fixture(scope="module")
def good(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three shards. Read only: copy it to change it."""
    store = tmp_path_factory.mktemp("good") / "store"
    prep(source, store, shard_videos=SHARD_VIDEOS)
    return store


@pytest.fixture
def store(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "store")


def members(store: Path, shard: int) -> list[dict[str, Any]]:
    """Rows of the stored videos of a shard."""
    return [row for row in read_table(store, shard)[0].to_pylist() if row["status"] == "ok"]


def turn_bit(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << place % 8
    file.write_bytes(data)


def test_a_good_store_is_good(good: Path) -> None:
    before = hashes(good)
    found = verify(good, QUIET)
    assert found.problems == {}
    assert found.videos == 11
    assert found.bytes == sum(file.stat().st_size for file in good.glob("shards/*.tar"))
    assert found.to_json()["good"] is True
    assert "as it was written" in found.words()[0]
    assert hashes(good) == before


def test_formats_and_grown_stores_are_good(source: Path, tiny_mjpeg_store: Path, store: Path, tmp_path: Path) -> None:
    assert verify(tiny_mjpeg_store, QUIET).problems == {}
    changed = shutil.copytree(source, tmp_path / "changed")
    shutil.copy(changed / "left/1.mp4", changed / "left/0.mp4")  # a row of a higher revision
    prep(changed, store, shard_videos=SHARD_VIDEOS)
    assert verify(store, QUIET).problems == {}


@pytest.mark.parametrize(
    ("place", "words"),
    [("video", "sha256"), ("head", "header"), ("text", "description"), ("padding", "space"), ("end", "last member")],
)
def test_a_bit_of_a_shard_is_found_where_it_is(store: Path, place: str, words: str) -> None:
    row = members(store, 1)[1]
    file = store / "shards" / "000001.tar"
    data = file.read_bytes()
    start = data.rindex(f"{row['number']:08d}.mp4".encode(), 0, row["offset"]) + 512
    text = start + -(-row["member_bytes"] // 512) * 512
    where = {"video": row["offset"] + 7, "head": start - 300, "text": text + 512 + 3, "end": len(data) - 9}
    where["padding"] = text - 1 if row["member_bytes"] % 512 else text + 512 + 511
    turn_bit(file, where[place])
    found = verify(store, QUIET)
    assert list(found.problems) == ["shards/000001.tar"]
    (problem,) = found.problems["shards/000001.tar"]
    assert words in problem
    assert place == "end" or row["id"] in problem
    assert found.videos == 11  # it went on behind the bad place


def test_any_bit_that_matters_is_found(good: Path, tmp_path: Path) -> None:
    """What goes unseen changes nothing for a reader: bounds of a column in a table's footer, say."""
    chosen = random.Random(0)
    files = sorted(name for name in hashes(good) if name not in (".lock", "store.json"))
    assert len(files) >= 10
    missed = 0
    for name in files * 5:
        store = shutil.copytree(good, tmp_path / "store")
        turn_bit(store / name, chosen.randrange((store / name).stat().st_size))
        if name not in verify(store, QUIET).problems:
            missed += 1
            if name.endswith(".npy"):
                assert np.load(store / name).tobytes() == np.load(good / name).tobytes()
            else:
                assert pq.read_table(store / name).equals(pq.read_table(good / name), check_metadata=True)
        shutil.rmtree(store)
    assert missed < 2 * len(files)


def test_packets_are_held_against_the_videos(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with the right hash of a video and the wrong place of its packets."""
    from vidssl.data import verify_shard

    real = verify_shard.read_table

    def shifted(*arguments: Any, **options: Any) -> Any:
        table, tar_bytes = real(*arguments, **options)
        at = table.column_names.index("offset")
        moved = [None if offset is None else offset + 1 for offset in table["offset"].to_pylist()]
        return table.set_column(at, "offset", [moved]), tar_bytes

    monkeypatch.setattr(verify_shard, "read_table", shifted)
    found = verify(store, QUIET)
    assert sum(len(problems) for problems in found.problems.values()) == 11
    assert "packets" in found.problems["shards/000000.tar"][0]


@pytest.mark.parametrize("name", ["manifest.parquet", "index.parquet", "packet_keys.npy", "shards/000002.tar"])
def test_missing_files_are_named_and_mended(source: Path, store: Path, name: str) -> None:
    before = hashes(store)
    (store / name).unlink()
    assert list(verify(store, QUIET).problems) == [name]
    prep(source, store, shard_videos=SHARD_VIDEOS)
    assert hashes(store) == before


@pytest.mark.parametrize("column", ["label", "packet_sizes.list.element"])
def test_prep_redoes_a_shard_whose_table_has_another_bit(source: Path, store: Path, column: str) -> None:
    before, file = hashes(store), store / "shards" / "000001.parquet"
    group = pq.read_metadata(file).row_group(0)
    (chunk,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    turn_bit(file, chunk.data_page_offset + chunk.total_compressed_size // 2)
    assert list(verify(store, QUIET).problems) == ["shards/000001.parquet"]
    assert prep(source, store, shard_videos=SHARD_VIDEOS).skipped == 7
    assert hashes(store) == before


def test_a_column_of_another_version_is_no_damage(source: Path, store: Path) -> None:
    """Or prep would do a whole store again, or lose it where the sources are gone."""
    before = hashes(store)
    for file in (store / "shards").glob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.add_column(3, "mood", [["good"] * len(table)]), file)
    assert verify(store, QUIET).problems == {}
    assert prep(source, store, shard_videos=SHARD_VIDEOS).skipped == 12
    after = hashes(store)
    assert all(after[name] == before[name] for name in before if "shards" not in name)


def test_a_bad_class_name_is_found(store: Path) -> None:
    text = (store / "store.json").read_text()
    (store / "store.json").write_text(text.replace("right", "wrong"))
    assert "right" in verify(store, QUIET).problems["store.json"][0]


def test_an_unfinished_store_is_told(store: Path) -> None:
    (store / "staging").mkdir()
    (store / "shards" / "000002.parquet").unlink()
    found = verify(store, QUIET)
    assert {"staging", "shards/000002.tar"} <= set(found.problems)
    assert any("prep` again" in line for line in found.words())


def recording_process(job: Job) -> dict[str, Any]:
    with open(os.environ["VIDSSL_TEST_RECORD"], "a") as file:
        file.write(f"{job.video.id}\n")
    return process(job)


def done_by_prep(source: Path, store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the videos that a prep works on, sorted."""
    record = folder / "record"
    monkeypatch.setenv("VIDSSL_TEST_RECORD", str(record))
    monkeypatch.setattr("vidssl.data.prep_work.process", recording_process)
    prep(source, store, shard_videos=SHARD_VIDEOS)
    return sorted(record.read_text().split())


def test_repair_redoes_only_what_is_bad(
    source: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prep(source, store, shard_videos=SHARD_VIDEOS)  # where the store lies now, nobody has seen its sources yet
    before = hashes(store)
    bad = [members(store, 0)[2], members(store, 2)[0]]
    for row in bad:
        turn_bit(store / "shards" / f"{row['shard']:06d}.tar", row["offset"] + 20)
    found = verify(store, QUIET)
    assert "--repair" in found.words()[-1]
    after = hashes(store)
    assert {name for name in before if before[name] != after[name]} == {"shards/000000.tar", "shards/000002.tar"}
    assert set(after) == set(before)

    repaired = verify(store, QUIET, repair=True)
    assert repaired.put_back == 2
    assert "2 videos are to be done again" in repaired.words()[-1]
    assert done_by_prep(source, store, tmp_path, monkeypatch) == sorted(row["id"] for row in bad)
    assert hashes(store) == before
    assert verify(store, QUIET).problems == {}


def test_repair_of_a_grown_store(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos come back into the shards they were in, which are not those that a prep at once would give them."""
    store = tmp_path / "store"
    prep(source, store, shard_videos=SHARD_VIDEOS, subset=3)
    prep(source, store, shard_videos=SHARD_VIDEOS)
    before = hashes(store)
    bad = [members(store, shard)[0] for shard in (0, 1)]
    for row in bad:
        turn_bit(store / "shards" / f"{row['shard']:06d}.tar", row["offset"] + 20)
    assert verify(store, QUIET, repair=True).put_back == 2
    assert done_by_prep(source, store, tmp_path, monkeypatch) == sorted(row["id"] for row in bad)
    assert hashes(store) == before
    (store / "shards" / "000000.tar").unlink()
    (store / "shards" / "000002.tar").unlink()
    prep(source, store, shard_videos=SHARD_VIDEOS)
    assert hashes(store) == before


def test_repair_of_a_lost_tar(source: Path, store: Path) -> None:
    before = hashes(store)
    (store / "shards" / "000001.tar").unlink()
    assert verify(store, QUIET, repair=True).put_back == len(members_of(before, store, 1))
    prep(source, store, shard_videos=SHARD_VIDEOS)
    assert hashes(store) == before


def members_of(before: dict[str, str], store: Path, shard: int) -> list[str]:
    """Ids of a shard's stored videos, from the manifest: its own table is away."""
    assert f"shards/{shard:06d}.tar" in before
    rows = pq.read_table(store / "manifest.parquet").to_pylist()
    return [row["id"] for row in rows if row["shard"] == shard and row["status"] == "ok"]


def test_columns_of_an_older_version_are_no_damage(store: Path) -> None:
    for file in (store / "manifest.parquet", store / "shards" / "000000.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.append_column("mtime_ns", pa.array([1] * len(table))), file)
    assert verify(store, QUIET).problems == {}


def test_a_file_system_without_locks_is_told(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(EnvironmentProblem, match="has no locks"), locked(store):
        pass


def test_not_while_prep_is_at_work(store: Path) -> None:
    with locked(store), pytest.raises(DataError, match=f"prepared by another process .pid {os.getpid()}"):
        verify(store, QUIET)
    with unchanging(store):
        assert verify(store, QUIET).problems == {}  # two may read at once
        with pytest.raises(DataError, match="verified"), locked(store):
            pass


def test_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prepared data set"):
        verify(tmp_path, QUIET)
