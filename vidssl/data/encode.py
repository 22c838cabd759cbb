"""The encoder of the store: frames in, one short MP4 in memory out, with the place of every packet in it.

- H.264: `veryfast`. On a Kinetics clip at 176x128 with the settings below (one core, decode and scaling included):
  ultrafast 1180 frames/s and 764 KB, superfast 1350 and 451, veryfast 1050 and 335, faster 690 and 332, fast 530 and
  339, at 33.8 to 34.6 dB all but ultrafast. Veryfast is the last preset whose bytes pay for its time.
- No macroblock tree and no lookahead: x264's AVX-512 code for the tree reads memory that it has not written, and one
  video in seventy came out with other bytes on the next run (same frames in; without the tree none of 850, and the same
  bytes with AVX2 as with AVX-512). At equal quality it costs 2 % (moving camera) to 8 % (still camera) of the bytes.
- A group of pictures every 8 frames, no B frames, no scene cuts, fastdecode (no CABAC, no deblocking): a clip decodes
  from the nearest key frame at a tenth of the source's cost. Parameter sets are repeated at every key frame, so that a
  slice of packets is decodable by itself.
- A key frame redraws what stands still, by a grey level or two; the frames between copy it. So the still background of
  a clip tells its stride to whoever looks for that, and PRP and RSPNet ask for it. Networks trained here do not look
  (`benchmarks/codec_cue.py`); MJPEG has nothing to look at.
- MJPEG: every packet a whole JPEG at quantiser 6, full range: 2.1 KB a frame and 40.6 dB (3 would be 3.5 KB and 43.9,
  10 1.8 KB and 38.3), still far above H.264's 34 dB; a smaller JPEG is a faster one (`benchmarks/results/NOTES.md`).
  The quantiser is fixed from both sides, because libav's MJPEG encoder ignores the quality asked for otherwise.
- The index (moov) comes first. The muxer writes into memory: whoever stores the bytes sees a full disk as a plain
  OSError of his own write, and a dry run writes nothing.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av

from .picture import Recipe

_LIMITED, _FULL, _BT601 = 1, 2, 6  # libav's numbers of colour ranges and of the colour space SMPTE 170M
_JPEG_OPTIONS = {"qmin": "6", "qmax": "6"}


class Encoder:
    """Encodes store frames of one video.

    Args:
        recipe: format and sizes.
        rate: frames per second.
    """

    def __init__(self, recipe: Recipe, rate: Fraction) -> None:
        self._buffer = buffer = io.BytesIO()
        options = {"movflags": "faststart", "fflags": "+bitexact"}

        def reopen(url: str, flags: int, options: dict) -> io.BytesIO:
            # faststart reads the file back to move the index to its front: it gets a copy of what is written so far.
            # No method: the container would then hold this object and this the container, until some later collection.
            return io.BytesIO(buffer.getvalue())

        self._out = av.open(buffer, "w", format="mp4", options=options, io_open=reopen)
        h264 = recipe.format == "h264"
        stream: Any = self._out.add_stream(
            "libx264" if h264 else "mjpeg", rate=rate, options=x264_options(recipe.gop) if h264 else _JPEG_OPTIONS
        )
        stream.width, stream.height = recipe.coded
        stream.pix_fmt = "yuv420p" if h264 else "yuvj420p"
        context = stream.codec_context
        context.thread_count = 1
        context.color_range, context.colorspace = (_LIMITED if h264 else _FULL), _BT601
        self._stream = stream
        self._frames = 0

    def add(self, frame: av.VideoFrame) -> None:
        frame.pict_type = 0  # or the encoder repeats the source's key frames
        for packet in self._stream.encode(frame):
            self._out.mux(packet)
        self._frames += 1

    def finish(self) -> bytes:
        """The MP4."""
        for packet in self._stream.encode(None):
            self._out.mux(packet)
        self._out.close()
        return self._buffer.getvalue()

    def abort(self) -> None:
        self._out.close()


def x264_options(gop: int) -> dict[str, str]:
    """libav's options of the H.264 encoder."""
    parameters = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:repeat-headers=1:threads=1"
    parameters += ":mbtree=0:rc-lookahead=0"
    parameters += ":cpu-independent=1"  # else the bytes follow from the processor, and a cluster has several kinds
    return {"preset": "veryfast", "tune": "fastdecode", "crf": "23", "x264-params": parameters}


def packet_table(member: bytes, gop: int) -> tuple[int, list[int], list[bool]]:
    """Where the packets of a member lie.

    Returns:
        offset of the first packet, size of each packet in bytes, key flag of each.

    Raises:
        ValueError: the packets are not one behind the other in frame order, or a key frame is not where it must be.
    """
    with av.open(io.BytesIO(member), "r") as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
    sizes = [packet.size for packet in packets]
    keys = [packet.is_keyframe for packet in packets]
    first = end = packets[0].pos or 0
    shown = [packet.pts or 0 for packet in packets]
    for packet in packets:
        if packet.pos != end:
            raise ValueError(f"packets of the encoded file are not contiguous at byte {end}")
        end += packet.size
    if shown != sorted(set(shown)) or keys != [n % gop == 0 for n in range(len(keys))]:
        raise ValueError("packets of the encoded file are out of order or key frames not where they were asked for")
    return first, sizes, keys
