"""What the readers of UCF101 and HMDB51 share: finding official lists, reading their lines, and finding their videos.

A video's id is CLASS/FILE as the lists spell it, wherever below the source its file lies: ids, and with them subsets
and random streams, are then the same for everybody who holds the data set.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ...errors import DataError
from ..sources import Listing, SourceFile, SourceVideo, open_source, readable, split_fields

SPLITS = ("1", "2", "3")
_NAMED = 3  # examples in a message


@dataclass
class OfficialLists:
    """Lists, read.

    Args:
        classes: in order of their numbers.
        roles: (class, file name) -> official split -> "train", "test" or "" (named, but with no part in it).
    """

    classes: list[str]
    roles: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def add(self, name: tuple[str, str], split: str, role: str, place: str) -> None:
        """Raises DataError where the split has the video already."""
        given = self.roles.setdefault(name, {})
        if split in given:
            raise DataError(
                f"{place} names {'/'.join(name)!r}, which is in split {split} already. A list is there twice under two "
                "names, or was edited: unpack the official lists again."
            )
        given[split] = role


Finder = Callable[[dict[str, SourceFile]], OfficialLists]


def list_official(source: Path, without: Path | None, pattern: re.Pattern[str], read: Finder, origin: str) -> Listing:
    """Reads a source that holds videos and official lists, each in any folder of it.

    Args:
        source: the folder.
        without: a folder below it that is not looked into.
        pattern: of a list's file name.
        read: reads the lists, given by file name.
        origin: what the lists are called and come in, for messages.

    Raises:
        DataError: no such folder, lists that are missing, cut, contradictory or not of this data set, no video of
            theirs, or two files for one video.
    """
    source = Path(source)
    files = open_source(source, without)
    found = files.videos()
    with readable(source):
        copies = [file for file in files.files.values() if pattern.fullmatch(file.name)]
        if not copies:
            others = [name for name in files.files if name.lower().endswith((".txt", ".zip", ".rar", ".csv"))]
            raise DataError(
                files.with_notes(
                    f"source {source} holds no {origin}. Found instead: {examples(others) or 'no list and no archive'}."
                    " Give --source the folder that holds both the videos and the unpacked lists, in any folders of it."
                )
            )
        official = read(_by_name(copies))
    folder = copies[0].folder
    if not official.roles:
        raise DataError(f"the lists in {folder} name no video. Unpack {origin} again.")
    _require_whole(official, folder, origin)
    places = _places(official, found, source)
    if not places:
        named = examples(f"{label}/{file}" for label, file in official.roles)
        raise DataError(
            files.with_notes(
                f"source {source} holds none of the {len(official.roles)} videos that its lists name ({named}); it "
                f"holds {len(found)} others ({examples(found) or 'none'}). Give --source the folder that holds the "
                "unpacked videos, with the lists in it."
            )
        )
    videos = []
    for (label, file), roles in sorted(official.roles.items()):
        name = f"{label}/{file}"
        place = places.get((label, file))
        problem = "" if place else "the file is missing (the official lists name it)"
        video = found[place] if place else files.absent(name)
        videos.append(SourceVideo(name, video, label, **split_fields(roles, SPLITS), problem=problem))
    unlisted = sorted(set(found) - set(places.values()))
    ignored = len(files.files) - len(found) - len(copies)
    return Listing(videos, ignored, unlisted, official.classes, notes=files.notes)


def read_lines(file: SourceFile) -> list[tuple[int, str]]:
    """Line numbers and lines that are not empty, without what ends them (LF or CR-LF, and blanks).

    Bytes that are not UTF-8 become \\xNN, as in the ids of files, so that odd names meet.
    """
    text = file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "backslashreplace")
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def examples(names: Iterable[str]) -> str:
    """The first few names, and that there are more."""
    listed = list(names)
    return ", ".join(listed[:_NAMED]) + (", ..." if len(listed) > _NAMED else "")


def one_of(copies: list[SourceFile]) -> SourceFile:
    """The first of several copies of a list, which may lie in several folders as long as they say the same."""
    for file in copies[1:]:
        if file.read_bytes() != copies[0].read_bytes():
            raise DataError(
                f"{copies[0]} and {file} differ, and nothing says which of them is meant. Keep one of the two below "
                "the source."
            )
    return copies[0]


def _by_name(copies: list[SourceFile]) -> dict[str, SourceFile]:
    named: dict[str, list[SourceFile]] = defaultdict(list)
    for file in copies:
        named[file.name].append(file)
    return {name: one_of(files) for name, files in named.items()}


def _require_whole(official: OfficialLists, folder: Path, origin: str) -> None:
    for split in SPLITS:
        lacking = ["/".join(name) for name, roles in official.roles.items() if split not in roles]
        if lacking:
            raise DataError(
                f"the lists of split {split} in {folder} lack {len(lacking)} of the {len(official.roles)} videos that "
                f"other splits name ({examples(lacking)}). All official splits are over the same videos: a list was "
                f"cut, or is of another data set. Unpack {origin} again."
            )


def _places(official: OfficialLists, found: Iterable[str], source: Path) -> dict[tuple[str, str], str]:
    """(class, file name) -> which of the found files it is; videos that are not there are left out.

    First by the exact name in a folder named as the class. What is left, by the name without its suffix (files are
    often kept re-encoded) and without regard to case (v_HandStandPushups lies in HandstandPushups), in the folder of
    the class or in one that is no class at all. Two files for one video, or two videos for one file, are an error.
    """
    exact, loose = defaultdict(list), defaultdict(list)
    for name in found:
        path = PurePosixPath(name)
        exact[path.parent.name, path.name].append(name)
        loose[path.stem.casefold()].append(name)
    folded = {label.casefold() for label in official.classes}
    candidates = {key: exact.get(key, []) for key in official.roles}
    taken = {name for names in candidates.values() for name in names}
    for label, file in [key for key, names in candidates.items() if not names]:
        for name in loose.get(PurePosixPath(file).stem.casefold(), []):
            folder = PurePosixPath(name).parent.name.casefold()
            if name not in taken and (folder == label.casefold() or folder not in folded):
                candidates[label, file] = [*candidates[label, file], name]
    claimed: dict[str, tuple[str, str]] = {}
    for key, names in candidates.items():
        if len(names) > 1:
            raise DataError(
                f"source {source} holds {len(names)} files for the video {'/'.join(key)!r}: {examples(names)}. Keep "
                "one of them below the source."
            )
        for name in names:
            if name in claimed:
                raise DataError(
                    f"{name} in {source} can be {'/'.join(claimed[name])!r} and {'/'.join(key)!r}. Put it into the "
                    "folder of its class."
                )
            claimed[name] = key
    return {key: name for name, key in claimed.items()}
