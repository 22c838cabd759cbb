"""Any folder of videos.

- `train.csv` and/or `test.csv` in it: they say which videos belong, their labels and split. Columns `path` (below the
  folder) and `label` (may be empty); `label:<system>` for further label systems. UTF-8, quoted as CSV is. A row whose
  file is missing becomes a rejected video; videos that no table names are counted, listed and left out.
- No table: the first folder below the source is the class; files directly in it have none.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...errors import DataError
from ..sources import Listing, SourceVideo, files_below, is_video_name, relative_id

SPLITS = ("train", "test")


def list_videos(source: Path, without: Path | None = None) -> Listing:
    """Reads a source folder.

    Args:
        source: the folder.
        without: a folder below it that is not looked into.

    Raises:
        DataError: it is missing, no folder, unreadable, holds no video, or a table is wrong.
    """
    source = Path(source)
    if not source.is_dir():
        what = "is not a folder" if source.exists() else "does not exist"
        raise DataError(f"source {source} {what}. Legal: a folder that holds videos, directly or in class folders.")
    try:
        files = list(files_below(source, without))
        tables = [source / f"{split}.csv" for split in SPLITS]
        tables = [table for table in tables if table.is_file()]
        found = {relative_id(file, source): file for file in files if is_video_name(file)}
        listing = _from_tables(source, tables, found) if tables else _from_folders(found)
    except OSError as error:
        raise DataError(
            f"source {source} cannot be read: {error.strerror} ({error.filename}). Give the permission to read it."
        ) from error
    listing.ignored = len(files) - len(found) - len(tables)
    if not listing.videos:
        raise DataError(
            f"source {source} holds no videos ({len(files)} files, none with a video's extension such as .mp4, .avi, "
            ".mkv, .webm). Give --source the folder that holds the videos or their class folders."
        )
    listing.videos.sort(key=lambda video: video.id)
    return listing


def _from_folders(found: dict[str, Path]) -> Listing:
    videos = []
    for name, file in found.items():
        first, *rest = PurePosixPath(name).parts
        videos.append(SourceVideo(name, file, label=first if rest else None))
    return Listing(videos)


def _from_tables(source: Path, tables: list[Path], found: dict[str, Path]) -> Listing:
    listed: dict[str, SourceVideo] = {}
    where: dict[str, str] = {}
    for table in tables:
        for line, row in _rows(table):
            place = f"{table.name} line {line}"
            video = _video(source, row, table.stem, place, found)
            before = listed.get(video.id)
            if before is not None and replace(before, problem="") != replace(video, problem=""):
                raise DataError(
                    f"{place} and {where[video.id]} of {source} name the same video {video.id!r} with different split "
                    "or label. A video belongs to one split and has one label: remove one of the two lines."
                )
            listed.setdefault(video.id, video)
            where.setdefault(video.id, place)
    return Listing(list(listed.values()), unlisted=sorted(set(found) - set(listed)))


def _video(source: Path, row: dict[str, str], split: str, place: str, found: dict[str, Path]) -> SourceVideo:
    path = PurePosixPath(row["path"])
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise DataError(
            f"{place} has the path {row['path']!r}. Legal: a path below {source}, relative to it, with forward slashes."
        )
    name = path.as_posix()
    file = found.get(name) or source / name
    systems = {column.partition(":")[2]: value or None for column, value in row.items() if column.startswith("label:")}
    problem = "" if file.is_file() else f"the file is missing ({place} names it)"
    return SourceVideo(name, file, row["label"] or None, split, systems, problem)


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows of a table with their line numbers."""
    rows = []
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            if not {"path", "label"} <= set(columns):
                raise DataError(
                    f"{table} has the columns {', '.join(columns) or '(none)'}. Its first line must name "
                    "path and label; label:<system> may follow."
                )
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{table} line {reader.line_num} has not as many fields as its first line ({len(columns)}). "
                        "Quote a path or label that holds a comma."
                    )
                rows.append((reader.line_num, row))
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{table} is no proper CSV ({error}). Quote fields that hold commas or quotes.") from None
    return rows
