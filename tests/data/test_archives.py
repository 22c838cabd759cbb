"""Sources in archives: the same store as unpacked, bounded disk, and archives that are cut, locked or malicious."""

from __future__ import annotations

import base64
import gzip
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rarfile

from tests.media import moving_square, write_video
from vidssl.data import archive_cache, archives, feeder, prep_work, rar, work
from vidssl.data.archives import list_members, read_contents, stream
from vidssl.data.prep_summary import PrepSummary
from vidssl.data.sources import open_source
from vidssl.errors import DataError, EnvironmentProblem

from .official import HMDB_TAGS, UCF, place_videos, read, touch, write_hmdb_lists, write_ucf_lists
from .packing import ENCRYPTED, SOLID, cut_in_parts, files_of, rar_bytes, tar_bytes, zip_bytes
from .prepared import hashes, manifest
from .prepared import prep as run_prep
from .test_prep_kill import InProcess

needs_unrar = pytest.mark.skipif(not rar.programs(), reason="no unpacker for rar is installed")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prep_work, "WorkerPool", InProcess)  # processes of their own are in test_killed
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # half of the time of these tests
    return tmp_path / "home"


def prep(source: Path, store: Path, **options: Any) -> PrepSummary:
    return run_prep(source, store, **{"shard_videos": 2, **options})


