"""MJPEG stores through libjpeg-turbo (simplejpeg), in threads.

- Every frame stands alone: only wanted frames are decoded, whatever the stride.
- `fastupsample` repeats chroma samples instead of interpolating them. That is libav's way of converting, so it agrees
  more closely with the reference (and costs less). `fastdct` gains 4 % and moves a grey level by 0.2 on average, which
  is a tenth of what the compression did.
- Each picture is given with all that follows it in the slice: libjpeg-turbo takes its fast way through the entropy
  code only while 3 KB are left to read, which is more than most of these pictures have (4 %).
- The scratch picture begins one byte off alignment on purpose. libjpeg-turbo writes aligned rows past the caches
  (non-temporal stores), which is right for a photograph and wrong for 66 KB that are read again at once: 44 us a
  frame aligned, 24 us off by one, for a flat 176x128 picture.
"""

from __future__ import annotations

import numpy as np
import simplejpeg

from ..store import ClipSlice
from .host import HostDecoder


class JpegDecoder(HostDecoder):
    """See the head of this file."""

    name = "jpeg"
    codecs = ("mjpeg",)

    def _new_worker(self) -> np.ndarray:
        width, height = self.store.meta.coded
        room = np.empty(height * width * 3 + 64, np.uint8)
        start = -room.ctypes.data % 32 + 1
        return room[start : start + height * width * 3].reshape(height, width, 3)

    def _clip(self, worker: np.ndarray, clip: ClipSlice, rows: dict[int, list[int]], out_THWC: np.ndarray) -> None:
        _, height, width, _ = out_THWC.shape
        picture, data = worker[:height, :width], memoryview(clip.data)
        starts = [0, *np.cumsum(clip.sizes, dtype=np.int64).tolist()]
        for place, same in rows.items():
            # raises ValueError for a damaged picture, and for one that is larger than the buffer
            made = simplejpeg.decode_jpeg(data[starts[place] :], fastdct=True, fastupsample=True, buffer=worker)
            if made.shape != worker.shape:
                raise ValueError(f"a frame of shape {made.shape} instead of {worker.shape}")
            out_THWC[same[0]] = picture
