"""Files that are either there and whole or not there: written beside, synced, renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def replacing(file: Path, sync: bool = True) -> Iterator[Path]:
    """Gives a path to write to; on leaving it takes the place of `file` in one step, on an exception it is removed.

    Args:
        sync: make it safe against power loss too, not only against the end of this process.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if sync:
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.replace(file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_temporaries(folder: Path) -> None:
    """Removes what a killed process left."""
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)
