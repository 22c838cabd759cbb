"""What a source holds: one entry for every video, with its label and its official split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..errors import DataError
from .archive_cache import contents_of
from .archive_formats import is_damage
from .archive_parts import is_first_part
from .archives import Member, is_archive, is_archive_name, is_of_macos, open_member, stream
from .member_lists import archive_of, read_members
from .store import FIRST_SPLIT

# What people keep videos in. Content decides in the end: these only say which files are looked at.
_SUFFIXES = (
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .h264 .hevc .ivf .m1v .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mkv .mov "
    ".mp4 .mpeg .mpg .mts .mxf .ogg .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .y4m"
)
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())
_TABLE_SUFFIXES = (".csv", ".json", ".txt")
_TABLES_BYTES = 64 << 20  # of one archive, kept in memory


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Args:
        id: its path below the source, POSIX. A member of an archive is named as if that had been unpacked in its place.
        path: where it is, or where the archive (or its first part) is that holds it.
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

    @property
    def in_stream(self) -> bool:
        """Whether it can only be reached by reading an archive from its beginning."""
        return self.member is not None and self.member.offset is None

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
        """The whole content: for lists and tables.

        Raises:
            OSError: it cannot be read.
            DataError: it is damaged within its archive.
            EnvironmentProblem: it lies in a rar, and no unpacker is installed.
        """
        if self.member is None:
            return self.path.read_bytes()
        try:
            if self.member.offset is None:
                tables = _tables(self.path, self.path.stat().st_mtime_ns)
                known = tables.get(self.member.place)
                return _read_alone(self.path, self.member) if known is None else known
            with open_member(self.path, self.member) as content:
                return content.read()
        except Exception as error:
            if not is_damage(error):
                raise
            raise DataError(f"{self} cannot be read: {self.path.name} is cut or damaged there.") from None


@lru_cache(maxsize=4)
def _tables(archive: Path, mtime_ns: int) -> dict[tuple[int, ...], bytes]:
    """Lists and tables, by place, of an archive that has to be read from its beginning: all at once, as far as there is
    room, because reading it takes long."""
    left: dict[tuple[int, ...], str] = {}
    room = _TABLES_BYTES
    for member in contents_of([archive])[archive].members:
        if member.path.lower().endswith(_TABLE_SUFFIXES) and member.bytes <= room:
            left[member.place] = member.name
            room -= member.bytes
    found = {}
    for member, content in stream(archive, set(left.values())) if left else ():
        if left.pop(member.place, None) is not None:
            try:
                found[member.place] = content.read()
            except Exception as error:
                if not is_damage(error):
                    raise
        if not left:
            break
    return found


def _read_alone(archive: Path, member: Member) -> bytes:
    for found, content in stream(archive, {member.name}):
        if found.place == member.place:
            return content.read()
    raise EOFError


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
        notes: what else there is to say of the source, in words (`SourceFiles.notes`).
    """

    videos: list[SourceVideo]
    ignored: int = 0
    unlisted: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    missing: list[Named] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

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
    """Every file of a source.

    Args:
        root: the source, a folder; where it is one archive, the folder of that.
        files: by id, in order of ids. Archives are among them where nothing in them was looked into.
        archives: ids of the archives on disk.
        notes: what there is to say of archives, in whole sentences: those left alone, damaged, hidden by others.
    """

    root: Path
    files: dict[str, SourceFile]
    archives: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def videos(self) -> dict[str, SourceFile]:
        """Those that are videos by their name."""
        return {name: file for name, file in self.files.items() if is_video_name(name)}

    def with_notes(self, message: str) -> str:
        """A message about what is not there, with what is wrong with archives, where it may be."""
        return f"{message} On the archives: {'; '.join(self.notes)}." if self.notes else message

    def absent(self, name: str) -> SourceFile:
        """Where a file that is not there would be."""
        return SourceFile(name, self.root / name)


def open_source(source: Path, without: Path | None = None, archives: bool = True) -> SourceFiles:
    """Lists a source.

    A file on disk goes before a member of an archive with the same id, and an archive before another that comes after
    it by name: an archive that was also unpacked is no matter.

    Args:
        source: the folder, or one archive.
        without: a folder below it that is not looked into (the store, where it lies within its own source).
        archives: whether archives are looked into. One that is the source always is.

    Raises:
        DataError: it is missing, no folder and no archive, something in it is unreadable, or there is not one video and
            an archive that cannot be read.
    """
    source = Path(source)
    single = source.is_file() and is_archive_name(source.name)
    root = source.parent if single else source
    with readable(source):
        found = [source] if single else list(_files_below(source, without))
        on_disk = {_relative_id(path, root): path for path in found}
        by_name = {name for name, path in on_disk.items() if not is_video_name(name) and is_archive(name, path)}
        packed = {name: path for name, path in on_disk.items() if name in by_name and is_first_part(path)}
        if not (archives or single):
            left = [f"archives that are left alone: {len(packed)} ({', '.join([*packed][:3])})"] if packed else []
            return SourceFiles(root, {n: SourceFile(n, path) for n, path in on_disk.items()}, list(packed), left)
        files = {n: SourceFile(n, path) for n, path in on_disk.items() if n not in by_name}
        for name, path in on_disk.items():
            gone = archive_of(path)
            if gone is not None:  # it was downloaded, worked through and deleted
                del files[name]
                _add_members(files, name, gone, read_members(path))
        contents = contents_of(list(packed.values()))
        notes = []
        for name, path in packed.items():
            found_in = contents[path]
            notes += [f"archive {name}: {note}" for note in found_in.notes]
            if not (found_in.members or found_in.whole):
                files[name] = SourceFile(name, path)
            hidden = _add_members(files, name, path, found_in.members)
            if hidden:
                notes.append(f"archive {name}: {hidden} of its files are there already, on disk or in another archive")
    opened = SourceFiles(root, dict(sorted(files.items())), list(packed), notes)
    if not all(one.whole for one in contents.values()) and not opened.videos():
        raise DataError(f"source {source} holds no videos. {'; '.join(notes)}. Mend or unpack what is named there.")
    return opened


def _add_members(files: dict[str, SourceFile], archive: str, path: Path, members: Iterable[Member]) -> int:
    """Adds the members of an archive, given its id, to a source's files. Returns how many were there already."""
    hidden = 0
    for member in members:
        file = SourceFile((PurePosixPath(archive).parent / member.path).as_posix(), path, member)
        hidden += files.setdefault(file.id, file) is not file
    return hidden


@contextmanager
def readable(source: Path) -> Iterator[None]:
    """Around whatever reads a source.

    Raises:
        DataError: it is missing, no folder and no archive, or something in it is unreadable.
    """
    if not source.is_dir() and not (source.is_file() and is_archive_name(source.name)):
        what = "is no folder and no archive" if source.exists() else "does not exist"
        raise DataError(
            f"source {source} {what}. Legal: a folder that holds videos, directly, in class folders or in archives, or "
            "one archive (tar, tar.gz, tar.bz2, tar.xz, zip, rar)."
        )
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
    return not is_of_macos(name) and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _relative_id(file: Path, source: Path) -> str:
    """The path below the source; bytes that are not UTF-8 become \\xNN, so that every id can be written down."""
    return os.fsencode(file.relative_to(source).as_posix()).decode("utf-8", "backslashreplace")
