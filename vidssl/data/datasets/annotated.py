"""What the readers of K400, SSv2 and Diving48 share: a table names every video once, and its file lies anywhere.

A video's id is its official name without a suffix (K400: YOUTUBEID_START_END, SSv2: its number, Diving48: vid_name),
so ids, and with them subsets and random streams, are the same for everybody who holds the data set. A file is found by
its name alone, whatever its suffix and the folders above it: class folders are spelled in many ways and say nothing
that the tables do not. Names are told apart by case, because YouTube's ids are.

Nearly every copy lacks some videos of these large sets. They are counted and listed (`Listing.missing`), and unlike
those of UCF101 and HMDB51 they have no row in the manifest: who holds 80 clips and the official tables would get
266,000 rows of nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..sources import Listing, Named, SourceFile, SourceFiles, SourceVideo, open_source, readable
from .split_lists import examples, one_of

_TABLE_SUFFIXES = (".csv", ".json", ".txt", ".zip", ".rar", ".tar.gz", ".tgz")


@dataclass
class Annotations:
    """Tables, read.

    Args:
        classes: in order of their numbers.
        videos: id -> (class, "train" or "test").
        other_names: further file name without suffix -> id.
        left_out: name of a file without suffix -> the table that alone names it and is not used.
        preferred: what the name of a folder begins with whose files go before all others.
    """

    classes: list[str]
    videos: dict[str, tuple[str, str]] = field(default_factory=dict)
    other_names: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    preferred: str | None = None

    def add(self, name: str, label: str, split: str, place: str) -> None:
        """Raises DataError where a table names the video already, or the name is no file's."""
        if not name or "/" in name or "\n" in name:
            raise DataError(f"{place} names the video {name!r}, which no file can be called. Take the official table.")
        if name in self.videos:
            raise DataError(
                f"{place} names {name!r}, which is in the {self.videos[name][1]} part already. The official tables "
                "name every video once: one of yours was edited, or is there twice under two names."
            )
        self.videos[name] = label, split


@dataclass(frozen=True)
class Origin:
    """The tables of a data set.

    Args:
        text: what they are called and come in, for messages.
        pattern: of a table's file name.
        role: of such a match: which table it is.
        needed: roles that must be there.
        genuine: whether a file of the right name is such a table; where some are, the others are passed over.
    """

    text: str
    pattern: re.Pattern[str]
    role: Callable[[re.Match[str]], str]
    needed: tuple[str, ...]
    genuine: Callable[[SourceFile], bool] = lambda file: True


def list_annotated(
    source: Path, without: Path | None, origin: Origin, read: Callable[[dict[str, SourceFile]], Annotations]
) -> Listing:
    """Reads a source that holds videos and their official tables, each in any folder of it.

    Args:
        source: the folder.
        without: a folder below it that is not looked into.
        read: reads the tables, given by role.

    Raises:
        DataError: no such folder, tables that are missing, cut, contradictory or of another data set, no video of
            theirs, or two files for one video.
    """
    source = Path(source)
    files = open_source(source, without)
    with readable(source):
        tables, copies = _tables(files, origin)
        annotations = read(tables)
    return match(files, annotations, origin, copies)


def match(files: SourceFiles, annotations: Annotations, origin: Origin, tables: int) -> Listing:
    """Which file is which video. `tables` files are those that were read. Raises DataError as `list_annotated` does."""
    found = files.videos()
    places: dict[str, list[str]] = defaultdict(list)
    second: dict[str, list[str]] = defaultdict(list)
    unlisted, unused = [], Counter[str]()
    for name in found:
        stem = _stem(name)
        if stem in annotations.videos:
            places[stem].append(name)
        elif stem in annotations.other_names:
            second[annotations.other_names[stem]].append(name)
        elif stem in annotations.left_out:
            unused[f"named by {annotations.left_out[stem]} alone"] += 1
        else:
            unlisted.append(name)
    for video, names in second.items():  # of the two names of a video's file the full one goes before
        if video in places:
            unlisted += names
        else:
            places[video] = names
    if not places:
        raise DataError(
            files.with_notes(
                f"source {files.root} holds none of the {len(annotations.videos)} videos that its tables name "
                f"({examples(annotations.videos)}); it holds {len(found)} others ({examples(found) or 'none'}). Give "
                "--source the folder that holds the videos, with the tables in it."
            )
        )
    unused["replaced by a file for corrupted ones"] = _prefer(places, annotations.preferred)
    _require_one_each(places, files.root)
    videos, missing = [], []
    for video, (label, split) in sorted(annotations.videos.items()):
        if video in places:
            videos.append(SourceVideo(video, found[places[video][0]], label, split))
        else:
            missing.append(Named(video, label, split))
    others = len(files.files) - len(found) - tables
    return Listing(videos, others, sorted(unlisted), annotations.classes, missing, dict(+unused), files.notes)


def read_json(file: SourceFile, kind: type, advice: str) -> Any:
    """A table's content. Raises DataError where it is no JSON, or none of the kind (list or dict)."""
    try:
        content = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} is no JSON ({error}): it was cut, or is something else. {advice}") from None
    if not isinstance(content, kind):
        raise DataError(f"{file} holds a JSON {type(content).__name__}, not a {kind.__name__}. {advice}")
    return content


def _tables(files: SourceFiles, origin: Origin) -> tuple[dict[str, SourceFile], int]:
    """Tables by role, and how many files they are with their copies."""
    by_role: dict[str, list[SourceFile]] = defaultdict(list)
    for file in files.files.values():
        matched = origin.pattern.fullmatch(file.id.rpartition("/")[2])
        if matched:
            by_role[origin.role(matched)].append(file)
    for role, copies in by_role.items():
        by_role[role] = [file for file in copies if origin.genuine(file)] or copies
    lacking = [role for role in origin.needed if role not in by_role]
    if lacking:
        others = [name for name in files.files if name.lower().endswith(_TABLE_SUFFIXES)]
        raise DataError(
            files.with_notes(
                f"source {files.root} lacks the table {' and '.join(lacking)} of {origin.text}. Found instead: "
                f"{examples(others) or 'no table and no archive'}. Give --source the folder that holds both the videos "
                "and the tables, in any folders of it."
            )
        )
    copies = [file for role in by_role.values() for file in role]
    return {role: one_of(found) for role, found in by_role.items()}, len(copies)


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _prefer(places: dict[str, list[str]], preferred: str | None) -> int:
    """Takes away the files whose video has another one in a folder that goes before; returns how many."""
    taken_away = 0
    for video, names in places.items():
        if preferred is not None and len(names) > 1:
            first = [name for name in names if any(part.startswith(preferred) for part in name.split("/")[:-1])]
            if first:
                taken_away += len(names) - len(first)
                places[video] = first
    return taken_away


def _require_one_each(places: dict[str, list[str]], source: Path) -> None:
    double = {video: names for video, names in places.items() if len(names) > 1}
    if double:
        video, names = next(iter(double.items()))
        raise DataError(
            f"source {source} holds {len(names)} files for the video {video!r} ({examples(names)}), and more than one "
            f"for {len(double)} videos in all. Keep one of each below the source."
        )
