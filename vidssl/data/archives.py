"""Archives as part of a source: what they hold, and their content as a stream, without unpacking them first.

A member is named as if its archive had been unpacked where it lies. Archives within archives count as unpacked too (the
hmdb51_org.rar of HMDB51 holds a rar for each class): one at a time is copied to disk where its kind asks for that.

Names in an archive are a stranger's. Absolute ones and those with `..` are left out, and so are links and devices (hard
links too, of which unpacking makes files: their content stands elsewhere, in a stream behind the reader); no name of a
member is ever a name of a file that is written here.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .archive_formats import Damaged, Entry, entries, is_damage, open_direct, stream_entries
from .archive_parts import as_part, gap, parts_of

_NAME = re.compile(r".+\.(tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz)|zip|rar)", re.IGNORECASE)
_LATER_VOLUME = re.compile(r".+\.part0*([2-9]|[1-9]\d+)\.rar", re.IGNORECASE)
_DEEPEST = 3  # archives within archives
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file within an archive.

    Args:
        name: as the archive has it; within an inner archive, that one's name and a slash come before.
        bytes: its size, unpacked.
        mtime_ns: as the archive has it.
        place: its rank in the archive, and within each inner one. Streams are read in this order.
        path: where it would be, unpacked: POSIX, below the archive's folder.
        offset: where it lies, if it can be opened alone; None where the archive has to be read from its beginning.
    """

    name: str
    bytes: int
    mtime_ns: int
    place: tuple[int, ...]
    path: str
    offset: int | None = None


@dataclass
class Contents:
    """What an archive holds.

    Args:
        members: in its order. Where a path is there twice, the later one counts, as when it is unpacked.
        notes: what was left out, or is wrong with it.
        whole: whether all that it holds could be read.
    """

    members: list[Member]
    notes: list[str]
    whole: bool = True


def is_archive_name(name: str) -> bool:
    """Whether a file is an archive, or the first or a later part of one, by its name."""
    return _is_whole_name(name) or (as_part(Path(name)) is not None and not is_of_macos(name))


def is_archive(name: str, path: Path) -> bool:
    """The same of a file on disk, where other parts beside it say whether it is one. Raises OSError."""
    return _is_whole_name(name) or (bool(parts_of(path)) and not is_of_macos(name))


def is_of_macos(name: str) -> bool:
    """Whether a file only holds what macOS knows of another one, under the same suffix: zips made there have these."""
    return name.rpartition("/")[2].startswith("._") or "/__MACOSX/" in f"/{name}"


def _is_whole_name(name: str) -> bool:
    file = PurePosixPath(name).name
    return bool(_NAME.fullmatch(file) and not _LATER_VOLUME.fullmatch(file)) and not is_of_macos(name)


def read_contents(path: Path, tick: Callable[[int], None] = lambda position: None) -> Contents:
    """Reads what an archive holds; a compressed tar has to be read whole for it.

    Args:
        path: of the archive, or of its first part.
        tick: is told how far into the archive's bytes the reading is.

    Raises:
        OSError: it cannot be read.
        EnvironmentProblem: no unpacker for a rar. What else is wrong with an archive is in the notes.
    """
    found: dict[str, Member] = {}
    unsafe: list[str] = []
    links = twice = 0
    walk = _Walk(lambda inner: True)
    for member, entry in walk.members(entries(path)):
        tick(entry.position)
        if not member.path:
            unsafe.append(member.name)
        elif not entry.regular:
            links += 1
        else:
            twice += found.pop(member.path, None) is not None
            found[member.path] = member
    troubles = walk.troubles
    if missing := gap(path):
        troubles.append(missing)
    whole = not troubles
    if unsafe:
        troubles.append(f"{len(unsafe)} names lead out of it and are left out ({unsafe[0]!r})")
    if links:
        troubles.append(f"{links} links or devices are left out")
    if twice:
        troubles.append(f"{twice} names are there again, and the later ones count")
    return Contents(list(found.values()), troubles, whole)


def list_members(path: Path) -> list[Member]:
    """The members of an archive, in its order. Raises as `read_contents`."""
    return read_contents(path).members


