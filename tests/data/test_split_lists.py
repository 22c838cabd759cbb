"""Official lists as people hold them, whole and spoiled, and the videos that they name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vidssl.errors import DataError

from .official import HMDB_TAGS, UCF, read, touch, write_hmdb_lists, write_tables, write_ucf_lists


def test_videos_are_found_however_they_lie(tmp_path: Path) -> None:
    write_ucf_lists(tmp_path)
    flat = touch(tmp_path, *(f"all/{Path(path).name}" for path in UCF.values()))
    listing = read("ucf101", flat)
    assert [video.id for video in listing.videos] == sorted(UCF.values())
    assert not [video for video in listing.videos if video.problem]
    assert listing.ignored == 0
    other = tmp_path / "other"
    write_ucf_lists(other / "lists")
    shutil.copytree(other / "lists", other / "copy" / "lists")  # the same lists twice are no matter
    again = [f"x/{path}".replace("/HandstandP", "/HandStandP").replace(".avi", ".MP4") for path in UCF.values()]
    again = [path.replace("v_HandStand", "v_Handstand") for path in again]
    listing = read("ucf101", touch(other, *again))
    assert [video.id for video in listing.videos] == sorted(UCF.values())
    assert {video.file.path.relative_to(other).as_posix() for video in listing.videos} == set(again)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_bytes().decode()
    assert old in text
    file.write_bytes(text.replace(old, new).encode())


def spoil_ucf(kind: str, lists: Path) -> None:
    train, test, classes = (lists / name for name in ("trainlist01.txt", "testlist01.txt", "classInd.txt"))
    match kind:
        case "one missing":
            test.unlink()
        case "cut between lines":
            train.write_bytes(b"".join(train.read_bytes().splitlines(keepends=True)[:-2]))
        case "cut in a line":
            test.write_bytes(test.read_bytes()[:-7])
        case "cut in a number":
            train.write_bytes(train.read_bytes()[:-3])
        case "empty":
            test.write_bytes(b"")
        case "classes cut":
            classes.write_bytes(b"1 Hammering\r\n")
        case "classes of another":
            classes.write_bytes(b"1 Hammering\r\n2 HandstandPushups\r\n3 HammerThrow\r\n")
        case "classes without numbers":
            classes.write_bytes(b"Hammering\r\n")
        case "swapped":
            kept = train.read_bytes()
            train.write_bytes(test.read_bytes())
            test.write_bytes(kept)
        case "train twice":
            test.write_bytes(train.read_bytes())
        case "split 2 for split 1":
            shutil.copy(lists / "trainlist02.txt", train)
        case "two that differ":
            (lists / "old").mkdir()
            (lists / "old/testlist01.txt").write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("one missing", "lacks testlist01.txt"), ("cut between lines", "split 1 .* lack 2 of the 9 videos"),
        ("cut in a line", "testlist01.txt line 3 is"), ("cut in a number", "number of its class"),
        ("empty", "split 1 .* lack 3 of the 9"), ("classes cut", "does not fit .*classInd.txt"),
        ("classes of another", "does not fit .*classInd.txt"), ("classes without numbers", "classInd.txt line 1"),
        ("swapped", "trainlist01.txt line 1"), ("train twice", "in split 1 already"),
        ("split 2 for split 1", "in split 1 already"), ("two that differ", "testlist01.txt differ"),
    ],
)  # fmt: skip
def test_spoiled_ucf101_lists_are_refused(tmp_path: Path, kind: str, words: str) -> None:
    write_ucf_lists(tmp_path)
    touch(tmp_path, *UCF.values())
    read("ucf101", tmp_path)
    spoil_ucf(kind, tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        read("ucf101", tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_test_lists_with_numbers_are_read_and_compared(tmp_path: Path) -> None:
    write_ucf_lists(tmp_path)
    touch(tmp_path, *UCF.values())
    edit(tmp_path / "testlist02.txt", "g02_c01.avi\r\n", "g02_c01.avi 1\r\n")
    with pytest.raises(DataError, match=r"testlist02.txt line 2 .* does not fit .*HammerThrow 2"):
        read("ucf101", tmp_path)
    edit(tmp_path / "testlist02.txt", "HammerThrow_g02_c01.avi 1", "HammerThrow_g02_c01.avi 2")
    edit(tmp_path / "testlist02.txt", "Pushups_g02_c01.avi 1", "Pushups_g02_c01.avi 3")
    assert len(read("ucf101", tmp_path).videos) == 9


def spoil_hmdb(kind: str, lists: Path) -> None:
    match kind:
        case "one missing":
            (lists / "chew_test_split3.txt").unlink()
        case "a tag of its own":
            edit(lists / "chew_test_split2.txt", "b_chew_1.avi 1", "b_chew_1.avi 3")
        case "no tag":
            edit(lists / "chew_test_split2.txt", "b_chew_1.avi 1", "b_chew_1.avi")
        case "cut":
            edit(lists / "chew_test_split2.txt", "c_chew_2.avi 1 \n", "")
        case "twice":
            edit(lists / "chew_test_split2.txt", "c_chew_2.avi 1", "b_chew_1.avi 2")
        case "of UCF101":
            for file in lists.glob("*.txt"):
                file.unlink()
            write_ucf_lists(lists)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("one missing", r"lacks 1 of 6 lists \(chew_test_split3.txt\)"), ("a tag of its own", "split2.txt line 2"),
        ("no tag", "split2.txt line 2"), ("cut", "split 2 .* lack 1 of the 6 videos .*chew/c_chew_2.avi"),
        ("twice", "chew/b_chew_1.avi', which is in split 2 already"),
        ("of UCF101", "no HMDB51 lists .*Found instead: classInd.txt, testlist01.txt"),
    ],
)  # fmt: skip
def test_spoiled_hmdb51_lists_are_refused(tmp_path: Path, kind: str, words: str) -> None:
    write_hmdb_lists(tmp_path)
    touch(tmp_path, *(f"{name}/{file}" for name, tags in HMDB_TAGS.items() for file in tags))
    read("hmdb51", tmp_path)
    spoil_hmdb(kind, tmp_path)
    with pytest.raises(DataError, match=words):
        read("hmdb51", tmp_path)


def test_sources_without_videos_or_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read("ucf101", tmp_path / "gone")
    touch(tmp_path, "UCF-101/a.avi", "UCF101TrainTestSplits-RecognitionTask.zip")
    with pytest.raises(DataError, match=r"Found instead: UCF101TrainTestSplits-RecognitionTask\.zip"):
        read("ucf101", tmp_path)
    write_ucf_lists(tmp_path)
    with pytest.raises(DataError, match=r"none of the 9 videos .* it holds 1 others \(UCF-101/a.avi\)"):
        read("ucf101", tmp_path)


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    write_hmdb_lists(tmp_path)
    touch(tmp_path, "chew/b_chew_1.avi", "copy/chew/b_chew_1.avi")
    with pytest.raises(DataError, match=r"holds 2 files for the video 'chew/b_chew_1.avi'"):
        read("hmdb51", tmp_path)
    shutil.rmtree(tmp_path / "chew")
    shutil.rmtree(tmp_path / "copy")
    for split in (1, 2, 3):
        edit(tmp_path / f"brush_hair_test_split{split}.txt", "d_brush_hair_0.avi", "b_chew_1.avi")
    with pytest.raises(
        DataError, match=r"all/b_chew_1.avi .* can be 'brush_hair/b_chew_1.avi' and 'chew/b_chew_1.avi'"
    ):
        read("hmdb51", touch(tmp_path, "all/b_chew_1.avi"))


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (
            {"train": "a.mp4 x", "test": "b.mp4 y", "train2": "b.mp4 x", "test2": "a.mp4 x"},
            "train2.csv line 2 and test",
        ),
        ({"train": "a.mp4 x", "train2": "b.mp4 x", "test2": "b.mp4 x"}, "test2.csv line 2 and train2.csv line 2"),
        ({"train": "a.mp4 x", "train2": "b.mp4 x"}, "train2.csv and no test2.csv"),
        ({"train2": "a.mp4 x", "test2": "b.mp4 x"}, "neither train.csv nor test.csv"),
    ],
)
def test_further_tables_that_do_not_fit(tmp_path: Path, tables: dict[str, str], words: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(DataError, match=words):
        read("folder", write_tables(tmp_path, **tables))
