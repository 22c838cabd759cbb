"""What tar, zip and rar archives hold, entry by entry, in the order in which they lie there.

Which kind an archive is, is read from its first bytes: parts and whole archives are often saved under another suffix.
Any entry of a zip or of a tar that is not compressed can be opened alone, and those of a rar that are not compressed.
All others are read from the beginning of their archive: they are opened while they are the current one, or not at all.
"""

from __future__ import annotations

import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import IO, Any

import rarfile

from . import rar, zips
from .archive_parts import decompressed, open_parts

_CHUNK_BYTES = 1 << 20
_BLOCK = 512
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, rarfile.Error, struct.error,
           UnicodeDecodeError, NotImplementedError)  # fmt: skip
ENCRYPTED = "it is encrypted: unpack it with its password and give --source the folder"


class Damaged(Exception):
    """An archive cannot be read from here on; the text says why."""


@dataclass(frozen=True)
class Entry:
    """One entry of an archive.

    Args:
        name: as the archive has it.
        bytes: its size, unpacked.
        mtime_ns: as the archive has it, 0 where that is no time. A zip or rar states a local time without its zone;
            it is taken as UTC.
        position: how far into the archive's own bytes it lies, for progress.
        offset: the same where it can be opened alone (in a tar it is where its content begins), else None.
        open: its content. Where `offset` is None it can be called while this entry is the latest one.
        regular: a file. Others (links, devices) have no content of their own.
    """

    name: str
    bytes: int
    mtime_ns: int
    position: int
    offset: int | None
    open: Callable[[], Any]
    regular: bool = True


def is_damage(error: BaseException) -> bool:
    """Whether an exception speaks of an archive's content, and not of the disk or of a mistake of ours."""
    return isinstance(error, _DAMAGE) or (isinstance(error, OSError) and error.errno is None)


def entries(path: Path) -> Iterator[Entry]:
    """Entries of the archive on disk that is called so, or that begins with this part. Folders are left out.

    Raises:
        Damaged: it is no archive, cut, damaged or encrypted; after the last entry that can be known.
        OSError: it cannot be read.
        EnvironmentProblem: no unpacker for a compressed rar.
    """
    parts = open_parts(path)
    if parts is not None:
        with parts as file:
            yield from _tar(decompressed(file), lambda: parts.position)
        return
    with path.open("rb") as file:
        kind = _kind(file.peek(8))
        if kind == "zip":
            yield from _zip(path)
        elif kind == "rar":
            yield from _rar(path)
        else:
            plain = decompressed(file)
            yield from _tar(plain, None if plain is file else file.tell)


def stream_entries(file: io.BufferedReader) -> Iterator[Entry] | None:
    """Those of an archive within another, as it comes. None, and nothing taken, of a zip or rar: these need a disk."""
    return None if _kind(file.peek(8)) else _tar(decompressed(file), lambda: 0)


def _kind(head: bytes) -> str:
    """Zip or rar, "" for all else: a tar begins with the name of its first file, which may well be PK something."""
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip"
    return "rar" if head.startswith(rar.MAGIC) else ""


class _Watched(io.RawIOBase):
    """What tarfile reads: goes forward only unless it can seek, and remembers the last block of header.

    tarfile ends in silence at a header that makes no sense, as if the archive ended there.
    """

    def __init__(self, file: IO[bytes], seekable: bool) -> None:
        self._file, self._seekable, self._place = file, seekable, 0
        self.block = b""

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._place += len(data)
        if size == _BLOCK:
            self.block = data
        return data

    def tell(self) -> int:
        return self._place

    def seek(self, place: int, whence: int = 0) -> int:
        if self._seekable:
            self._place = self._file.seek(place)
        elif place < self._place:
            raise io.UnsupportedOperation("this archive can only be read forward")
        while self._place < place and self.read(min(place - self._place, _CHUNK_BYTES)):
            pass
        return self._place


