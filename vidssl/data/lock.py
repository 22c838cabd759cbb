"""One prep at a time on one store, and none while it is verified."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DataError, EnvironmentProblem


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Holds `STORE/.lock`; the system lets it go when the process ends, however it ends.

    Raises:
        DataError: another process holds it (its number is in the file).
        EnvironmentProblem: the file system has no locks.
    """
    descriptor = os.open(store / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take(descriptor, fcntl.LOCK_EX, store)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextmanager
def unchanging(store: Path) -> Iterator[None]:
    """Keeps prep away from a store while it is read. Others may read it too, and it need not be writable.

    Raises:
        DataError: prep is at work on it.
    """
    try:
        descriptor = os.open(store / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # it was copied without it
        yield
        return
    try:
        _take(descriptor, fcntl.LOCK_SH, store)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, how: int, store: Path) -> None:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise EnvironmentProblem(
                f"the file system of {store} has no locks ({error.strerror}), which keep two preps apart. Mount it "
                "with them (Lustre: -o flock), or set VIDSSL_HOME to another one."
            ) from error
        if not isinstance(error, BlockingIOError):
            raise
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        what = f"prepared by another process (pid {holder})" if holder else "verified by another process"
        raise DataError(
            f"{store} is being {what}. Wait until it ends, or stop it; what it has finished is kept."
        ) from None
