"""rar: its headers are read by rarfile (markokr/rarfile), what is compressed by whichever unpacker is installed.

No free program unpacks every rar: bsdtar 3.6 of libarchive knows no solid archives of the older format, unar 1.10 fails
on some of the newer. So every content is checked against its checksum, and where one program gives another content, the
next one is asked. What is stored without compression needs no program.

One process unpacks all files of an archive, one after the other: each start of unar takes 30 ms of a processor's time,
UCF101 has 13,320 files, and a solid archive is one compressed stream anyway.
"""

from __future__ import annotations

import calendar
import os
import shutil
import subprocess
import tempfile
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import rarfile

from ..errors import EnvironmentProblem

MAGIC = b"Rar!\x1a\x07"
_CHUNK_BYTES = 1 << 20
_TRIED_FILES = 8  # before an archive counts as one that no program here unpacks
_IN_MEMORY_BYTES = 16 << 20  # a bigger content waits for its check in an unnamed file
# Each writes the content of all files of an archive, or of one, to its standard output.
_PROGRAMS = {
    "unrar": ("p", "-inul", "-p-", "--"),
    "unar": ("-q", "-o", "-", "-p", "", "--"),
    "7z": ("e", "-so", "-bb0", "-p", "--"),
    "7zz": ("e", "-so", "-bb0", "-p", "--"),
    "bsdtar": ("-x", "--to-stdout", "-f"),
}


def programs() -> list[str]:
    """Those that are installed, the better ones first."""
    return [name for name in _PROGRAMS if shutil.which(name)]


def need_program(path: Path) -> None:
    """Raises EnvironmentProblem where nothing is installed that unpacks a rar."""
    if not programs():
        raise EnvironmentProblem(
            f"{path} is a compressed rar, and no program that unpacks it is installed. Install one of "
            f"{', '.join(_PROGRAMS)} (Debian and Ubuntu: apt install unar; macOS: brew install unar), or unpack it and "
            "give --source the folder."
        )


def opened(path: Path) -> rarfile.RarFile:
    """Raises rarfile.Error: it is no rar, or one of several parts and not the first."""
    return rarfile.RarFile(path)


def cut(path: Path, archive: rarfile.RarFile) -> str:
    """What is missing at the end of an archive, "" for a whole one."""
    infos = archive.infolist()
    end = infos[-1].data_offset + infos[-1].compress_size if infos and len(archive.volumelist()) == 1 else 0
    if archive.strerror() or end > path.stat().st_size or not infos:
        last = f"what comes after {infos[-1].filename}" if infos else "what it holds"
        return f"it is cut, damaged or lacks one of its parts: {last} is not known"
    return ""


def mtime_ns(info: Any) -> int:
    """Time of change in ns; the older format states a local time without its zone, which is taken as UTC."""
    time = info.mtime
    if time is None:
        return 0
    return calendar.timegm(time.utctimetuple()) * 10**9 + getattr(time, "nanosecond", time.microsecond * 1000)


def is_direct(archive: rarfile.RarFile, info: Any) -> bool:
    """Whether a file is stored as it is, so that it can be read alone and without a program."""
    return info.compress_type == rarfile.RAR_M0 and not archive.is_solid()


def open_at(path: Path, offset: int) -> IO[bytes]:
    """The content of a file that is direct, given the offset of its header. Raises OSError, rarfile.Error."""
    archive, files = _table(path, path.stat().st_mtime_ns)
    return archive.open(files[offset])


@lru_cache(maxsize=4)
def _table(path: Path, mtime_ns: int) -> tuple[rarfile.RarFile, dict[int, Any]]:
    """The table of contents stays open for the next file, as long as the archive does not change."""
    archive = opened(path)
    return archive, {info.header_offset: info for info in archive.infolist()}


