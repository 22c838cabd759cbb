"""Sources in archives: the same store as unpacked, bounded disk, what goes before what, official lists."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidssl.data import archive_cache, archives, prep_work, rar, work
from vidssl.data.prep_summary import PrepSummary
from vidssl.data.sources import open_source
from vidssl.errors import DataError

from .official import HMDB_TAGS, UCF, place_videos, read, touch, write_hmdb_lists, write_ucf_lists
from .packing import SOLID, cut_in_parts, files_of, rar_bytes, tar_bytes, write, zip_bytes
from .prepared import hashes, manifest
from .prepared import prep as run_prep

pytestmark = pytest.mark.usefixtures("home")


def prep(source: Path, store: Path, **options: Any) -> PrepSummary:
    return run_prep(source, store, **{"shard_videos": 2, **options})


def inner_rars(files: dict[str, bytes]) -> dict[str, bytes]:
    """A rar for each class, as HMDB51 comes."""
    names = {name.split("/")[0] for name in files}
    return {f"{c}.rar": rar_bytes({n: d for n, d in files.items() if n.startswith(c)}) for c in sorted(names)}


def ssv2_parts(files: dict[str, bytes], wrapped: bool) -> dict[str, bytes]:
    """Parts of one tar.gz, each in a zip or not."""
    parts = {f"20bn-something-something-v2-{n:02d}": p for n, p in enumerate(cut_in_parts(tar_bytes(files, "w:gz"), 3))}
    return {f"{name}.zip": zip_bytes({name: data}) for name, data in parts.items()} if wrapped else parts


KINDS: dict[str, Callable[[dict[str, bytes]], dict[str, bytes]]] = {
    "tar": lambda files: {"a.tar": tar_bytes(files)},
    "tar.gz": lambda files: {"a.tar.gz": tar_bytes(files, "w:gz")},
    "tgz with ./": lambda files: {"a.tgz": tar_bytes({f"./{n}": d for n, d in files.items()}, "w:gz")},
    "tar.bz2": lambda files: {"a.tar.bz2": tar_bytes(files, "w:bz2")},
    "tar.xz": lambda files: {"a.tar.xz": tar_bytes(files, "w:xz")},
    "zip": lambda files: {"a.zip": zip_bytes(files)},
    "zip, stored": lambda files: {"a.zip": zip_bytes(files, zipfile.ZIP_STORED)},
    "rar": lambda files: {"a.rar": rar_bytes(files)},
    "solid rar": lambda files: {"a.rar": rar_bytes(files, SOLID)},
    "rars in rar": lambda files: {"a.rar": rar_bytes(inner_rars(files))},
    "tar.gz in zip": lambda files: {"a.zip": zip_bytes({"b.tar.gz": tar_bytes(files, "w:gz")})},
    "zip in tar.gz": lambda files: {"a.tar.gz": tar_bytes({"b.zip": zip_bytes(files)}, "w:gz")},
    "parts": lambda files: ssv2_parts(files, wrapped=False),
    "parts in zips": lambda files: ssv2_parts(files, wrapped=True),
    "parts by split": lambda files: {
        f"a.tar.gz.a{letter}": part
        for letter, part in zip("abc", cut_in_parts(tar_bytes(files, "w:gz"), 3), strict=True)
    },
    "several": lambda files: {
        f"{n}.zip": zip_bytes({name: data}) for n, (name, data) in enumerate(sorted(files.items()))
    },
    "wrong suffix": lambda files: {"a.zip": tar_bytes(files, "w:gz")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_same_store_as_unpacked(kind: str, unpacked: Path, expected: dict[str, str], tmp_path: Path) -> None:
    if kind == "solid rar" and not rar.programs():
        pytest.skip("no unpacker for rar is installed")
    source, store = tmp_path / "source", tmp_path / "store"
    for name, data in KINDS[kind](files_of(unpacked / "deep")).items():
        write(source / "deep" / name, data)
    summary = prep(source, store)
    assert (summary.ok, summary.rejected, summary.ignored) == (4, 1, 1)
    assert hashes(store) == expected
    assert prep(source, store).skipped == 5


def test_one_archive_as_source(unpacked: Path, expected: dict[str, str], tmp_path: Path) -> None:
    archive = write(tmp_path / "somewhere" / "a.tar.gz", tar_bytes(files_of(unpacked), "w:gz"))
    prep(archive, tmp_path / "store")
    assert hashes(tmp_path / "store") == expected
    with pytest.raises(DataError, match="no folder and no archive"):
        prep(unpacked / "deep/notes.txt", tmp_path / "other")


# ---- bounded disk, and going on


@pytest.mark.parametrize("workers", [1, 2])
def test_copies_are_few(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    store, seen = tmp_path / "store", []
    write(store / "staging" / ".copy-00000000-1.mp4", b"left by a killed process")

    def copies() -> int:
        return len(list((store / "staging").glob(work.COPIES)))

    def watching(job: work.Job) -> dict[str, Any]:
        latest = time.monotonic() + 20 * (not seen)  # at first the feeder gets as far ahead as it may
        while copies() < workers + 1 and time.monotonic() < latest:
            time.sleep(0.005)
        time.sleep(0.05)  # and here it may go too far
        seen.append(copies())
        return work.process(job)

    monkeypatch.setattr(prep_work, "process", watching)
    prep(packed, store, workers=workers)
    assert seen[0] == max(seen) == workers + 1
    assert not (store / "staging").exists()


class Crash(BaseException):
    pass


def test_crash_in_the_middle_of_a_stream(
    packed: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, done = tmp_path / "store", []

    def crashing(job: work.Job) -> dict[str, Any]:
        if len(done) == 3:
            done.append("")
            raise Crash
        done.append(job.video.id)
        return work.process(job)

    monkeypatch.setattr(prep_work, "process", crashing)
    with pytest.raises(Crash):
        prep(packed, store)
    prep(packed, store)
    assert len(done) == len(set(done)) == 6  # each of five videos once, and the crash
    assert done[:3] == ["deep/left/1.mp4", "deep/left/3.mp4", "deep/left/bad.mp4"]  # the archive's order
    assert hashes(store) == expected


@pytest.mark.parametrize("kind", ["tar.gz", "zip", "solid rar", "rars in rar"])
def test_what_is_done_is_known(kind: str, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By size and time; by content where times differ, as in a folder unpacked without them; and changes are seen."""
    if kind == "solid rar" and not rar.programs():
        pytest.skip("no unpacker for rar is installed")
    source, store, files = tmp_path / "source", tmp_path / "store", files_of(unpacked)
    prep(unpacked, store)
    [(name, data)] = KINDS[kind](files).items()
    write(source / name, data)
    before = hashes(store)
    assert prep(source, store).skipped == 5
    with monkeypatch.context() as patch:
        patch.setattr(archives, "entries", None)  # nothing is read now
        patch.setattr(archives, "open_direct", None)
        assert prep(source, store).skipped == 5
    assert hashes(store) == before
    video = files["deep/left/1.mp4"]
    [(name, data)] = KINDS[kind]({**files, "deep/left/1.mp4": video[:-1] + b"\0"}).items()
    write(source / name, data)
    os.utime(source / name, (1, 1))
    if kind == "tar.gz":
        files["deep/left/1.mp4"] = video[:-1] + b"\0"
        write(source / name, tar_bytes(files, "w:gz", mtime=1_600_000_000))
        assert prep(source, store).skipped == 4


