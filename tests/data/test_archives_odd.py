"""Archives that are cut, locked, malicious or only odd, and unpackers of rar that are missing or fail."""

from __future__ import annotations

import base64
import gzip
import io
import os
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rarfile

from vidssl.data import archive_cache, feeder, rar
from vidssl.data.archives import list_members, read_contents, stream
from vidssl.data.prep_summary import PrepSummary
from vidssl.data.sources import open_source
from vidssl.errors import DataError, EnvironmentProblem

from .packing import ENCRYPTED, SOLID, files_of, rar_bytes, tar_bytes, write, zip_bytes
from .prepared import hashes, manifest
from .prepared import prep as run_prep
from .test_archives import KINDS, ssv2_parts

pytestmark = pytest.mark.usefixtures("home")
needs_unrar = pytest.mark.skipif(not rar.programs(), reason="no unpacker for rar is installed")


def prep(source: Path, store: Path, **options: Any) -> PrepSummary:
    return run_prep(source, store, **{"shard_videos": 2, **options})


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
