"""What a source holds: one entry for every video, with its label and its official split."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# What people keep videos in. Content decides in the end: these only say which files are looked at.
_SUFFIXES = (
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .h264 .hevc .ivf .m1v .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mkv .mov "
    ".mp4 .mpeg .mpg .mts .mxf .ogg .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .y4m"
)
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())


@dataclass(frozen=True)
class SourceVideo:
    """One source file.

    Args:
        id: path below the source, POSIX; the video's name for good.
        file: where it is.
        label: class name, None without.
        split: "train", "test" or "".
        labels: class name by further label system.
        problem: why it cannot even be looked at ("" where it can): a table names it and it is not there.
    """

    id: str
    file: Path
    label: str | None = None
    split: str = ""
    labels: dict[str, str | None] = field(default_factory=dict)
    problem: str = ""


@dataclass
class Listing:
    """A source, read. `videos` are in order of their ids.

    `ignored` counts files that are no videos by their name, `unlisted` names videos that no table mentions.
    """

    videos: list[SourceVideo]
    ignored: int = 0
    unlisted: list[str] = field(default_factory=list)


def files_below(folder: Path, without: Path | None = None) -> Iterator[Path]:
    """Every regular file below a folder, in order of name. Links are followed, a folder is entered once.

    Args:
        without: a folder that is not entered (the store, where it lies within its own source).
    """
    left_out = os.path.realpath(without) if without else None
    entered: set[str] = set()

    def walk(place: Path) -> Iterator[Path]:
        real = os.path.realpath(place)
        if real == left_out or real in entered:
            return
        entered.add(real)
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.is_dir():
                    yield from walk(Path(entry.path))
                elif entry.is_file():
                    yield Path(entry.path)

    yield from walk(folder)


def is_video_name(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES


def relative_id(file: Path, source: Path) -> str:
    """The path below the source; bytes that are not UTF-8 become \\xNN, so that every id can be written down."""
    return os.fsencode(file.relative_to(source).as_posix()).decode("utf-8", "backslashreplace")