def stream(path: Path, wanted: Set[str], scratch: Path | None = None) -> Iterator[tuple[Member, IO[bytes]]]:
    """Reads an archive once, from its beginning, and gives the content of some of its members.

    Where it is cut or damaged it ends, and the members that come after do not appear.

    Args:
        path: of the archive, or of its first part.
        wanted: names of members. A name that is there twice comes twice; `place` tells them apart.
        scratch: folder for a copy of an inner archive that has to lie on disk, called `.*.tmp`; by default the
            system's folder for temporary files.

    Yields:
        member and content. The content can be read until the next one is asked for; an error while reading that
        `is_damage` knows says that this member is damaged.

    Raises:
        OSError: the archive cannot be read.
        EnvironmentProblem: no unpacker for a rar.
    """
    folders = {name[: place + 1] for name in wanted for place, letter in enumerate(name) if letter == "/"}
    for member, entry in _Walk(folders.__contains__, scratch).members(entries(path)):
        if member.name in wanted and member.path and entry.regular:
            with _opened(entry) as content:
                yield member, content


def open_member(path: Path, member: Member) -> IO[bytes]:
    """The content of a member that can be opened alone (it has an `offset`). Raises as `open_direct`."""
    assert member.offset is not None, "members of a stream come from stream()"
    return open_direct(path, member.offset, member.bytes)


def unpacked_path(name: str) -> str:
    """Where a member would be, below the folder that it is unpacked in; "" where its name leads out of that."""
    path = PurePosixPath(name)
    return "" if path.is_absolute() or ".." in path.parts or not path.parts else path.as_posix()


class _Walk:
    """Goes through an archive and those within it.

    Args:
        enter: whether an inner archive is looked into, by its name with a slash behind.
        scratch: as in `stream`.
    """

    def __init__(self, enter: Callable[[str], bool], scratch: Path | None = None) -> None:
        self._enter, self._scratch = enter, scratch
        self.troubles: list[str] = []  # where the reading ended before its time

    def members(self, found: Iterator[Entry], outer: Member | None = None) -> Iterator[tuple[Member, Entry]]:
        """Members in order, with what is known of them."""
        prefix, folder = "", PurePosixPath()
        rank_of_outer: tuple[int, ...] = ()
        if outer is not None:
            prefix, rank_of_outer, folder = f"{outer.name}/", outer.place, PurePosixPath(outer.path).parent
        with self._noted(prefix):
            for rank, entry in enumerate(found):
                below = unpacked_path(entry.name)
                place, offset = (*rank_of_outer, rank), None if outer else entry.offset
                path = (folder / below).as_posix() if below else ""
                member = Member(prefix + entry.name, entry.bytes, entry.mtime_ns, place, path, offset)
                if not (below and entry.regular and len(place) <= _DEEPEST and is_archive_name(below)):
                    yield member, entry
                elif self._enter(f"{member.name}/"):
                    yield from self._inner(entry, member)

    def _inner(self, entry: Entry, member: Member) -> Iterator[tuple[Member, Entry]]:
        with self._noted(f"{member.name}/"), _opened(entry) as content:
            buffered: Any = io.BufferedReader(content, _CHUNK_BYTES)
            found = stream_entries(buffered)
            if found is not None:
                yield from self.members(found, member)
                return
            with tempfile.NamedTemporaryFile(prefix=".vidssl-", suffix=".tmp", dir=self._scratch) as copy:
                shutil.copyfileobj(buffered, copy, _CHUNK_BYTES)
                copy.flush()
                yield from self.members(entries(Path(copy.name)), member)

    @contextmanager
    def _noted(self, prefix: str) -> Iterator[None]:
        """Notes what is wrong with an archive; the one around it may go on."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, Damaged) and not is_damage(error):
                raise
            what = str(error) if isinstance(error, Damaged) else "it is cut or damaged"
            self.troubles.append(f"in {prefix[:-1]}: {what}" if prefix else what)


class _Broken(io.RawIOBase):
    """A content that cannot even be opened: reading says why."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise self._error


def _opened(entry: Entry) -> IO[bytes]:
    try:
        return entry.open()
    except Exception as error:
        if not is_damage(error):
            raise
        return _Broken(error)  # type: ignore[return-value]
