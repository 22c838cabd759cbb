"""Archives on their way in: the one in work and the one after it, within a bound on disk."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DataError, EnvironmentProblem, VidsslError
from .download import Stopped, arrived, fetch, forget, size_of, size_on_disk
from .member_lists import list_of

_END_SECONDS = 3.0


@dataclass(frozen=True)
class Archive:
    """One archive.

    Args:
        address: where it comes from.
        file: where it arrives.
        stand_for: what its list of members stands for in the source.
    """

    address: str
    file: Path
    stand_for: Path

    @property
    def seen(self) -> bool:
        """Whether its members are known."""
        return list_of(self.stand_for).exists()

    @property
    def done(self) -> bool:
        """Whether it was worked through: it is deleted when it was."""
        return self.seen and not self.file.exists()


class Arrivals:
    """A folder of archives that never holds more than `most` bytes."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self._most = folder, most
        self._sizes: dict[str, int] = {}

    def tidy(self, archives: list[Archive]) -> None:
        """Removes what is no archive any more, as where the list of them has changed."""
        known = {archive.file for archive in archives}
        for file in self._files():
            if _whole(file) not in known:
                file.unlink()

    def forget(self, archive: Archive) -> None:
        forget(archive.file)

    def make_room(self, archive: Archive, following: list[Archive]) -> None:
        """Raises ConfigError where the archive alone is too large, EnvironmentProblem where the disk has no room.

        Others that have begun to arrive give way.
        """
        self.require(archive, 0)
        size = self._size(archive)
        # a name with a dot before is a note that is just being written
        begun = {_whole(file) for file in self._files() if not file.name.startswith(".")}
        for other in sorted(begun - {archive.file}):
            too_much = self._taken() - arrived(archive.file) + size > self._most
            if too_much or other not in [later.file for later in following]:
                forget(other)
        free, need = shutil.disk_usage(self.folder).free, size - arrived(archive.file)
        if need > free:
            raise EnvironmentProblem(
                f"{self.folder} has {_gb(free)} free, and {archive.address} takes {_gb(need)} more. What was fetched "
                "and finished stays. Make space and run the same command again, or set VIDSSL_HOME to another place."
            )

    def require(self, archive: Archive, aside: int) -> None:
        """Raises ConfigError where an archive, and `aside` bytes of its videos, are more than may be on disk."""
        need = self._size(archive) + aside
        if need > self._most:
            videos = f", with the videos in work {_gb(need)}" if aside else ""
            raise ConfigError(
                f"--max-disk {_gb(self._most)} is too little: {archive.address} alone takes "
                f"{_gb(self._size(archive))}{videos}. Give at least --max-disk {need / 1e9:.3g}GB. What was fetched "
                "and finished stays."
            )

    @contextmanager
    def coming(self) -> Iterator[Coming]:
        """Fetches in the background; ends that on leaving."""
        coming = Coming(self)
        try:
            yield coming
        finally:
            coming.end()

    def has_room(self, archive: Archive, aside: int) -> bool:
        return self._taken() - arrived(archive.file) + self._size(archive) + aside <= self._most

    def _taken(self) -> int:
        return sum(size_on_disk(file) for file in self._files())

    def _files(self) -> list[Path]:
        return [file for file in self.folder.rglob("*") if file.is_file()]

    def _size(self, archive: Archive) -> int:
        """Bytes, asked once."""
        if archive.file.exists():
            return arrived(archive.file)
        if archive.address not in self._sizes:
            size = size_of(archive.address)
            if size is None:
                raise DataError(
                    f"{archive.address}: the server does not say how large it is, so --max-disk cannot be kept. Try "
                    "another copy with --mirror URL, or fetch the files yourself and give --source DIR."
                )
            self._sizes[archive.address] = size
        return self._sizes[archive.address]


class Coming:
    """Transfers in the background, one at a time."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._archive: Archive | None = None
        self._problem: BaseException | None = None
        self._tell: Callable[[str], None] = lambda text: None

    def begin(self, archive: Archive, aside: int) -> None:
        """Begins to fetch an archive while another is in work, if there is room for both and for `aside` bytes."""
        try:
            fits = self._arrivals.has_room(archive, aside)
        except VidsslError:  # it is told when its turn comes: first the archive that is here
            return
        if fits:
            self._tell = lambda text: None
            self._start(archive)

    def wait(self, archive: Archive, tell: Callable[[str], None]) -> None:
        """Returns when the archive is there. Raises what `fetch` raises. `tell` gets what to show meanwhile."""
        self._tell = tell
        if self._archive != archive:
            self._start(archive)
        assert self._thread is not None
        while self._thread.is_alive():
            self._thread.join(0.2)  # Ctrl-C gets through
        self._archive = None
        if self._problem is not None:
            raise self._problem

    def end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)

    def _start(self, archive: Archive) -> None:
        self._archive, self._problem = archive, None
        self._thread = threading.Thread(target=self._fetch, args=(archive,), daemon=True)
        self._thread.start()

    def _fetch(self, archive: Archive) -> None:
        def progress(done: int, total: int | None) -> None:
            self._tell(f"{archive.file.name}: {done / 1e6:.0f} of {(total or 0) / 1e6:.0f} MB")

        try:
            fetch(archive.address, archive.file, progress=progress, stop=self._stop)
        except Stopped:
            pass
        except BaseException as problem:
            self._problem = problem


def _whole(file: Path) -> Path:
    """The archive that a file is, or is a part of or a note on."""
    return file.with_name(file.name.removesuffix(".json").removesuffix(".part"))


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
