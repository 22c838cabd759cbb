"""A few packets as an MP4 file in memory: the boxes of ISO/IEC 14496-12 that a demuxer asks for, and nothing more.

DALI takes files, not packets, and without an index decodes from the first byte to the wanted frame. So it gets a file
that holds just the groups of pictures of the clip. MP4, because its header names codec and size: DALI then need not
probe (raw Annex B would be parsed twice: once for the size, once to count frames). A library's muxer costs more than
the decoding; this costs some 0.05 ms.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np

_MATRIX = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_SPS, _PPS = 7, 8  # H.264 unit types
_FTYP = b"\x00\x00\x00\x10ftypisom\x00\x00\x02\x00"


def wrap(data: bytes, sizes: np.ndarray, keys: np.ndarray, codec: str, coded: tuple[int, int]) -> np.ndarray:
    """The file: uint8 [bytes]. Frame n of the file is packet n; one frame a tick, 25 ticks a second.

    Args:
        data: the packets, one behind the other; H.264 with 4-byte lengths and parameter sets in the first packet.
        sizes: bytes of each packet.
        keys: whether it is a key frame.
        codec: "h264" or "vp9".
        coded: width and height in pixels.
    """
    count = len(sizes)
    if codec == "h264":
        entry = _entry(b"avc1", coded, _box(b"avcC", avc_configuration(data[: int(sizes[0])])))
    elif codec == "vp9":  # profile 0, level 1, 8 bits 4:2:0
        entry = _entry(b"vp09", coded, _box(b"vpcC", struct.pack(">IBBBBBBH", 1 << 24, 0, 10, 0x82, 1, 1, 1, 0)))
    else:
        raise ValueError(f"no MP4 entry for {codec!r}")
    sync = (np.flatnonzero(keys) + 1).astype(">u4")
    tables = [
        _full(b"stsd", struct.pack(">I", 1) + entry),
        _full(b"stts", struct.pack(">III", 1, count, 1)),
        _full(b"stss", struct.pack(">I", len(sync)) + sync.tobytes()),
        _full(b"stsc", struct.pack(">IIII", 1, 1, count, 1)),
        _full(b"stsz", struct.pack(">II", 0, count) + np.asarray(sizes).astype(">u4").tobytes()),
    ]
    head = _moov(tables, 0, count, coded)
    offset = len(_FTYP) + len(head) + 8
    parts = [_FTYP, _moov(tables, offset, count, coded), struct.pack(">I4s", len(data) + 8, b"mdat"), data]
    return np.frombuffer(b"".join(parts), np.uint8)


def avc_configuration(packet: bytes) -> bytes:
    """The decoder configuration record of H.264 (ISO/IEC 14496-15), from the parameter sets in a key packet."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 5 <= len(packet) and len(found) < 2:
        size = int.from_bytes(packet[at : at + 4], "big")
        kind = packet[at + 4] & 31
        if kind in (_SPS, _PPS):
            found.setdefault(kind, packet[at + 4 : at + 4 + size])
        at += 4 + size
    if len(found) < 2:
        raise ValueError("its first packet has no H.264 parameter sets")
    sps, pps = found[_SPS], found[_PPS]
    # version, profile, compatibility, level; lengths of 4 bytes; one set of each
    head = bytes([1, sps[1], sps[2], sps[3], 0xFF, 0xE1])
    return head + struct.pack(">H", len(sps)) + sps + b"\x01" + struct.pack(">H", len(pps)) + pps


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def _full(kind: bytes, content: bytes, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", flags) + content)


def _entry(kind: bytes, coded: tuple[int, int], configuration: bytes) -> bytes:
    """A sample entry: one data reference, 72 dots per inch, 24 bits, no name."""
    fixed = struct.pack(">6xH16xHHIIIH32xHh", 1, *coded, 72 << 16, 72 << 16, 0, 1, 24, -1)
    return _box(kind, fixed + configuration)


@lru_cache(maxsize=8)
def _still(coded: tuple[int, int]) -> tuple[bytes, bytes, bytes]:
    """What is the same for every clip: track header's end, handler and media header, data reference."""
    width, height = coded
    handler = _full(b"hdlr", struct.pack(">I4s12x", 0, b"vide") + b"\0")
    reference = _box(b"dinf", _full(b"dref", struct.pack(">I", 1) + _full(b"url ", b"", flags=1)))
    return _MATRIX + struct.pack(">II", width << 16, height << 16), handler, _full(b"vmhd", bytes(8), 1) + reference


def _moov(tables: list[bytes], offset: int, count: int, coded: tuple[int, int]) -> bytes:
    track_end, handler, media = _still(coded)
    table = _box(b"stbl", b"".join(tables) + _full(b"stco", struct.pack(">II", 1, offset)))
    times = struct.pack(">IIII", 0, 0, 25, count)
    movie = _full(b"mvhd", times + struct.pack(">IH10x", 1 << 16, 0x100) + _MATRIX + bytes(24) + struct.pack(">I", 2))
    track = _full(b"tkhd", struct.pack(">IIIII16x", 0, 0, 1, 0, count) + track_end, flags=7)
    mdia = _box(b"mdia", _full(b"mdhd", times + struct.pack(">HH", 0x55C4, 0)) + handler + _box(b"minf", media + table))
    return _box(b"moov", movie + _box(b"trak", track + mdia))