def _tar(file: IO[bytes], position: Callable[[], int] | None) -> Iterator[Entry]:
    """Entries of a tar.

    Args:
        position: in the archive's own bytes, where that is another than in the tar's; then `file` is a stream.
    """
    watched, last = _Watched(file, position is None), ""
    try:
        tar = tarfile.TarFile(fileobj=watched)
        with closing(tar):
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all of them
                last = info.name
                if info.isdir():
                    continue
                direct = position is None and not info.issparse()
                yield Entry(
                    _text(info.name), info.size, _tar_time(info), position() if position else info.offset,
                    info.offset_data if direct else None, partial(_extracted, tar, info), info.isreg(),
                )  # fmt: skip
        if watched.block.strip(b"\0"):
            raise EOFError
    except Exception as error:
        if not is_damage(error):
            raise
        if not last:
            raise Damaged("it is no archive that can be read: cut, damaged, or something else by that name") from None
        raise Damaged(f"it is cut or damaged: what comes after {_text(last)} is not known") from None
    if position is not None:
        _read_to_end(file)


def _read_to_end(file: IO[bytes]) -> None:
    """The checksum of a compressed stream stands behind the blocks at which tarfile stops. Raises Damaged."""
    try:
        while file.read(_CHUNK_BYTES):
            pass
    except Exception as error:
        if not is_damage(error):
            raise
        raise Damaged(
            f"its end is cut or damaged, or its checksum is wrong ({error}): any of its files may be damaged"
        ) from None


def _extracted(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(info)
    assert file is not None, "only regular entries are opened"
    return file


def _tar_time(info: tarfile.TarInfo) -> int:
    exact = info.pax_headers.get("mtime")  # a float has no room for nanoseconds
    try:
        time = Decimal(exact if exact is not None else info.mtime) * 10**9
    except ArithmeticError:  # a stranger's, and no number
        return 0
    return int(max(Decimal(-(2**63)), min(time, Decimal(2**63 - 1)))) if not time.is_nan() else 0


def _zip(path: Path) -> Iterator[Entry]:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        if not is_damage(error):
            raise
        raise Damaged("it is cut or damaged: its table of contents, which comes last, cannot be read") from None
    with archive:
        if any(info.flag_bits & zips.ENCRYPTED for info in archive.infolist()):
            raise Damaged(ENCRYPTED)
        unknown = [info for info in archive.infolist() if info.compress_type not in zips.METHODS]
        for info in archive.infolist():
            if info.is_dir() or info.compress_type not in zips.METHODS:
                continue
            # Windows tools wrote backslashes, and unzip reads them so
            name = info.filename.replace("\\", "/") if info.create_system == 0 else info.filename
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
            place = info.header_offset
            yield Entry(
                _text(name), info.file_size, zips.mtime_ns(info), place, place,
                partial(archive.open, info), kind in (0, stat.S_IFREG),
            )  # fmt: skip
        if unknown:
            raise Damaged(
                f"{len(unknown)} of its files are left out, packed by a method that Python does not know "
                f"({unknown[0].compress_type}; the first is {_text(unknown[0].filename)!r}): unpack it and give "
                "--source the folder, or pack it again"
            )


def _rar(path: Path) -> Iterator[Entry]:
    try:
        archive = rar.opened(path)
    except Exception as error:
        if not is_damage(error):
            raise
        raise Damaged("it is no rar archive that can be read, or not the first of its parts") from None
    with archive:
        if archive.needs_password():
            raise Damaged(ENCRYPTED)
        unpacker = rar.Unpacker(path, archive)
        try:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                place = info.header_offset
                yield Entry(
                    _text(info.filename), info.file_size, rar.mtime_ns(info), place,
                    place if rar.is_direct(archive, info) else None,
                    partial(unpacker.open, info), info.is_file() and info.file_redir is None,
                )  # fmt: skip
        finally:
            unpacker.close()
        missing = rar.cut(path, archive)
        if missing:
            raise Damaged(missing)


def open_direct(path: Path, offset: int, size: int) -> IO[bytes]:
    """The content of an entry that can be opened alone.

    Args:
        offset: as in `Entry`.
        size: in bytes.

    Raises:
        OSError: the archive cannot be read. What `is_damage` knows, here or while reading: the content is damaged.
    """
    with path.open("rb") as file:
        kind = _kind(file.read(8))
    if kind == "zip":
        return zips.open_at(path, offset, size)
    if kind == "rar":
        return rar.open_at(path, offset)
    return io.BufferedReader(_Window(path, offset, size), _CHUNK_BYTES)


class _Window(io.RawIOBase):
    """A stretch of a file. Raises EOFError where the file ends before the stretch does."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(offset)
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._left)
        data = self._file.read(wanted)
        if wanted and not data:
            raise EOFError
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _text(name: str) -> str:
    """Bytes that are not UTF-8 become \\xNN, as in the ids of files, so that every name can be written down."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
