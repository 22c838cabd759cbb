"""zip: its table of contents is read by zipfile, once for all of its files.

There may be hundreds of zips, and videos come in an order that is random in them: opening a zip for each video would
read its table each time.
"""

from __future__ import annotations

import calendar
import io
import struct
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import IO

METHODS = [
    getattr(zipfile, name) for name in ("ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA", "ZIP_ZSTANDARD")
    if hasattr(zipfile, name)
]  # fmt: skip
ENCRYPTED = 1  # bit of an entry's flags
_HEADER = struct.Struct("<4s22xHH")  # before each content: magic, ..., bytes of its name and of what comes after that


def mtime_ns(info: zipfile.ZipInfo) -> int:
    """Time of change in ns, 0 where there is none; a local time without its zone, which is taken as UTC."""
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0)) * 10**9
    except ValueError:  # some programs leave the date empty: month 0
        return 0


def open_at(path: Path, offset: int, size: int) -> IO[bytes]:
    """The content of a file of a zip.

    Args:
        offset: of the header before it, in bytes.
        size: unpacked, in bytes.

    Raises:
        OSError: the zip cannot be read.
        zipfile.BadZipFile, struct.error: it is damaged, or has changed; here or while reading, then also EOFError and
            the errors of zlib and lzma.
    """
    known = _table(path, path.stat().st_mtime_ns).get(offset)
    if known is None:
        raise zipfile.BadZipFile(f"{path.name} has changed")
    info = zipfile.ZipInfo()
    info.file_size = size
    info.compress_type, info.compress_size, info.CRC = known
    file = path.open("rb")
    try:
        file.seek(offset)
        magic, name_bytes, extra_bytes = _HEADER.unpack(file.read(_HEADER.size))
        if magic != b"PK\3\4":
            raise zipfile.BadZipFile(f"{path.name} has no file at byte {offset}")
        file.seek(name_bytes + extra_bytes, io.SEEK_CUR)
        return zipfile.ZipExtFile(file, "r", info, None, True)  # type: ignore[return-value]
    except BaseException:
        file.close()
        raise


@lru_cache(maxsize=1024)
def _table(path: Path, mtime_ns: int) -> dict[int, tuple[int, int, int]]:
    """Method, packed bytes and CRC-32 by offset; kept for the next file, as long as the zip does not change."""
    with zipfile.ZipFile(path) as archive:
        return {i.header_offset: (i.compress_type, i.compress_size, i.CRC) for i in archive.infolist()}
