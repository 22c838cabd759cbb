"""What an archive held that is not here any more: NAME.members.json where NAME would be.

A data set that comes in hundreds of archives is prepared one archive after another, each deleted when it is done. For
readers of the source its members are still there, with sizes and times, so that choosing, numbering and recognising
what is done go as if all archives lay side by side. Only their content cannot be read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError
from .archives import Member
from .files import replacing

_SUFFIX = ".members.json"


def list_of(archive: Path) -> Path:
    """The file that stands for an archive."""
    return archive.with_name(archive.name + _SUFFIX)


def archive_of(file: Path) -> Path | None:
    """The archive that a file stands for, None where it stands for none."""
    return file.with_name(file.name.removesuffix(_SUFFIX)) if file.name.endswith(_SUFFIX) else None


def write_members(archive: Path, members: Iterable[Member]) -> None:
    """Leaves the list for an archive. Raises OSError."""
    rows = [[member.name, member.bytes, member.mtime_ns, member.place, member.path] for member in members]
    with replacing(list_of(archive)) as temporary:
        temporary.write_text(json.dumps(rows), encoding="utf-8")


def read_members(file: Path) -> list[Member]:
    """Reads such a list. Raises DataError, OSError."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [Member(name, size, time, tuple(place), path) for name, size, time, place, path in rows]
    except (ValueError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}). Remove it: its archive is then downloaded again.") from None
