"""Something-Something V2 as people hold it: both names of the tables, both suffixes of the videos, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vidssl.errors import DataError

from .official import edit, listed, read, touch, write_ssv2

CLASSES = ["Holding something", "Attaching something to something", "Something falling like a feather"]
EXPECTED = {
    "78687": (CLASSES[0], "train"),
    "42326": (CLASSES[1], "train"),
    "1": (CLASSES[2], "train"),
    "74225": (CLASSES[1], "test"),
}


@pytest.mark.parametrize("before", ["", "something-something-v2-"])
def test_tables_and_videos_under_both_names(tmp_path: Path, before: str) -> None:
    write_ssv2(tmp_path / "labels", before)
    (tmp_path / "labels" / f"{before}test.json").write_text('[{"id": "1420"}, {"id": "74225"}]')
    touch(tmp_path, "20bn/78687.webm", "20bn/42326.webm", "20bn/1.mp4", "20bn/74225.mp4", "20bn/1420.webm")
    listing = read("ssv2", tmp_path)
    assert listed(listing) == EXPECTED
    assert listing.classes == CLASSES  # by the labels table's numbers, which are not those of sorted names
    assert (listing.unused, listing.unlisted, listing.missing) == ({f"named by {before}test.json alone": 1}, [], [])


def test_ids_may_be_numbers_and_videos_may_be_missing(tmp_path: Path) -> None:
    write_ssv2(tmp_path)
    edit(tmp_path / "something-something-v2-train.json", '"78687"', "78687")
    listing = read("ssv2", touch(tmp_path, "78687.webm", "900000.webm"))
    assert listed(listing) == {"78687": EXPECTED["78687"]}
    assert [tuple(video) for video in listing.missing] == [(name, *EXPECTED[name]) for name in ("1", "42326", "74225")]
    assert listing.unlisted == ["900000.webm"]


@pytest.mark.parametrize(
    ("table", "old", "new", "words"),
    [
        ("labels", '"2"', '"3"', r"has 3 classes, whose numbers are not 0 to 2"),
        ("labels", '"2"', '"two"', r"no table of classes and their numbers"),
        ("labels", '"2"\n}', '"2"', r"labels.json is no JSON .*it was cut"),
        ("labels", '"Holding something"', '"Folding something"', r"row 1 of .*train.json .*no class of .*labels.json"),
        ("train", "[Something] falling", "[Something] fading", r"row 3 of .*train.json .*no class"),
        ("train", '"template"', '"form"', r"row 1 of .*train.json has the template None"),
        ("train", '"id": "42326"', '"id": "78687"', r"row 2 of .*names '78687', which is in the train part already"),
        ("train", '"id": "1"', '"name": "1"', r"row 3 of .*names the video ''"),
        ("validation", "74225", "78687", r"row 1 of .*validation.json names '78687', which is in the train part"),
    ],
)
def test_spoiled_tables_are_refused(tmp_path: Path, table: str, old: str, new: str, words: str) -> None:
    write_ssv2(tmp_path)
    touch(tmp_path, "1.webm")
    edit(tmp_path / f"something-something-v2-{table}.json", old, new)
    with pytest.raises(DataError, match=words):
        read("ssv2", tmp_path)


def test_tables_that_lack_or_differ_are_refused(tmp_path: Path) -> None:
    write_ssv2(tmp_path)
    touch(tmp_path, "1.webm")
    (tmp_path / "old").mkdir()
    (tmp_path / "old/train.json").write_text(json.dumps([]))
    with pytest.raises(DataError, match=r"v2-train.json and .*old/train.json differ|old/train.json and .* differ"):
        read("ssv2", tmp_path)
    (tmp_path / "old/train.json").unlink()
    (tmp_path / "something-something-v2-labels.json").unlink()
    with pytest.raises(DataError, match=r"lacks the table labels of Something-Something V2"):
        read("ssv2", tmp_path)
