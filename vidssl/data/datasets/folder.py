"""Any folder of videos.

- `train.csv` and/or `test.csv` in it: they say which videos belong, their labels and split. Columns `path` (below the
  folder) and `label` (may be empty); `label:<system>` for further label systems. UTF-8, quoted as CSV is. A row whose
  file is missing becomes a rejected video; videos that no table names are counted, listed and left out.
- `train2.csv` with `test2.csv`, `train3.csv` with `test3.csv`, ...: further splits of the same videos. Labels are the
  same in all; a video that a split does not name has no part in it.
- No table: the first folder below the source is the class; files directly in it have none. A folder that everything
  lies in is passed over (an archive mostly has one), as long as there are folders below it.
- No table, and `train` beside `val`, `valid`, `validation` or `test`, with nothing else: these are the two parts, and
  the folders below them the classes. Where there are several of the latter, `test` is the part that is evaluated on
  if it has classes, and the others are left alone.

Archives are looked into where the source holds no video outside of them, or is itself an archive: they then count as if
they had been unpacked where they lie, tables included. Beside videos they are left alone and the summary says so: a
folder means its files, and an archive beside them is more often a copy of them, or of something else, than a part.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...errors import DataError
from ..sources import Listing, SourceFile, SourceFiles, SourceVideo, open_source, readable, split_fields
from ..store import FIRST_SPLIT

_TABLE = re.compile(r"(train|test)([2-9])?\.csv")
_TESTED = ("test", "val", "valid", "validation")  # in this order


def list_videos(source: Path, without: Path | None = None) -> Listing:
    """Reads a source.

    Args:
        source: the folder, or one archive.
        without: a folder below it that is not looked into.

    Raises:
        DataError: it is missing, neither folder nor archive, unreadable, holds no video, or a table is wrong.
    """
    source = Path(source)
    files = open_source(source, without, archives=False)
    if not files.videos() and files.archives:
        files = open_source(source, without)
    tables, found = _tables(files), files.videos()
    with readable(source):
        listing = _from_tables(files, tables) if tables else _from_folders(found)
    listing.ignored, listing.notes = len(files.files) - len(found) - len(tables), files.notes
    if files.archives and not any(video.file.member for video in listing.videos):
        listing.ignored -= len(files.archives)
        listing.unused |= {"archives beside videos": len(files.archives)}
    if not listing.videos:
        raise DataError(
            f"source {source} holds no videos ({len(files.files)} files, none with a video's extension such as .mp4, "
            ".avi, .mkv, .webm). Give --source the folder that holds the videos or their class folders."
        )
    listing.videos.sort(key=lambda video: video.id)
    return listing


def _from_folders(found: dict[str, SourceFile]) -> Listing:
    folders = _without_common({name: PurePosixPath(name).parts[:-1] for name in found})
    tested = _tested_part(folders.values())
    if tested is None:
        return Listing([SourceVideo(name, found[name], label=next(iter(f), None)) for name, f in folders.items()])
    videos, left_out = [], Counter[str]()
    for name, (part, *below) in folders.items():
        if part in ("train", tested):
            split = "train" if part == "train" else "test"
            videos.append(SourceVideo(name, found[name], label=next(iter(below), None), split=split))
        else:
            left_out[f"in {part}/, where {tested}/ is what is tested on"] += 1
    return Listing(videos, unused=dict(left_out))


def _without_common(folders: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Without the first folders that all names have, as long as something lies in a folder below."""
    while len({parts[:1] for parts in folders.values()}) == 1 and any(len(parts) > 1 for parts in folders.values()):
        folders = {name: parts[1:] for name, parts in folders.items()}
    return folders


def _tested_part(folders: Iterable[tuple[str, ...]]) -> str | None:
    """The folder that is evaluated on beside `train`; None where folders are classes."""
    below: dict[str, bool] = {}
    for first, *rest in (parts or ("",) for parts in folders):
        below[first] = below.get(first, False) or bool(rest)
    tested = [name for name in _TESTED if name in below]
    if "train" not in below or not below["train"] or not tested or len(below) > 1 + len(tested):
        return None
    return next((name for name in tested if below[name]), tested[0])


