"""Diving48 as people hold it: version 2 is read, version 1 is not, and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidssl.errors import DataError

from .official import edit, listed, read, touch, write_diving48

BACK, FORWARD = "Back 15som 05Twis FREE", "Forward Dive NoTwis STR"
EXPECTED = {
    "-mmq0PT-u8k_00155": (FORWARD, "train"),
    "_8Vy3dlHg2w_00000": (BACK, "train"),
    "2x00lRzlTVQ_00001": (FORWARD, "test"),
}


def test_version_2_is_read_wherever_the_videos_lie(tmp_path: Path) -> None:
    write_diving48(tmp_path / "annotations")
    write_diving48(tmp_path / "old", "")  # version 1 beside it changes nothing
    listing = read("diving48", touch(tmp_path, *(f"rgb/{name}.mp4" for name in EXPECTED), "rgb/other_00000.mp4"))
    assert listed(listing) == EXPECTED
    assert listing.classes == [BACK, FORWARD]
    assert (listing.unlisted, listing.ignored) == (["rgb/other_00000.mp4"], 2)


def test_version_1_alone_is_refused_with_the_reason(tmp_path: Path) -> None:
    write_diving48(tmp_path, "")
    with pytest.raises(DataError, match=r"lacks the table train and test .*version 1, .*other labels and is not read"):
        read("diving48", touch(tmp_path, *(f"{name}.mp4" for name in EXPECTED)))


@pytest.mark.parametrize(
    ("table", "old", "new", "words"),
    [
        ("V2_train", '"label": 1', '"label": 2', r"row 1 of .*label 2\. Legal: a name, and a label from 0 to 1"),
        ("V2_train", '"label": 1', '"label": true', r"row 1 of .*label True"),
        ("V2_train", '"label": 1', '"label": "1"', r"row 1 of .*label '1'"),
        ("V2_train", '"vid_name"', '"name"', r"row 1 of .*vid_name None"),
        ("V2_test", "2x00lRzlTVQ_00001", "_8Vy3dlHg2w_00000", r"Diving48_V2_test.json names .* in the train part"),
        ("V2_test", "[{", "{", r"V2_test.json is no JSON"),
        ("vocab", '"Forward", "Dive", "NoTwis", "STR"', '"Back", "15som", "05Twis", "FREE"', r"2 classes, 1 of them"),
        ("vocab", '["Back"', '[["Back"]', r"no list of lists of words"),
    ],
)
def test_spoiled_tables_are_refused(tmp_path: Path, table: str, old: str, new: str, words: str) -> None:
    write_diving48(tmp_path)
    touch(tmp_path, "_8Vy3dlHg2w_00000.mp4")
    edit(tmp_path / f"Diving48_{table}.json", old, new)
    with pytest.raises(DataError, match=words):
        read("diving48", tmp_path)
