"""Kinetics-400 as people hold it: names of tables, names of files, folders, what is missing or too much, mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidssl.errors import DataError

from .official import K400, K400_ROWS, YOUTUBE, edit, listed, read, touch, write_k400, write_tables

EXPECTED = {
    name: (label, {"train": "train", "val": "test"}[split])
    for name, (label, *_, split) in zip(K400, K400_ROWS, strict=True)
}


@pytest.mark.parametrize("before", ["", "kinetics_", "kinetics-400_", "kinetics400_", "k400_"])
@pytest.mark.parametrize("validation", ["val", "validate", "validation"])
def test_tables_under_all_their_names(tmp_path: Path, before: str, validation: str) -> None:
    write_k400(tmp_path / "annotations", train=f"{before}train.csv", val=f"{before}{validation}.csv")
    listing = read("k400", touch(tmp_path, *(f"all/{name}.mp4" for name in K400)))
    assert listed(listing) == EXPECTED
    assert listing.classes == ["abseiling", "air drumming", "shooting goal (soccer)"]
    assert (listing.missing, listing.unlisted, listing.unused, listing.ignored) == ([], [], {}, 0)


def test_files_under_all_their_names(tmp_path: Path) -> None:
    """Class folders with blanks, with underscores, of another class, or none; other suffixes; the bare YouTube id."""
    write_k400(tmp_path)
    files = [f"train/abseiling/{K400[0]}.webm", f"a/air_drumming/{YOUTUBE[2]}.mkv"]
    files += [f"train/abseiling/{YOUTUBE[3]}.MP4", f"{K400[3]}.avi"]
    listing = read("k400", touch(tmp_path, *files))
    assert listed(listing) == EXPECTED
    assert [video.file.id for video in listing.videos] == [dict(zip(K400, files, strict=True))[n] for n in sorted(K400)]


def test_youtube_ids_that_differ_by_case_are_two(tmp_path: Path) -> None:
    write_k400(tmp_path)
    listing = read("k400", touch(tmp_path, f"{K400[2]}.mp4"))
    assert listed(listing) == {K400[2]: EXPECTED[K400[2]]}
    assert [video.id for video in listing.missing] == sorted({*K400} - {K400[2]})


def test_a_bare_youtube_id_of_two_clips_is_neither(tmp_path: Path) -> None:
    two = [("abseiling", YOUTUBE[0], start, start + 10, "train") for start in (0, 100)]
    write_k400(tmp_path, [*K400_ROWS[1:], *two])
    files = touch(tmp_path, f"{YOUTUBE[0]}.mp4", f"{YOUTUBE[0]}_000100_000110.mp4", f"{YOUTUBE[2]}.mp4")
    listing = read("k400", touch(files, f"{K400[1]}.mp4", "some_other_000000_000010.mp4"))
    assert sorted(listed(listing)) == sorted([f"{YOUTUBE[0]}_000100_000110", K400[1]])
    # the full name of a clip goes before the bare one of the same clip
    assert listing.unlisted == [f"{YOUTUBE[0]}.mp4", f"{YOUTUBE[2]}.mp4", "some_other_000000_000010.mp4"]


def test_times_as_older_tables_have_them(tmp_path: Path) -> None:
    write_k400(tmp_path)
    edit(tmp_path / "train.csv", ",59,69,", ",59.0,69.0,")
    assert K400[0] in listed(read("k400", touch(tmp_path, f"{K400[0]}.mp4")))


def test_videos_of_the_test_table_are_counted_and_left_alone(tmp_path: Path) -> None:
    write_k400(tmp_path, [*K400_ROWS, ("", "Test_Video1", 3, 13, "test")])
    edit(tmp_path / "test.csv", "label,", "")
    edit(tmp_path / "test.csv", "\n,", "\n")
    files = [f"{name}.mp4" for name in K400] + ["test/Test_Video1_000003_000013.mp4"]
    listing = read("k400", touch(tmp_path, *files))
    assert listed(listing) == EXPECTED
    assert (listing.unused, listing.unlisted) == ({"named by test.csv alone": 1}, [])


def test_replacements_go_before_the_corrupted(tmp_path: Path) -> None:
    write_k400(tmp_path)
    replacement = f"replacement/replacement_for_corrupted_k400/{K400[0]}.mp4"
    listing = read("k400", touch(tmp_path, replacement, *(f"train/{name}.mp4" for name in K400)))
    assert {video.id: video.file.id for video in listing.videos}[K400[0]] == replacement
    assert listing.unused == {"replaced by a file for corrupted ones": 1}


def test_lists_of_other_projects_beside_the_official_ones(tmp_path: Path) -> None:
    """VideoMAE's train.csv is no table of Kinetics; the official one has another name or lies in another folder."""
    write_k400(tmp_path / "annotations")
    (tmp_path / "train.csv").write_text("a.mp4 0\nb.mp4 1\n")
    assert listed(read("k400", touch(tmp_path, f"{K400[0]}.mp4"))) == {K400[0]: ("abseiling", "train")}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("time_start,", "begin,", r"train.csv begins with 'label,youtube_id,begin"),
        (",59,69,", ",59,", r"train.csv line 2 has 5 fields, the first line 6"),
        (",59,69,", ",soon,69,", r"line 2 has the times 'soon' and '69'"),
        (",59,69,train", ",59,69,val", r"line 2 is of the split 'val', in a table of train"),
        ("abseiling,", ",", r"line 2 has no label"),
        ('"air drumming",', '"air drumming,', r"no proper CSV"),
        (YOUTUBE[0], "a/b", r"names the video 'a/b_000059_000069'"),
        (f"{YOUTUBE[0]},59,69", f"{YOUTUBE[2]},40,50", r"line 3 names '_dbcJuKJQNs_000040_000050', .* train part"),
        (f"{YOUTUBE[0]},59,69", f"{YOUTUBE[1]},417,427", r"val.csv line 2 names .*in the train part already"),
    ],
)
def test_spoiled_tables_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    write_k400(tmp_path)
    touch(tmp_path, f"{K400[0]}.mp4")
    edit(tmp_path / "train.csv", old, new)
    with pytest.raises(DataError, match=words):
        read("k400", tmp_path)


def test_sources_that_are_none(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "lists.json")
    with pytest.raises(DataError, match=r"lacks the table train of Kinetics-400 .*Found instead: lists.json"):
        read("k400", tmp_path)
    write_k400(tmp_path)
    with pytest.raises(DataError, match=r"none of the 4 videos .* it holds 1 others \(a.mp4\)"):
        read("k400", tmp_path)
    write_tables(tmp_path, train="a.mp4 x")
    with pytest.raises(DataError, match="begins with 'path,label'"):
        read("k400", tmp_path)


def test_another_kinetics_is_refused(tmp_path: Path) -> None:
    rows = [(f"class {n}", f"{n:011d}", 0, 10, "train") for n in range(600)]
    write_k400(tmp_path, rows)
    with pytest.raises(DataError, match="name 600 classes, Kinetics-400 has 400"):
        read("k400", touch(tmp_path, "00000000000.mp4"))


def test_two_files_for_one_video_are_refused(tmp_path: Path) -> None:
    write_k400(tmp_path)
    touch(tmp_path, *(f"{folder}/{name}.mp4" for folder in ("train", "train_256") for name in K400[:2]))
    with pytest.raises(DataError, match=r"holds 2 files for the video .* more than one for 2 videos in all"):
        read("k400", tmp_path)
