"""The reference decoder: packets from the index into libav codec contexts that live as long as their thread.

Reads every store. Nothing is opened, probed or sought: a clip is one slice of a shard, its packets are views of it.

- H.264 packets are stored with 4-byte lengths. A start code has 4 bytes too, so Annex B is made in place, and as every
  key packet carries its parameter sets, the context needs no extradata and serves all videos.
- Only wanted frames are turned into RGB, by one reformatter a thread. `to_ndarray` builds a new one for each frame and
  lets it start threads of its own: 11 ms a clip where this costs 0.3. Converting the clip in one go (its planes
  stacked into one tall frame) saves nothing over that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import av
import numba
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import VideoReformatter

from ..store import ClipSlice
from .host import HostDecoder

_PADDING = 64  # libav may read this far past the end of a packet


@dataclass
class _Worker:
    context: Any
    reformatter: VideoReformatter = field(default_factory=VideoReformatter)


class PyAVDecoder(HostDecoder):
    """See the head of this file."""

    name = "pyav"
    codecs = ("h264", "mjpeg", "vp9")

    def _new_worker(self) -> _Worker:
        context = av.CodecContext.create(self.store.meta.codec, "r")
        context.thread_type = "NONE"  # clips are spread over threads, not frames
        context.thread_count = 1
        context.flags |= Flags.low_delay  # stored streams have no B frames: each packet gives its frame at once
        return _Worker(context)

    def _clip(self, worker: _Worker, clip: ClipSlice, rows: dict[int, list[int]], out_THWC: np.ndarray) -> None:
        end = len(clip.data)
        packets = bytearray(clip.data) + bytes(_PADDING)
        if self.store.meta.codec == "h264" and _to_annex_b(np.frombuffer(packets, np.uint8), end) != end:
            raise ValueError("lengths of its H.264 units do not add up")
        view: Any = memoryview(packets)
        at, number = 0, 0
        intra = self.store.meta.codec == "mjpeg"
        try:
            for place, size in enumerate(clip.sizes.tolist()):
                if intra and place not in rows:  # every packet stands alone
                    number += 1
                else:
                    for frame in worker.context.decode(av.Packet(view[at : at + size])):
                        self._keep(worker, frame, rows.get(number), out_THWC)
                        number += 1
                at += size
            if number < len(clip.sizes):  # frames that the decoder held back
                for frame in worker.context.decode(None):
                    self._keep(worker, frame, rows.get(number), out_THWC)
                    number += 1
        except av.FFmpegError as error:
            raise ValueError(error.strerror) from error
        finally:
            worker.context.flush_buffers()
        if number != len(clip.sizes):
            raise ValueError(f"{len(clip.sizes)} packets gave {number} frames")

    def _keep(self, worker: _Worker, frame: Any, rows: list[int] | None, out_THWC: np.ndarray) -> None:
        if rows is None:
            return
        if frame.is_corrupt:
            raise ValueError("a frame is damaged")
        plane: Any = worker.reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        _, height, width, _ = out_THWC.shape
        lines = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        # the coded frame is larger than the picture: only the picture is copied
        out_THWC[rows[0]] = lines[:height, : width * 3].reshape(height, width, 3)


@numba.njit(nogil=True, cache=True)
def _to_annex_b(data, end):
    """Turns the 4-byte length before each H.264 unit into a start code. Returns where it ends: `end` if all is well."""
    at = 0
    while at + 4 <= end:
        size = 0
        for place in range(4):
            size = size * 256 + int(data[at + place])
        data[at : at + 3] = 0
        data[at + 3] = 1
        at += 4 + size
    return at
