"""Diving48, version 2 (Li, Li and Vasconcelos, RESOUND, ECCV 2018): 48 classes of dives, clips cut to one dive.

    Diving48_V2_train.json, Diving48_V2_test.json
                         [{"vid_name": "-mmq0PT-u8k_00155", "label": 0, "start_frame": 0, "end_frame": 48}, ...]
    Diving48_vocab.json  [["Back", "15som", "05Twis", "FREE"], ...]: four parts of a dive

A class is the parts of its entry, joined by blanks; its number is its place in the vocabulary, from 0. A video is the
file VID_NAME of any video suffix. The frame numbers are those of the whole clip and are not used.

The tables of version 1 (Diving48_train.json) are refused: version 2 corrected labels and took videos out, and
accuracies of the two are not comparable. Where both lie in a source, version 2 is read, and videos that only version 1
names are in no table.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DataError
from ..sources import Listing, SourceFile
from .annotated import Annotations, Origin, list_annotated, read_json

_PARTS = ("train", "test")
_ADVICE = "Take the tables of Diving48 version 2 again."


def list_videos(source: Path, without: Path | None = None) -> Listing:
    """Reads a folder with videos of Diving48 and its tables. See `list_annotated`."""
    return list_annotated(source, without, ORIGIN, read)


def read(tables: dict[str, SourceFile]) -> Annotations:
    """Reads the tables "train", "test" and "vocab". Raises DataError."""
    made = Annotations(_classes(tables["vocab"]))
    for split in _PARTS:
        table = str(tables[split])
        for number, row in enumerate(read_json(tables[split], list, _ADVICE), 1):
            place = f"row {number} of {table}"
            name, label = (row.get("vid_name"), row.get("label")) if isinstance(row, dict) else (None, None)
            if not isinstance(name, str) or type(label) is not int or not 0 <= label < len(made.classes):
                raise DataError(
                    f"{place} has the vid_name {name!r} and the label {label!r}. Legal: a name, and a label from 0 to "
                    f"{len(made.classes) - 1}, as {tables['vocab'].name} has classes. {_ADVICE}"
                )
            made.add(name, made.classes[label], split, place)
    return made


def _classes(table: SourceFile) -> list[str]:
    entries = read_json(table, list, _ADVICE)
    if not all(isinstance(entry, list) and all(isinstance(part, str) for part in entry) for entry in entries):
        raise DataError(f"{table} is no list of lists of words. {_ADVICE}")
    classes = [" ".join(entry) for entry in entries]
    if not classes or len(set(classes)) < len(classes):
        raise DataError(f"{table} names {len(classes)} classes, {len(set(classes))} of them different. {_ADVICE}")
    return classes


ORIGIN = Origin(
    "Diving48 version 2 (Diving48_V2_train.json, Diving48_V2_test.json and Diving48_vocab.json; version 1, "
    "Diving48_train.json, has other labels and is not read)",
    re.compile(r"Diving48_(?:V2_(train|test)|(vocab))\.json"),
    lambda match: match[1] or match[2],
    ("train", "test", "vocab"),
)