class Unpacker:
    """The files of an archive, one after the other in their order there."""

    def __init__(self, path: Path, archive: rarfile.RarFile) -> None:
        self._path, self._archive = path, archive
        self._infos = [info for info in archive.infolist() if info.is_file() and info.file_redir is None]
        self._left: list[str] | None = None
        self._delivered = False  # whether any program gave any good content of this archive
        self._output: _Output | None = None
        self._next = 0

    def open(self, info: Any) -> IO[bytes]:
        """The content of a file; those before it are skipped.

        Raises:
            rarfile.Error: it is damaged, here or while reading.
            EnvironmentProblem: no unpacker, or none of them gives one good content of this archive.
        """
        if is_direct(self._archive, info):
            return self._archive.open(info)
        if self._left is None:
            need_program(self._path)
            self._left = programs()
        while self._left:
            try:
                return self._read_up_to(info, self._left[0])
            except rarfile.BadRarFile:
                self._left.pop(0)
                self.close()
        try:
            return self._read_alone(info)
        except rarfile.BadRarFile:
            self._need_delivered(info)
            raise

    def _need_delivered(self, failed: Any) -> None:
        """A program that cannot unpack an archive at all looks like damage in each of its files."""
        others = [info for info in self._infos if info is not failed and not is_direct(self._archive, info)]
        for info in others[:_TRIED_FILES]:
            if self._delivered:
                return
            with suppress(rarfile.BadRarFile):
                self._read_alone(info).close()
        if not self._delivered:
            raise EnvironmentProblem(
                f"no program that is installed here ({', '.join(programs())}) unpacks {self._path}. Install another of "
                f"{', '.join(_PROGRAMS)} (Debian and Ubuntu: apt install unar, or unrar from non-free; macOS: brew "
                "install unar); a 7z needs its codec for rar. Where the archive itself is damaged, download it again "
                "or take it away."
            )

    def _read_up_to(self, info: Any, program: str) -> IO[bytes]:
        if self._output is None:
            self._output, self._next = _Output(program, self._path), 0
        while (skipped := self._infos[self._next]) is not info:
            digest = _copy(self._output, skipped.file_size, None)
            self._delivered |= skipped.file_size > 0 and digest == skipped.CRC
            self._next += 1
        self._next += 1
        return self._checked(self._output, info)

    def _read_alone(self, info: Any) -> IO[bytes]:
        """After a file that no program unpacks, the later ones may still be whole; not in a solid archive."""
        name = info.filename
        if name.startswith(("-", "@")) or "\0" in name:  # programs would take it for an option or a list of files
            raise rarfile.BadRarFile(f"no program may be asked for {name!r}")
        for program in programs() if not self._archive.is_solid() else []:
            with suppress(rarfile.BadRarFile), _Output(program, self._path, info.filename) as output:
                return self._checked(output, info)
        raise rarfile.BadRarFile(f"no program unpacks {info.filename}")

    def _checked(self, output: _Output, info: Any) -> IO[bytes]:
        content = _checked(output, info)
        self._delivered |= info.file_size > 0  # an empty content is right whatever a program does
        return content

    def close(self) -> None:
        if self._output is not None:
            self._output.close()
            self._output = None


class _Output:
    """What a program writes."""

    def __init__(self, program: str, path: Path, name: str = "") -> None:
        asked_for = [*(["--"] if program == "bsdtar" else []), name] if name else []
        command = [program, *_PROGRAMS[program], str(path.absolute()), *asked_for]
        nothing = subprocess.DEVNULL
        words = {**os.environ, "LC_ALL": "C.UTF-8"}  # unar fails on names that the locale has no letters for
        self._process = subprocess.Popen(command, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing, env=words)

    def read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.read(size)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked(source: Any, info: Any) -> IO[bytes]:
    """A file's content, if it is what the archive says it is. Raises rarfile.BadRarFile where not."""
    content: Any = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115
    try:
        digest = _copy(source, info.file_size, content)
        if info.CRC is not None and digest != info.CRC:
            raise rarfile.BadRarFile(f"{info.filename} has another checksum")
        content.seek(0)
    except BaseException:
        content.close()
        raise
    return content


def _copy(source: Any, size: int, target: Any) -> int:
    """Takes so many bytes, and writes them where there is a target. Returns their CRC-32."""
    digest = 0
    while size:
        data = source.read(min(size, _CHUNK_BYTES))
        if not data:
            raise rarfile.BadRarFile("the unpacker ended too early")
        digest = zlib.crc32(data, digest)
        size -= len(data)
        if target is not None:
            target.write(data)
    return digest