def test_listing_is_kept(packed: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, looks = open_source(packed), []
    real = archive_cache.read_contents
    monkeypatch.setattr(archive_cache, "read_contents", lambda *words: (looks.append(1), real(*words))[1])
    assert open_source(packed) == first
    assert not looks
    archive = packed / "a.tar.gz"
    os.utime(archive, (5, 5))
    assert open_source(packed) == first
    assert len(looks) == 1
    write(archive, tar_bytes({"only.mp4": b"1"}, "w:gz"))
    assert list(open_source(packed).files) == ["only.mp4"]
    for kept in home.rglob("*.json"):
        kept.write_text("{")
    assert list(open_source(packed).files) == ["only.mp4"]


def test_dry_run_leaves_nothing(packed: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    summary = prep(packed, tmp_path / "store", dry_run=True)
    assert summary.to_do == 5
    assert summary.estimated_bytes > 0
    assert not any((tmp_path / "temporary").iterdir())
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_an_archive_that_goes_away_ends_prep(
    kind: str, unpacked: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its videos are not all rejected: when it is back, prep goes on."""
    [(name, data)] = KINDS[kind](files_of(unpacked)).items()
    archive, store = write(tmp_path / "source" / name, data), tmp_path / "store"

    def removing(*words: Any) -> None:
        archive.unlink()
        real(*words)

    with monkeypatch.context() as patch:
        real = prep_work.work
        patch.setattr("vidssl.data.prep.work", removing)
        with pytest.raises(DataError, match=rf"{name} cannot be read any more: No such file"):
            prep(archive.parent, store)
    write(archive, data)
    prep(archive.parent, store)
    assert hashes(store) == expected


def test_an_unwritable_home_is_no_matter(packed: Path, home: Path, expected: dict[str, str], tmp_path: Path) -> None:
    home.write_text("no folder can be made here")
    for skipped in (0, 5):
        assert prep(packed, tmp_path / "store").skipped == skipped
    assert hashes(tmp_path / "store") == expected


PROGRAM = """
import sys, time
from pathlib import Path
from vidssl.data import work
from vidssl.data.prep import prepare

def slowly(*words, real=work.stage):
    done = real(*words)
    time.sleep(0.1)
    return done

work.stage = slowly  # here, where the spawned workers see it too

if __name__ == "__main__":
    source, store = map(Path, sys.argv[1:])
    prepare(source=source, name="tried", store_dir=store, short_side=48, workers=2, shard_videos=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar.gz", "rars in rar"])
def test_killed(kind: str, unpacked: Path, expected: dict[str, str], tmp_path: Path) -> None:
    """SIGKILL at three moments, with processes of their own; the last run finishes."""
    store, program = tmp_path / "store", write(tmp_path / "program.py", PROGRAM.encode())
    [(name, data)] = KINDS[kind](files_of(unpacked)).items()
    write(tmp_path / "source" / name, data)
    command = [sys.executable, str(program), str(tmp_path / "source"), str(store)]
    for wanted in (0, 1, 3):
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while running.poll() is None and done_videos(store) < wanted + (not store.exists()):
            time.sleep(0.005)
        running.kill()
        assert running.wait() == -signal.SIGKILL  # it was not finished yet
    subprocess.run(command, check=True)
    assert hashes(store) == expected


def done_videos(store: Path) -> int:
    return len(list((store / "staging").glob("*.json"))) + 2 * len(list((store / "shards").glob("*.parquet")))


# ---- which file goes before which


def test_folder_leaves_archives_beside_videos_alone(unpacked: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(unpacked / "deep", source)
    write(source / "more.zip", zip_bytes({"left/more.mp4": b"x"}))
    listing = read("folder", source)
    assert len(listing.videos) == 5
    assert (listing.ignored, listing.unused) == (1, {"archives beside videos": 1})


def test_disk_goes_before_archives_and_archives_by_name(tmp_path: Path) -> None:
    source = touch(tmp_path / "source", "c/1.avi")
    write(source / "a.zip", zip_bytes({"c/1.avi": b"zip", "c/2.avi": b"first"}))
    write(source / "b.tar", tar_bytes({"c/2.avi": b"second", "c/3.avi": b"3"}))
    opened = open_source(source)
    assert {name: file.path.name for name, file in opened.files.items()} == {
        "c/1.avi": "1.avi", "c/2.avi": "a.zip", "c/3.avi": "b.tar"
    }  # fmt: skip
    assert opened.files["c/2.avi"].read_bytes() == b"first"
    assert len(opened.notes) == 2


def test_of_two_members_of_one_name_the_later_counts(tmp_path: Path) -> None:
    for kind in ("tar", "tar.gz"):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz" if kind == "tar.gz" else "w") as tar:
            for data in (b"first", b"second"):
                info = tarfile.TarInfo("list.txt")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        source = write(tmp_path / kind / f"a.{kind}", raw.getvalue()).parent
        opened = open_source(source)
        assert [file.read_bytes() for file in opened.files.values()] == [b"second"]
        assert "the later ones count" in opened.notes[0]


# ---- official lists


def test_ucf101_lists_in_their_zip(tmp_path: Path) -> None:
    write_ucf_lists(tmp_path / "lists" / "ucfTrainTestlist")
    source = touch(tmp_path / "source", *(f"UCF-101/{path}" for path in UCF.values()))
    write(source / "UCF101TrainTestSplits-RecognitionTask.zip", zip_bytes(files_of(tmp_path / "lists")))
    listing = read("ucf101", source)
    assert [video.id for video in listing.videos] == sorted(UCF.values())
    assert not any(video.problem for video in listing.videos)


def test_hmdb51_as_it_comes(tmp_path: Path) -> None:
    """hmdb51_org.rar holds a rar for each class, the lists are in another; the unpacked folder gives the same store."""
    source, folder = tmp_path / "source", tmp_path / "folder"
    write_hmdb_lists(folder / "testTrainMulti_7030_splits")
    lists = rar_bytes(files_of(folder))
    place_videos(folder, [f"{name}/{file}" for name, tags in HMDB_TAGS.items() for file in tags])
    videos = {name: data for name, data in files_of(folder).items() if name.endswith(".avi")}
    write(source / "hmdb51_org.rar", rar_bytes(inner_rars(videos)))
    write(source / "test_train_splits.rar", lists)
    for name in ("source", "folder"):
        prep(tmp_path / name, tmp_path / f"store of {name}", dataset="hmdb51")
    assert hashes(tmp_path / "store of source") == hashes(tmp_path / "store of folder")
    assert len(manifest(tmp_path / "store of source")) == 6
