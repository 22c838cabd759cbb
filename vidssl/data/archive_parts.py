"""One tar in several files: `split` cuts it, and `cat NAME* | tar xz` puts it together. Here it is read in place.

Something-Something V2 comes so: 20bn-something-something-v2-00, -01, ... are one tar.gz. From its download page each is
wrapped in a zip of its own (20bn-something-something-v2-00.zip; two of them today, twenty in earlier years), copies
elsewhere are not, whatever their suffix. Other data sets use NAME.tar.gz.00, NAME.tar.gz.aa, NAME.tar.gz.part1.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_SSV2 = "20bn-something-something-v2-"
_NAME = re.compile(
    rf"(?P<whole>{_SSV2}|.+\.(?:tar|tgz|tbz2|txz|tar\.(?:gz|bz2|xz))[-._]?(?:part)?[-._]?)"
    r"(?P<number>\d{1,3}|[a-z]{2})(?P<wrap>\.zip)?",
    re.IGNORECASE,
)
_FIRST = re.compile(r".+(part[-._]?[01]|0[01]|aa)(\.zip)?", re.IGNORECASE)
_COMPRESSIONS = (".gz", ".xz")  # two letters that are no number


@dataclass(frozen=True)
class Part:
    """One file of several. `number` counts from the first that there can be: 0 is "00", "aa"."""

    path: Path
    whole: str
    number: int
    wrapped: bool


def as_part(path: Path) -> Part | None:
    """What a file is by its name; None where it is no part."""
    name = path.name
    match = None if name.lower().endswith(_COMPRESSIONS) else _NAME.fullmatch(name)
    if match is None:
        return None
    number = match["number"].lower()
    value = int(number) if number.isdigit() else (ord(number[0]) - ord("a")) * 26 + ord(number[1]) - ord("a")
    return Part(path, match["whole"], value, match["wrap"] is not None)


def parts_of(path: Path) -> list[Part]:
    """All parts of what this file is a part of, in order; those after a gap are left out. A part that lies beside the
    zip that wrapped it counts once. Empty where the file is no part, as those only look like it that are alone and not
    the first (setup.tar.sh), or beside what they would be put together (a.tar.gz.1, a second download of a.tar.gz).
    Raises OSError."""
    own = as_part(path)
    if own is None or path.with_name(own.whole.rstrip("-._")).is_file():
        return []
    found: dict[int, Part] = {}
    for file in sorted(path.parent.iterdir()):
        part = as_part(file)
        if part and part.whole == own.whole and not (part.wrapped and part.number in found) and file.is_file():
            found[part.number] = part
    if len(found) == 1 and not own.whole.lower().startswith(_SSV2) and not _FIRST.fullmatch(path.name):
        return []
    numbers = sorted(found)
    first = min(numbers[0], 1) if numbers else 0  # some count from 1
    return [found[number] for place, number in enumerate(numbers) if number == first + place]


def is_first_part(path: Path) -> bool:
    """Whether reading begins with this file: it is no part, or the first."""
    parts = parts_of(path)
    return not parts or parts[0].path == path


def gap(path: Path) -> str:
    """Says so where parts are missing between others, else ""."""
    own, parts = as_part(path), parts_of(path)
    if not parts or own is None:
        return ""
    known = {part.number for part in parts}
    beyond = [
        part for file in path.parent.iterdir() if (part := as_part(file)) and part.whole == own.whole
        and part.number not in known
    ]  # fmt: skip
    if not beyond:
        return ""
    missing = len(parts) + (parts[0].number if parts else 0)
    return f"of its parts number {missing} is missing, counted from the first"


class Parts(io.BufferedReader):
    """All parts as one stream. `position` is how many of the bytes on disk were taken."""

    def __init__(self, parts: list[Part]) -> None:
        self._joined = _Joined(parts)
        super().__init__(self._joined, 1 << 20)

    @property
    def position(self) -> int:
        return self._joined.position


def open_parts(path: Path) -> Parts | None:
    """The stream of which a file is a part; None where it is no part. Raises OSError."""
    parts = parts_of(path)
    return Parts(parts) if parts else None


def decompressed(file: io.BufferedReader) -> Any:
    """The content of a stream, by its first bytes: the stream itself where it is not compressed in a known way."""
    head = file.peek(8)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
    return file


class _Joined(io.RawIOBase):
    def __init__(self, parts: list[Part]) -> None:
        self._left = list(parts)
        self._open: list[Any] = []
        self.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._open or self._left:
            if not self._open:
                self._open = _opened(self._left.pop(0).path)
            data: bytes = self._open[-1].read(len(buffer))
            if data:
                buffer[: len(data)] = data
                self.position += len(data)
                return len(data)
            self._close_part()
        return 0

    def _close_part(self) -> None:
        while self._open:
            self._open.pop().close()

    def close(self) -> None:
        self._close_part()
        super().close()


def _opened(path: Path) -> list[IO[bytes]]:
    """What is to be closed after a part; the last is its content."""
    with path.open("rb") as file:
        wrapped = file.read(4) == b"PK\3\4"
    if not wrapped:
        return [path.open("rb")]
    archive = zipfile.ZipFile(path)
    inner = [info for info in archive.infolist() if not info.is_dir()]
    if len(inner) != 1:
        raise zipfile.BadZipFile(f"{path.name} holds {len(inner)} files instead of one part")
    return [archive, archive.open(inner[0])]  # type: ignore[list-item]
