"""What a source holds: one entry for every video, with its label and its official split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..errors import DataError
from .store import FIRST_SPLIT

# What people keep videos in. Content decides in the end: these only say which files are looked at.
_SUFFIXES = (
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .h264 .hevc .ivf .m1v .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mkv .mov "
    ".mp4 .mpeg .mpg .mts .mxf .ogg .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .y4m"
)
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())


@dataclass(frozen=True)
class Member:
    """A file within an archive.

    Args:
        name: as the archive has it.
        bytes: its size, unpacked.
        mtime_ns: as the archive has it.
        place: its rank in the archive. What can only be read as a stream is read in this order.
    """

    name: str
    bytes: int
    mtime_ns: int
    place: int


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Args:
        id: its path below the source, POSIX. A member of an archive is named as if it lay beside the archive.
        path: where it is, or where the archive is that holds it.
        member: which file of that archive.
    """

    id: str
    path: Path
    member: Member | None = None

    def __str__(self) -> str:
        return str(self.path if self.member is None else self.path / self.member.name)

    @property
    def name(self) -> str:
        """Its name without folders."""
        return PurePosixPath(self.id).name

    @property
    def folder(self) -> Path:
        """What it lies in, for messages: a folder or an archive."""
        return self.path.parent if self.member is None else self.path

    def stat(self) -> tuple[int, int]:
        """Bytes and time of change in ns; zeros where it cannot be seen."""
        if self.member is not None:
            return self.member.bytes, self.member.mtime_ns
        try:
            stat = os.stat(self.path)
        except OSError:
            return 0, 0
        return stat.st_size, stat.st_mtime_ns

    def read_bytes(self) -> bytes:
        """The whole content: for lists and tables. Raises OSError."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class SourceVideo:
    """One source video.

    Args:
        id: the video's name for good: its path below the source, POSIX, or the one that official lists give it
            (CLASS/FILE), wherever below the source it lies.
        file: where it is, or would be.
        label: class name, None without.
        split: "train", "test" or "".
        labels: class name by further label system.
        splits: the same as `split` by further official split ("2", "3").
        problem: why it cannot even be looked at ("" where it can): a table names it and it is not there.
    """

    id: str
    file: SourceFile
    label: str | None = None
    split: str = ""
    labels: dict[str, str | None] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def split_fields(roles: Mapping[str, str], splits: Iterable[str]) -> dict[str, Any]:
    """The fields `split` and `splits` of a video.

    Args:
        roles: "train" or "test" by official split; where it has no part it may be left out.
        splits: all official splits of the source, the first one among them.
    """
    further = {split: roles.get(split, "") for split in splits if split != FIRST_SPLIT}
    return {"split": roles.get(FIRST_SPLIT, ""), "splits": further}


class Named(NamedTuple):
    """A video that a table names and the source lacks: its id, class name and split."""

    id: str
    label: str | None
    split: str


@dataclass
class Listing:
    """A source, read. `videos` are in order of their ids.

    Args:
        ignored: how many files are no videos by their name.
        unlisted: videos of the source that no table mentions.
        classes: in order of their numbers where the data set numbers them; empty means in order of their names.
        missing: named by the tables and not there. Those that are in `videos` with a `problem` are not repeated.
        unused: why files of the source are left alone although a table names them -> how many.
    """

    videos: list[SourceVideo]
    ignored: int = 0
    unlisted: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    missing: list[Named] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)

    def all_missing(self) -> list[Named]:
        """`missing`, and those of `videos` that have a problem, in order of their ids."""
        absent = [Named(video.id, video.label, video.split) for video in self.videos if video.problem]
        return sorted([*self.missing, *absent], key=lambda video: video.id)


def split_sizes(videos: Iterable[SourceVideo], held: Set[str]) -> dict[str, dict[str, list[int]]]:
    """Of each official split how many videos of its parts are held and how many there are; empty where there is one.

    Args:
        videos: of the whole source.
        held: ids of those in the store.
    """
    sizes: dict[str, dict[str, list[int]]] = {}
    for video in videos:
        for split, part in {FIRST_SPLIT: video.split, **video.splits}.items():
            counts = sizes.setdefault(split, {"train": [0, 0], "test": [0, 0]})
            if part:
                counts[part][0] += video.id in held
                counts[part][1] += 1
    return sizes if len(sizes) > 1 else {}


@dataclass(frozen=True)
class SourceFiles:
    """Every file of a source: `files` by id, in order of their names."""

    root: Path
    files: dict[str, SourceFile]

    def videos(self) -> dict[str, SourceFile]:
        """Those that are videos by their name."""
        return {name: file for name, file in self.files.items() if is_video_name(name)}

    def absent(self, name: str) -> SourceFile:
        """Where a file that is not there would be."""
        return SourceFile(name, self.root / name)


def open_source(source: Path, without: Path | None = None) -> SourceFiles:
    """Lists a source.

    Args:
        source: the folder.
        without: a folder below it that is not looked into (the store, where it lies within its own source).

    Raises:
        DataError: it is missing, no folder, or something in it is unreadable.
    """
    with readable(source):
        found = (SourceFile(_relative_id(path, source), path) for path in _files_below(source, without))
        return SourceFiles(source, {file.id: file for file in found})


@contextmanager
def readable(source: Path) -> Iterator[None]:
    """Around whatever reads a source. Raises DataError: it is missing, no folder, or something in it is unreadable."""
    if not source.is_dir():
        what = "is not a folder" if source.exists() else "does not exist"
        raise DataError(f"source {source} {what}. Legal: a folder that holds videos, directly or in class folders.")
    try:
        yield
    except OSError as error:
        raise DataError(
            f"source {source} cannot be read: {error.strerror} ({error.filename}). Give the permission to read it."
        ) from error


def _files_below(folder: Path, without: Path | None = None) -> Iterator[Path]:
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


def is_video_name(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def _relative_id(file: Path, source: Path) -> str:
    """The path below the source; bytes that are not UTF-8 become \\xNN, so that every id can be written down."""
    return os.fsencode(file.relative_to(source).as_posix()).decode("utf-8", "backslashreplace")
