"""UCF101 (Soomro, Zamir and Shah, CRCV-TR-12-01, 2012): 101 classes, three official splits over the same videos.

The lists come in UCF101TrainTestSplits-RecognitionTask.zip, lines end in CR-LF:

    classInd.txt       "1 ApplyEyeMakeup": the number of a class, from 1. Ours is one less.
    trainlist01.txt    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"; 02 and 03 are splits 2 and 3
    testlist01.txt     the same without the number; copies that have it are read too

The class is the folder of a line, not a part of the file's name, which can be spelled otherwise: v_HandStandPushups
lies in HandstandPushups. Classes are numbered as classInd.txt says, which is not how Python sorts them (Hammering
comes before HammerThrow there).
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DataError
from ..sources import Listing, SourceFile
from .split_lists import SPLITS, OfficialLists, examples, list_official, read_lines

_ORIGIN = "UCF101 lists (classInd.txt, trainlist01.txt to testlist03.txt of UCF101TrainTestSplits-RecognitionTask.zip)"
_CLASSES = "classInd.txt"
_FILE = re.compile(r"classInd\.txt|(?:train|test)list0[123]\.txt")
_CLASS_LINE = re.compile(r"(\d+)\s+(\S+)")
_VIDEO_LINE = re.compile(r"([^/]+)/([^/]+\.avi)(?:\s+(\d+))?")


def list_videos(source: Path, without: Path | None = None) -> Listing:
    """Reads a folder with the videos of UCF101 (in class folders or not) and its lists. See `list_official`."""
    return list_official(source, without, _FILE, _read, _ORIGIN)


def _read(lists: dict[str, SourceFile]) -> OfficialLists:
    wanted = [_CLASSES, *(_name(role, split) for split in SPLITS for role in ("train", "test"))]
    missing = [name for name in wanted if name not in lists]
    if missing:
        folder = next(iter(lists.values())).folder
        raise DataError(f"{folder} lacks {', '.join(missing)}. It takes all {len(wanted)} {_ORIGIN}: unpack it again.")
    numbers = _class_numbers(lists[_CLASSES])
    spelled = {name.casefold(): name for name in numbers}
    official = OfficialLists(list(numbers))
    for split in SPLITS:
        for role in ("train", "test"):
            file = lists[_name(role, split)]
            for line, text in read_lines(file):
                place = f"{file} line {line}"
                match = _VIDEO_LINE.fullmatch(text)
                if not match or (role == "train" and match[3] is None):
                    number = " and the number of its class" if role == "train" else ""
                    raise DataError(f"{place} is {text[:100]!r}, not CLASS/FILE.avi{number}. Unpack {_ORIGIN} again.")
                label = spelled.get(match[1].casefold())
                if label is None or (match[3] is not None and int(match[3]) != numbers[label]):
                    there = f"{label} {numbers[label]}" if label else examples(f"{n} {c}" for c, n in numbers.items())
                    raise DataError(
                        f"{place} is {text[:100]!r}, which does not fit {lists[_CLASSES]} ({there}). One of the two "
                        f"was cut, or is of another data set: unpack {_ORIGIN} again."
                    )
                official.add((label, match[2]), split, role, place)
    return official


def _name(role: str, split: str) -> str:
    return f"{role}list0{split}.txt"


def _class_numbers(file: SourceFile) -> dict[str, int]:
    """Class -> its number from 1, in order of the numbers."""
    numbers: dict[str, int] = {}
    for line, text in read_lines(file):
        match = _CLASS_LINE.fullmatch(text)
        if not match or int(match[1]) != len(numbers) + 1 or match[2].casefold() in map(str.casefold, numbers):
            raise DataError(
                f"{file} line {line} is {text[:100]!r}, not the number {len(numbers) + 1} and a class of its own. "
                f"Unpack {_ORIGIN} again."
            )
        numbers[match[2]] = int(match[1])
    return numbers