def write(file: Path, data: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes below a folder, five videos, one of them bad, and another file."""
    folder = tmp_path_factory.mktemp("unpacked") / "source"
    for number in range(4):
        name = f"{'left' if number % 2 else 'right'}/{number}.mp4"
        write_video(folder / "deep" / name, moving_square(9 + number, speed=number + 1))
    write(folder / "deep/left/bad.mp4", b"no video at all")
    write(folder / "deep/notes.txt", b"hello")
    return folder


@pytest.fixture(scope="module")
def expected(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDSSL_HOME", str(tmp_path_factory.mktemp("home")))
        store = tmp_path_factory.mktemp("expected") / "store"
        run_prep(unpacked, store, shard_videos=2)
    return hashes(store)


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


@pytest.fixture
def packed(unpacked: Path, tmp_path: Path) -> Path:
    return write(tmp_path / "source" / "a.tar.gz", tar_bytes(files_of(unpacked), "w:gz")).parent


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


# ---- strangers' archives


def test_names_that_lead_out_and_links_are_left_out(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in ("../out.mp4", "/absolute.mp4", "a/../../b.mp4", "good.mp4"):
            tar.addfile(tarfile.TarInfo(name))
        for name, kind in (("link.mp4", tarfile.SYMTYPE), ("hard.mp4", tarfile.LNKTYPE), ("dev.mp4", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    source = write(tmp_path / "source" / "a.tar", raw.getvalue()).parent
    write(source / "b.zip", zip_bytes({"../../up.mp4": b"1", "C\\back\\slash.mp4": b"2"}))
    write(source / "c.rar", rar_bytes({"../up.mp4": b"1", "c.mp4": b"2"}))
    opened = open_source(source)
    assert list(opened.files) == ["C\\back\\slash.mp4", "c.mp4", "good.mp4"]
    text = " ".join(opened.notes)
    assert "3 names lead out" in text
    assert "3 links or devices" in text
    with pytest.raises(DataError, match="3 videos and none can be used"):
        prep(source, tmp_path / "store")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "source", "store"]


def encrypted_zip() -> bytes:
    data = bytearray(zip_bytes({"a.mp4": b"secret"}))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + flags] |= 1
    return bytes(data)


@pytest.mark.parametrize("name", ["a.zip", "a.rar"])
def test_encrypted(name: str, tmp_path: Path) -> None:
    data = encrypted_zip() if name == "a.zip" else rar_bytes({"a.mp4": b"x"}, file_flags=ENCRYPTED)
    source = write(tmp_path / "source" / name, data).parent
    with pytest.raises(DataError, match=rf"{name}: it is encrypted: unpack it with its password"):
        prep(source, tmp_path / "store")


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"\x1f\x8b\x08", b"PK\3\4", b"Rar!\x1a\x07\0"])
def test_no_archive_at_all(data: bytes, tmp_path: Path) -> None:
    for suffix in ("zip", "tar.gz", "rar"):
        source = write(tmp_path / suffix / f"a.{suffix}", data).parent
        with pytest.raises(DataError, match=r"a\.(zip|tar\.gz|rar): it is "):
            open_source(source)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "rar"])
def test_cut_archives_give_what_comes_before(kind: str, unpacked: Path, tmp_path: Path) -> None:
    [(name, data)] = KINDS[kind](files_of(unpacked)).items()
    source, store = tmp_path / "source", tmp_path / "store"
    half = len(data) // 2 if kind == "tar.gz" else data.index(files_of(unpacked)["deep/left/3.mp4"]) + 100
    write(source / name, data[:half])
    summary = prep(source, store)
    rows = manifest(store)
    assert summary.ok >= 1
    assert len(rows) < 5
    [cut] = [path for path, row in rows.items() if "cut or damaged there" in row["reason"]]
    assert rows[cut]["status"] == "rejected"
    [note] = open_source(source).notes
    assert "is not known" in note
    before = hashes(store)
    assert prep(source, store).skipped == len(rows)  # it is not tried again and again
    assert hashes(store) == before
    write(source / name, data)  # downloaded again, whole: the same size and time of the member
    os.utime(source / name, (7, 7))
    assert prep(source, store).ok == 4
    assert manifest(store)[cut]["revision"] == 1


def test_cut_zip_is_named(tmp_path: Path, unpacked: Path) -> None:
    data = zip_bytes(files_of(unpacked))
    source = write(tmp_path / "source" / "a.zip", data[:-50]).parent
    with pytest.raises(DataError, match=r"a\.zip: it is cut or damaged"):
        prep(source, tmp_path / "store")


def test_a_broken_header_is_no_end(tmp_path: Path) -> None:
    """tarfile ends there without a word."""
    data = bytearray(tar_bytes({f"{n}.mp4": b"x" * 600 for n in range(4)}))
    data[3 * 512 + 20] ^= 0xFF  # the first member takes three blocks
    for name, content in (("a.tar", bytes(data)), ("a.tar.gz", gzip.compress(bytes(data)))):
        opened = open_source(write(tmp_path / name / name, content).parent)
        assert list(opened.files) == ["0.mp4"]
        assert "after 0.mp4 is not known" in opened.notes[0]


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("zip, stored", ["deep/right/0.mp4"]),
        ("rar", ["deep/right/0.mp4"]),
        ("rars in rar", ["deep/right/0.mp4"]),
        pytest.param("solid rar", ["deep/right/0.mp4", "deep/right/2.mp4"], marks=needs_unrar),
    ],
)
def test_a_broken_member_does_not_spoil_the_others(kind: str, lost: list[str], unpacked: Path, tmp_path: Path) -> None:
    """zip and rar have checksums. In a solid rar all that comes after is lost too."""
    files, store = files_of(unpacked), tmp_path / "store"
    [(name, packed)] = KINDS[kind](files).items()
    data = bytearray(packed)
    data[packed.index(files["deep/right/0.mp4"]) + 100] ^= 0xFF
    prep(write(tmp_path / "source" / name, bytes(data)).parent, store)
    reason = f"it cannot be read: its archive {name} is cut or damaged there"
    assert sorted(path for path, row in manifest(store).items() if row["reason"] == reason) == lost


def test_a_member_that_cannot_be_opened(unpacked: Path, tmp_path: Path) -> None:
    """The header before its content is damaged; the archive is within another one and read in order."""
    files, store = files_of(unpacked), tmp_path / "store"
    data = bytearray(zip_bytes(files))
    data[data.index(b"PK\3\4", 10)] ^= 0xFF
    prep(write(tmp_path / "source" / "a.tgz", tar_bytes({"b.zip": bytes(data)}, "w:gz")).parent, store)
    rows = manifest(store)
    assert [path for path, row in rows.items() if "is cut or damaged there" in row["reason"]] == ["deep/left/3.mp4"]
    assert len(rows) == 5


def test_a_missing_part_is_named(unpacked: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    parts = ssv2_parts(files_of(unpacked), wrapped=False)
    for name in sorted(parts)[::2]:
        write(source / name, parts[name])
    opened = open_source(source)
    assert "number 1 is missing" in " ".join(opened.notes)
    assert 1 <= len(opened.videos()) < 5


# ---- rar


# rar3-solid.rar and rar5-solid.rar of the tests of rarfile 4.5 (markokr/rarfile, ISC licence), made with rar itself:
# two files of the lines 000 to 511.
SOLID_RARS = {
    3: (
        "UmFyIRoHADvQcwgADQAAAAAAAAArNHSAkCwAXAAAAAAIAAADoua3xbBmzD4dMwoApIEAAHN0ZXN0MS50eHQAwBEMzP6MnrD+MYGr"
        "rLG7QHeoCmTWSzeDwQe8AeCFku77th0ACCAACIjpeAzSDAdhOkF4S7Nun1IK2sonQLrnC2SKYnH7uACRnlAv2FX/+sZY6+vE14h+"
        "VJaHH03s2RZ0kJAsAA4AAAAACAAAA6Lmt8WwZsw+HTMKAKSBAABzdGVzdDIudHh0AMCxIACIB+vyCmn6/JTe0MQ9ewBABwA="
    ),
    5: (
        "UmFyIRoHAQAJ78hvCwEFBwQGAQGAgIAA3vVwchwCAroABIAQtoMCoua3xYAbAQpzdGVzdDEudHh0waw3REQj+iP2l/1iU1G+TJGB"
        "QQKMwQN5XL9Ho6otoDaT3aBYAEACANRQBHb2xH8y6p8ypcTM14PfABDoLYkcAgKNAASAELaDAqLmt8XAGwEKc3Rlc3QyLnR4dEUV"
        "CmABAAgD37f79vwdd1ZRAwUEAA=="
    ),
}


@needs_unrar
@pytest.mark.parametrize("version", SOLID_RARS)
def test_compressed_solid_rar(version: int, tmp_path: Path) -> None:
    archive = write(tmp_path / "a.rar", base64.b64decode(SOLID_RARS[version]))
    text = "".join(f"{n:03d}\n" for n in range(512)).encode()
    assert [(m.name, m.bytes, m.offset) for m in list_members(archive)] == [
        ("stest1.txt", 2048, None), ("stest2.txt", 2048, None)
    ]  # fmt: skip
    assert [content.read() for _, content in stream(archive, {"stest1.txt", "stest2.txt"})] == [text, text]
    assert [content.read() for _, content in stream(archive, {"stest2.txt"})] == [text]


def test_without_an_unpacker(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "source" / "a.rar", rar_bytes({"c/a.mp4": b"x"}, SOLID)).parent
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="apt install unar"):
        prep(source, tmp_path / "store")
    write(source / "a.rar", rar_bytes(files_of(unpacked)))  # stored: needs none
    assert prep(source, tmp_path / "store").ok == 4


def packed_rar(files: dict[str, bytes]) -> bytes:
    """Files said to be compressed, with contents that are not."""
    whole, blocks = rar_bytes({}), b""
    for name, data in files.items():
        file = bytearray(rar_bytes({name: data})[len(whole) - 7 : -7])  # between the archive's own blocks
        end = int.from_bytes(file[5:7], "little")
        file[25] = 0x33
        file[:2] = (zlib.crc32(file[2:end]) & 0xFFFF).to_bytes(2, "little")
        blocks += file
    return whole[:-7] + blocks + whole[-7:]


@needs_unrar
def test_names_in_a_rar_are_no_options(tmp_path: Path) -> None:
    """bsdtar would run this one."""
    mark = tmp_path / "mark"
    for start in ("--use-compress-program=touch", "@"):
        name = f"{start} {mark} #a.mp4"
        archive = write(tmp_path / "a.rar", packed_rar({name: b"x" * 99}))
        with pytest.raises((rarfile.BadRarFile, EnvironmentProblem)):
            [content.read() for _, content in stream(archive, {name})]
        assert not mark.exists()


def test_unpackers_that_cannot_do_it(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that gives nothing is no reason to reject videos; what one that gives a part leaves is asked of the next."""
    videos = [unpacked / f"deep/right/{n}.mp4" for n in (0, 2)]
    source, store, bin_folder = tmp_path / "source", tmp_path / "store", tmp_path / "bin"
    write(source / "a.rar", packed_rar({f"c/{video.name}": video.read_bytes() for video in videos}))
    monkeypatch.setenv("PATH", str(bin_folder))

    def install(program: str, *words: object) -> None:
        write(bin_folder / program, "\n".join(["#!/bin/sh", *map(str, words)]).encode()).chmod(0o755)

    install("7z", "exit 2")  # as without its codec for rar
    with pytest.raises(EnvironmentProblem, match=r"installed here \(7z\) unpacks .*a\.rar"):
        prep(source, store)
    install("7z", f"/bin/cat {videos[0]} /bin/sh")
    summary = prep(source, store)
    assert (summary.ok, summary.rejected) == (1, 1)
    assert prep(source, store).skipped == 2
    install("unrar", f"/bin/cat {videos[0]} {videos[1]}")
    summary = prep(source, store)
    assert (summary.ok, summary.rejected, summary.skipped) == (2, 0, 1)


def test_ctrl_c_ends_the_look_into_archives(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def endless(path: Path, tick: Callable[[int], None]) -> None:
        latest = time.monotonic() + 10
        try:
            while time.monotonic() < latest:
                tick(1)
        finally:
            ended.append(time.monotonic() < latest)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive_cache, "read_contents", endless)
    monkeypatch.setattr("vidssl.data.archive_cache.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_source(packed)
    assert ended == [True]


def test_a_checksum_at_the_end_is_read(tmp_path: Path) -> None:
    """tarfile stops before it."""
    data = tar_bytes({"a.mp4": b"x" * 5000, "b.mp4": b"y" * 5000}, "w:gz")
    wrong = data[:-8] + bytes(4) + data[-4:]
    for number, (content, whole) in enumerate([(data, True), (wrong, False), (data[:-8], False), (data[:-1], False)]):
        contents = read_contents(write(tmp_path / f"{number}.tar.gz", content))
        assert [member.path for member in contents.members] == ["a.mp4", "b.mp4"]
        assert contents.whole == whole
        assert bool(contents.notes) != whole


def test_a_tar_whose_first_name_begins_like_a_zip(tmp_path: Path) -> None:
    source = write(tmp_path / "source" / "a.tar", tar_bytes({"PKU-MMD/1.mp4": b"one"})).parent
    assert open_source(source).files["PKU-MMD/1.mp4"].read_bytes() == b"one"


@pytest.mark.parametrize("time", ["nonsense", "nan", "-inf", "1e400000", "99999999999999999999"])
def test_times_that_are_none(time: str, tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.mp4")
        info.pax_headers = {"mtime": time}
        tar.addfile(info)
    [member] = list_members(write(tmp_path / "a.tar", raw.getvalue()))
    assert abs(member.mtime_ns) <= 2**63
    data = bytearray(zip_bytes({"a.mp4": b"x"}))
    for signature, place in ((b"PK\3\4", 10), (b"PK\1\2", 12)):
        first = data.index(signature) + place
        data[first : first + 4] = bytes(4)  # no month, no day
    [member] = list_members(write(tmp_path / "a.zip", bytes(data)))
    assert member.mtime_ns == 0


def test_a_later_volume_of_a_rar_is_noticed(tmp_path: Path) -> None:
    for first, second in (("a.part1.rar", "a.part2.rar"), ("b.rar", "b.r00")):
        archive = write(tmp_path / first, b"1")
        before = archive_cache.stamp(archive)
        write(tmp_path / second, b"2")
        assert [name for name, _, _ in archive_cache.stamp(archive)] == sorted([first, second])
        assert len(before) == 1


def test_reading_a_table_leaves_the_rest_alone(tmp_path: Path) -> None:
    files = {f"{n}.npy": bytes(8 << 20) for n in range(3)} | {"a.csv": b"label", "notes": b"hello"}
    opened = open_source(write(tmp_path / "a.tar.gz", tar_bytes(files, "w:gz")))
    tracemalloc.start()
    try:
        assert [opened.files[name].read_bytes() for name in ("a.csv", "notes")] == [b"label", b"hello"]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_many_zips_are_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        method = zipfile.ZIP_STORED if number % 2 else zipfile.ZIP_DEFLATED
        files = {f"{number}/{n}.mp4": b"%d of %d" % (n, number) for n in range(3)}
        write(tmp_path / f"{number}.zip", zip_bytes(files, method))
    opened, looks = open_source(tmp_path), []
    real = zipfile.ZipFile.__init__
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *words: (looks.append(1), real(*words))[1])
    for n in range(3):
        for number in range(6):
            assert opened.files[f"{number}/{n}.mp4"].read_bytes() == b"%d of %d" % (n, number)
    assert len(looks) == 6


def test_a_zip_method_that_is_not_known_is_named(tmp_path: Path) -> None:
    """9 is Deflate64, which Windows takes for files above 2 GB."""
    data = bytearray(zip_bytes({"big.mp4": b"x", "small.mp4": b"y"}))
    for signature, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        data[data.index(signature) + place] = 9
    opened = open_source(write(tmp_path / "a.zip", bytes(data)))
    assert list(opened.files) == ["small.mp4"]
    assert "1 of its files are left out, packed by a method that Python does not know (9" in opened.notes[0]


def test_names_that_only_look_like_parts(tmp_path: Path) -> None:
    data = tar_bytes({"a.mp4": b"x"}, "w:gz")
    for name in ("setup.tar.sh", "x.tar.gz.md", "train.tar.gz", "train.tar.gz.1", "train.tar.gz.2"):
        write(tmp_path / name, data)
    assert open_source(tmp_path).archives == ["train.tar.gz"]
    write(tmp_path / "alone.tar.gz.aa", data)
    assert open_source(tmp_path).archives == ["alone.tar.gz.aa", "train.tar.gz"]


def test_what_macos_adds_is_no_video(tmp_path: Path) -> None:
    names = ("c/1.mp4", "c/._1.mp4", "__MACOSX/c/._1.mp4", "__MACOSX/c/2.mp4", "__MACOSX/._b.zip")
    write(tmp_path / "a.zip", zip_bytes(dict.fromkeys(names, b"x")))
    for name in ("d/._3.mp4", "d/3.mp4", "._e.zip"):
        write(tmp_path / name, b"x")
    opened = open_source(tmp_path)
    assert sorted(opened.videos()) == ["c/1.mp4", "d/3.mp4"]
    assert not opened.notes


def test_the_estimate_does_not_count_reading(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a zip within a tar.gz too, in a dry run, where there is no staging folder to copy it to."""
    [(name, data)] = KINDS["zip in tar.gz"](files_of(unpacked)).items()
    source = write(tmp_path / "source" / name, data).parent
    usual, starts = prep(unpacked, tmp_path / "store", dry_run=True).estimated_seconds, []
    monkeypatch.setattr(feeder, "stream", lambda *words: (starts.append(1), time.sleep(1), stream(*words))[2])
    assert prep(source, tmp_path / "store", dry_run=True).estimated_seconds < usual + 0.5
    assert starts == [1]
