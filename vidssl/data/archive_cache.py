"""What archives hold, kept: a compressed tar has to be read whole to know it.

`$VIDSSL_HOME/cache/archives/` has a file for each, named after where the archive lies. It counts as long as the
archive, or each of its parts, has the same name, size and time of change. It can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

from ..errors import EnvironmentProblem
from ..home import home
from .archive_parts import parts_of
from .archives import Contents, Member, read_contents
from .files import replacing

_VERSION = 2  # of what is kept, and of the readers: another one is not taken
_SHOWN_FROM_BYTES = 64 << 20  # less is read at once
_LOOK_SECONDS = 0.2


def contents_of(archives: list[Path]) -> dict[Path, Contents]:
    """What each of these archives holds, as kept or read now, several at a time.

    An archive that needs a program to look into it and lacks it holds nothing; its notes say so.

    Raises:
        OSError: an archive cannot be read.
    """
    stamps = {path: stamp(path) for path in archives}
    known = {path: _kept(path, stamps[path]) for path in archives}
    new = [path for path in archives if known[path] is None]
    if new:
        known |= _read(new, stamps)
    return {path: contents for path, contents in known.items() if contents is not None}


def stamp(path: Path) -> list[list[Any]]:
    """Name, bytes and time of change of an archive or its parts. Raises OSError."""
    files = [part.path for part in parts_of(path)] or _volumes(path) or [path]
    stats = [(file.name, file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _volumes(path: Path) -> list[Path]:
    """Of a rar in several files (NAME.part1.rar; NAME.rar and NAME.r00) those that are there, else nothing."""
    if path.suffix.lower() != ".rar":
        return []
    numbered = re.fullmatch(r"(.+\.part)\d+", path.stem, re.IGNORECASE)
    name = rf"{re.escape(numbered[1])}\d+\.rar" if numbered else rf"{re.escape(path.stem)}\.(rar|[r-z]\d\d)"
    return [file for file in sorted(path.parent.iterdir()) if re.fullmatch(name, file.name, re.IGNORECASE)]


def _read(archives: list[Path], stamps: dict[Path, list[list[Any]]]) -> dict[Path, Contents]:
    from ..engine.progress import Reporter  # workers import this module too, and show nothing

    total = sum(size for path in archives for _, size, _ in stamps[path])
    positions = dict.fromkeys(archives, 0)
    stop = threading.Event()

    def read(path: Path) -> Contents:
        def tick(position: int) -> None:
            if stop.is_set():
                raise CancelledError
            positions[path] = position

        try:
            contents = read_contents(path, tick)
        except EnvironmentProblem as error:
            return Contents([], [str(error)], whole=False)
        positions[path] = sum(size for _, size, _ in stamps[path])
        _keep(path, stamps[path], contents)
        return contents

    reporter = Reporter(quiet=total < _SHOWN_FROM_BYTES)
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        with reporter.meter("look into archives, MB", total >> 20) as meter:
            answers = {path: pool.submit(read, path) for path in archives}
            while not all(answer.done() and answer.result() for answer in answers.values()):
                meter.update(min(total, sum(positions.values())) >> 20)
                time.sleep(_LOOK_SECONDS if total >= _SHOWN_FROM_BYTES else 0.001)
            meter.update(total >> 20)
        return {path: answer.result() for path, answer in answers.items()}
    finally:
        stop.set()  # after Ctrl-C, or an archive that cannot be read: the others may have hours to go
        pool.shutdown(cancel_futures=True)


def _file(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:24]
    return home() / "cache" / "archives" / f"{name}.json"


def _kept(path: Path, now: list[list[Any]]) -> Contents | None:
    try:
        kept = json.loads(_file(path).read_text(encoding="utf-8"))
        if kept["version"] != _VERSION or kept["stamp"] != now:
            return None
        members = [Member(name, size, time, tuple(place), *rest) for name, size, time, place, *rest in kept["members"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Contents(members, kept["notes"], kept["whole"])


def _keep(path: Path, then: list[list[Any]], contents: Contents) -> None:
    kept = {
        "version": _VERSION, "stamp": then, "members": list(map(astuple, contents.members)),
        "notes": contents.notes, "whole": contents.whole,
    }  # fmt: skip
    file = _file(path)
    with suppress(OSError):  # a home that cannot be written costs the next look into the archive, nothing else
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, sync=False) as temporary:
            temporary.write_text(json.dumps(kept), encoding="utf-8")