def _tables(files: SourceFiles) -> dict[tuple[str, str], SourceFile]:
    """(number of the split, "train" or "test") -> its table. The first split may lack one of its two."""
    source = files.root
    matches = [(_TABLE.fullmatch(name), file) for name, file in files.files.items()]
    tables = {(match[2] or FIRST_SPLIT, match[1]): file for match, file in matches if match}
    for split, role in tables:
        other = {"train": "test", "test": "train"}[role]
        if split != FIRST_SPLIT and (split, other) not in tables:
            raise DataError(
                f"source {source} has {role}{split}.csv and no {other}{split}.csv. A further split needs both: add it, "
                "or rename the first if it is something else."
            )
    if tables and not any(split == FIRST_SPLIT for split, _ in tables):
        raise DataError(
            f"source {source} has tables of further splits ({', '.join(sorted(t.name for t in tables.values()))}) and "
            "neither train.csv nor test.csv, which are split 1: add those, or rename these."
        )
    return dict(sorted(tables.items(), key=lambda item: (int(item[0][0]), item[0][1] == "test")))


def _from_tables(files: SourceFiles, tables: dict[tuple[str, str], SourceFile]) -> Listing:
    listed: dict[str, SourceVideo] = {}
    roles: dict[str, dict[str, str]] = {}
    where: dict[tuple[str, str], str] = {}
    first: dict[str, str] = {}
    for (split, role), table in tables.items():
        for line, row in _rows(table):
            place = f"{table.name} line {line}"
            video = _video(files, row, place)
            before, other = listed.setdefault(video.id, video), first.setdefault(video.id, place)
            same = replace(before, problem="") == replace(video, problem="")
            if roles.setdefault(video.id, {}).setdefault(split, role) != role:
                same, other = False, where[video.id, split]
            if not same:
                raise DataError(
                    f"{place} and {other} of {files.root} name the same video {video.id!r} with different split "
                    "or label. A video belongs to one part of a split and has one label: mend one of the two lines."
                )
            where.setdefault((video.id, split), place)
    splits = list(dict.fromkeys(split for split, _ in tables))
    videos = [replace(video, **split_fields(roles[name], splits)) for name, video in listed.items()]
    return Listing(videos, unlisted=sorted(set(files.videos()) - set(listed)))


def _video(files: SourceFiles, row: dict[str, str], place: str) -> SourceVideo:
    path = PurePosixPath(row["path"])
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise DataError(
            f"{place} has the path {row['path']!r}. Legal: a path below {files.root}, relative to it, with forward "
            "slashes."
        )
    name = path.as_posix()
    file = files.files.get(name) or files.absent(name)
    systems = {column.partition(":")[2]: value or None for column, value in row.items() if column.startswith("label:")}
    there = name in files.files or file.path.is_file()  # by a second link to a folder that was entered once
    problem = "" if there else f"the file is missing ({place} names it)"
    return SourceVideo(name, file, row["label"] or None, labels=systems, problem=problem)


def _rows(table: SourceFile) -> list[tuple[int, dict[str, str]]]:
    """Rows of a table with their line numbers."""
    rows = []
    try:
        text = table.read_bytes().decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = reader.fieldnames or []
        if not {"path", "label"} <= set(columns):
            raise DataError(
                f"{table} has the columns {', '.join(columns) or '(none)'}. Its first line must name path and label; "
                "label:<system> may follow."
            )
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{table} line {reader.line_num} has not as many fields as its first line ({len(columns)}). Quote "
                    "a path or label that holds a comma."
                )
            rows.append((reader.line_num, row))
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{table} is no proper CSV ({error}). Quote fields that hold commas or quotes.") from None
    return rows
