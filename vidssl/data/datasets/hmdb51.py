"""HMDB51 (Kuehne, Jhuang, Garrote, Poggio and Serre, ICCV 2011): 51 classes, three official splits of the same videos.

The lists come in test_train_splits.rar as the folder testTrainMulti_7030_splits, three for every class:

    wave_test_split1.txt    "FILE.avi 1": 1 is train, 2 is test, 0 is neither in this split (but may be in another)

Classes are numbered in order of their names. File names hold `#`, `&`, `;`, brackets and more, all taken as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DataError
from ..sources import Listing, SourceFile
from .split_lists import SPLITS, OfficialLists, examples, list_official, read_lines

_ORIGIN = "HMDB51 lists (CLASS_test_split1.txt to CLASS_test_split3.txt of test_train_splits.rar)"
_FILE = re.compile(r"(.+)_test_split[123]\.txt")
_LINE = re.compile(r"([^/]+\.avi)\s+(\d+)")
_ROLES = {"0": "", "1": "train", "2": "test"}


def list_videos(source: Path, without: Path | None = None) -> Listing:
    """Reads a folder with the videos of HMDB51 (in class folders or not) and its lists. See `list_official`."""
    return list_official(source, without, _FILE, _read, _ORIGIN)


def _read(lists: dict[str, SourceFile]) -> OfficialLists:
    official = OfficialLists(sorted({match[1] for match in map(_FILE.fullmatch, lists) if match}))
    wanted = [_name(label, split) for label in official.classes for split in SPLITS]
    missing = [name for name in wanted if name not in lists]
    if missing:
        folder = next(iter(lists.values())).folder
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(wanted)} lists ({examples(missing)}). Every class has one for each "
            f"of the three splits: unpack the {_ORIGIN} again."
        )
    for label in official.classes:
        for split in SPLITS:
            file = lists[_name(label, split)]
            for line, text in read_lines(file):
                place = f"{file} line {line}"
                match = _LINE.fullmatch(text)
                if not match or match[2] not in _ROLES:
                    raise DataError(
                        f"{place} is {text[:100]!r}, not FILE.avi and 1 (train), 2 (test) or 0 (unused). Unpack the "
                        f"{_ORIGIN} again."
                    )
                official.add((label, match[1]), split, _ROLES[match[2]], place)
    return official


def _name(label: str, split: str) -> str:
    return f"{label}_test_split{split}.txt"
