"""Kinetics-400 (Kay, Carreira, Simonyan, Zhang, Hillier et al., arXiv 1705.06950, 2017): 400 classes, clips of 10 s.

The tables are read under the names that CVDF (train.csv, val.csv, test.csv), DeepMind's own archive (validate.csv) and
mmaction2 (kinetics_train.csv) give them, also with "kinetics-400_" or "k400_" before. Their first line is

    label,youtube_id,time_start,time_end,split,is_cc

A label with a blank is quoted, times are seconds. A video is the file YOUTUBEID_START_END of any video suffix, both
times of six digits, or YOUTUBEID alone (as many copies have it; where both are there the first counts). Class folders,
with blanks or underscores, do not matter.

- The validation table is our "test": the labels of the test table were held back for a challenge, so the field
  measures on validation. Videos that the test table alone names are counted and left alone. Only the train table
  has to be there.
- Files in a folder `replacement...` go before others of the same name: CVDF gives them for about 1,400 that are
  corrupted (cvdfoundation/kinetics-dataset:README.md).
- Classes are numbered in order of their names, as everybody does (checked against whwu95/MVFNet:
  data_process/annotation/kinetics400/kinetics-400_label_map.txt; underscores for blanks do not change the order).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError
from ..sources import Listing, SourceFile
from .annotated import Annotations, Origin, list_annotated

NUM_CLASSES = 400
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_SPLIT_NAMES = {"train": ("train",), "validation": ("val", "validate", "validation"), "test": ("test",)}
_ROLE = {name: role for role, names in _SPLIT_NAMES.items() for name in names}
_OURS = {"train": "train", "validation": "test"}
_ADVICE = "Take the official table again, or mend the line."


def list_videos(source: Path, without: Path | None = None) -> Listing:
    """Reads a folder with videos of Kinetics-400 and its tables. See `list_annotated`."""
    return list_annotated(source, without, ORIGIN, read)


def read(tables: dict[str, SourceFile]) -> Annotations:
    """Reads the tables "train", "validation", "test", as many as there are. Raises DataError."""
    made = Annotations([], preferred="replacement")
    clips: dict[str, list[str]] = {}
    for role in [role for role in _OURS if role in tables]:
        for place, name, youtube, label in _rows(tables[role], role):
            if not label:
                raise DataError(f"{place} has no label. {_ADVICE}")
            made.add(name, label, _OURS[role], place)
            clips.setdefault(youtube, []).append(name)
    # a file that is called by its YouTube id alone can be meant only where one clip was cut from that video
    made.other_names = {youtube: names[0] for youtube, names in clips.items() if len(names) == 1}
    if "test" in tables:
        table = tables["test"].name
        for _, name, youtube, _ in _rows(tables["test"], "test"):
            if youtube not in clips:
                made.left_out[name] = made.left_out[youtube] = table
    made.classes = sorted({label for label, _ in made.videos.values()})
    if not made.videos:
        raise DataError(f"{_several(tables)} name no video. {_ADVICE}")
    if len(made.classes) > NUM_CLASSES:
        raise DataError(
            f"{_several(tables)} name {len(made.classes)} classes, Kinetics-400 has {NUM_CLASSES}. They are those of "
            "another Kinetics, or labels were edited: give the tables of Kinetics-400."
        )
    return made


def _several(tables: dict[str, SourceFile]) -> str:
    return " and ".join(str(file) for role, file in tables.items() if role in _OURS)


def _rows(table: SourceFile, role: str) -> Iterator[tuple[str, str, str, str]]:
    """(place, clip, YouTube id, label) of each line."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns = next(reader, [])
        wanted = _COLUMNS if role in _OURS else _COLUMNS[1:]
        if not set(wanted) <= set(columns):
            raise DataError(
                f"{table} begins with {','.join(columns)[:100]!r}. The first line of a table of Kinetics-400 names "
                f"{', '.join(wanted)}. Give the official table; lists of other projects are read by none."
            )
        at = [columns.index(column) for column in wanted[-3:]]
        label_at, split_at = (columns.index(c) if c in columns else None for c in ("label", "split"))
        file = str(table)
        for fields in reader:
            if not fields:
                continue
            place = f"{file} line {reader.line_num}"
            if len(fields) != len(columns):
                raise DataError(f"{place} has {len(fields)} fields, the first line {len(columns)}. {_ADVICE}")
            youtube, start, end = (fields[n] for n in at)
            try:
                name = f"{youtube}_{int(float(start)):06d}_{int(float(end)):06d}"
            except (ValueError, OverflowError):
                raise DataError(f"{place} has the times {start!r} and {end!r}, not seconds. {_ADVICE}") from None
            if split_at is not None and fields[split_at] not in _SPLIT_NAMES[role]:
                raise DataError(
                    f"{place} is of the split {fields[split_at]!r}, in a table of {role}. Give every table its "
                    "official name."
                )
            yield place, name, youtube, fields[label_at] if label_at is not None else ""
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}). {_ADVICE}") from None
    except csv.Error as error:
        raise DataError(f"{table} is no proper CSV ({error}). {_ADVICE}") from None


def _is_table(file: SourceFile) -> bool:
    return b"youtube_id" in file.read_bytes().partition(b"\n")[0]


ORIGIN = Origin(
    "Kinetics-400 (train.csv and val.csv of CVDF, or train.csv and validate.csv of DeepMind's kinetics400.tar.gz)",
    re.compile(r"(?:(?:kinetics[-_]?(?:400)?|k400)[-_])?(train|val|validate|validation|test)\.csv"),
    lambda match: _ROLE[match[1]],
    ("train",),
    _is_table,
)
