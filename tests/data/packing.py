"""Archives for tests. rar is written by hand: stored files only, in the format of RAR 2.9 (technote.txt of unrar)."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

SOLID, ENCRYPTED = 0x08, 0x04


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tar_bytes(files: dict[str, bytes], mode: str = "w", mtime: int = 1_700_000_000) -> bytes:
    """mode: as of tarfile: "w", "w:gz", "w:bz2", "w:xz"."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 2, 2, 2, 2, 2)), data, method)
    return raw.getvalue()


def rar_bytes(files: dict[str, bytes], main_flags: int = 0, file_flags: int = 0) -> bytes:
    """A stored rar. `SOLID` goes to the archive, `ENCRYPTED` to its files (whose content stays as it is)."""
    out = b"Rar!\x1a\x07\0" + _block(0x73, main_flags, b"\0" * 6)
    for name, data in files.items():
        path = name.replace("/", "\\").encode()
        sizes = struct.pack("<II", len(data), len(data))
        rest = struct.pack("<BIIBBHI", 2, zlib.crc32(data), 0x58000000, 29, 0x30, len(path), 0x20)
        out += _block(0x74, 0x8000 | file_flags, sizes + rest + path) + data
    return out + _block(0x7B, 0x4000, b"")


def _block(kind: int, flags: int, body: bytes) -> bytes:
    head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
    return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head


def cut_in_parts(data: bytes, count: int) -> list[bytes]:
    size = -(-len(data) // count)
    return [data[first : first + size] for first in range(0, len(data), size)]


def write(file: Path, data: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file
