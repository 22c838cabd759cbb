"""Videos in ffcv (Leclerc et al., CVPR 2023; libffcv/ffcv): a Field, its decoder, and the loop over frames in numba.

For people who use ffcv, on the `videos.beton` that `vidssl prep --format ffcv` makes. Sample n is row n of the index:

    from ffcv.fields.basics import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor
    from vidssl.data import open_store
    from vidssl.data.ffcv_field import ClipDecoder, VideoField

    Loader("STORE/videos.beton", batch_size=32, order=OrderOption.RANDOM, indices=open_store("STORE").indices("train"),
           custom_fields={"video": VideoField},
           pipelines={"video": [ClipDecoder(frames=16, stride=2), ToTensor()], "label": [IntDecoder(), ToTensor()]})

- A sample is a table (uint32, where each JPEG begins and where the last one ends, in bytes from the table's own start)
  and the JPEGs, one behind the other.
- JPEGs are decoded by the libturbojpeg that ffcv is linked with, called directly: ffcv's own `imdecode` interpolates
  chroma, where decoder `jpeg` repeats it (`decode/jpeg.py`).
- Every Loader makes numba's type of uint8 [N] read-only, in place (ffcv/memory_managers/os_cache.py). What was compiled
  with that type before, numba does not find again, or looks for it for ever. So bytes travel as int64 here: samples
  begin and end at multiples of 8 bytes.
- This module imports ffcv; `decode/ffcv.py` says what to do where it is not installed.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ffcv._libffcv
import numba
import numpy as np
from ffcv.fields.base import ARG_TYPE, Field
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State

from .store import ClipSlice

LAYOUT = 1  # of a sample
_ALIGN = 8  # bytes

# flags and pixel format of turbojpeg.h
_RGB, _FASTUPSAMPLE, _FASTDCT = 0, 256, 2048
_turbojpeg = ctypes.CDLL(ffcv._libffcv.__file__)


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of libturbojpeg with its types, which numba compiles into a plain call. Pointers are numbers."""
    function = getattr(_turbojpeg, name)
    function.restype, function.argtypes = result, arguments
    return function


_INT, _POINTER = ctypes.c_int, ctypes.c_size_t
_open = _function("tjInitDecompress", _POINTER)
_close = _function("tjDestroy", _INT, _POINTER)
_copy = _function(
    "memcpy", _POINTER, _POINTER, _POINTER, ctypes.c_size_t
)  # 15 times faster than numba's loop for a row
_header = _function("tjDecompressHeader3", _INT, _POINTER, _POINTER, ctypes.c_ulong, *[_POINTER] * 4)
_decompress = _function(
    "tjDecompress2", _INT, _POINTER, _POINTER, ctypes.c_ulong, _POINTER, _INT, _INT, _INT, _INT, _INT
)


@numba.njit(nogil=True)
def decode_frames(sample, size, count, frames, coded, scratch, out):
    """Decodes frames of one sample.

    Args:
        sample: int64, 8 bytes each, from the first byte of the sample on. What follows it in the file may be there too,
            and should: libjpeg-turbo is faster where 3 KB are left to read.
        size: bytes of the sample.
        count: frames that it has.
        frames: int64 [T], each in [0, count), in any order, repeats allowed.
        coded: width and height of the JPEGs in pixels.
        scratch: int64 [`scratch_words(coded)`].
        out: uint8 [T, H, W, 3], RGB: the upper left part of the JPEGs.

    Returns:
        0, or 1 + the row of `frames` whose JPEG is damaged or of another size.
    """
    coded_width, coded_height = coded
    _, height, width, _ = out.shape
    line, coded_line = width * 3, coded_width * 3
    head = 4 * (count + 1)
    if size < head:
        return 1
    starts, sample_data, end_of_data = sample.view(np.uint32), np.int64(sample.ctypes.data), 8 * len(sample)
    picture = np.int64(scratch.ctypes.data)
    picture += 1 + -picture % 32  # off alignment: see the head of decode/jpeg.py
    found = np.zeros(4, np.int32)
    decoder = _open()
    failed = 0
    for row in range(len(frames)):
        frame = frames[row]
        made = np.int64(out[row].ctypes.data)
        earlier = 0
        while frames[earlier] != frame:
            earlier += 1
        if earlier < row:
            _copy(made, out[earlier].ctypes.data, height * line)
            continue
        start, end = np.int64(starts[frame]), np.int64(starts[frame + 1])
        if start < head or end <= start or end > size:
            failed = row + 1
            break
        data, place = sample_data + start, np.int64(found.ctypes.data)
        wrong = _header(decoder, data, end - start, place, place + 4, place + 8, place + 12)
        if wrong != 0 or found[0] != coded_width or found[1] != coded_height:
            failed = row + 1
            break
        wrong = _decompress(
            decoder, data, end_of_data - start, picture, coded_width, 0, coded_height, _RGB,
            _FASTDCT | _FASTUPSAMPLE,
        )  # fmt: skip
        if wrong != 0:
            failed = row + 1
            break
        for y in range(height):
            _copy(made + y * line, picture + y * coded_line, line)
    _close(decoder)
    return failed


def scratch_words(coded: tuple[int, int]) -> int:
    """Length of the scratch space of `decode_frames`: a picture, and room to begin one byte off alignment."""
    return coded[0] * coded[1] * 3 // 8 + 5


class VideoField(Field):
    """A video as JPEGs. `coded` and `picture` are (width, height) in pixels, as in `StoreMeta`.

    `content` tells which index the file was made from; a field for files of one's own has none.
    """

    def __init__(self, coded: tuple[int, int], picture: tuple[int, int], content: str = "") -> None:
        self.coded, self.picture, self.content = coded, picture, content

    @property
    def metadata_type(self) -> np.dtype:
        return np.dtype([("frames", "<u4"), ("size", "<u4"), ("data_ptr", "<u8")])

    @staticmethod
    def from_binary(binary: Any) -> VideoField:
        """Reads what `to_binary` wrote. Raises ValueError for a field of another kind."""
        kept = json.loads(np.asarray(binary).tobytes().rstrip(b"\0"))
        if kept.get("vidssl") != LAYOUT:
            raise ValueError(f"a video field of layout {kept.get('vidssl')}, this vidssl reads {LAYOUT}")
        return VideoField(tuple(kept["coded"]), tuple(kept["picture"]), kept["content"])

    def to_binary(self) -> Any:
        kept = {"vidssl": LAYOUT, "coded": self.coded, "picture": self.picture, "content": self.content}
        text = np.frombuffer(json.dumps(kept).encode(), np.uint8)
        binary = np.zeros(1, ARG_TYPE)[0]
        binary[0][: len(text)] = text
        return binary

    def encode(self, destination: Any, value: ClipSlice, malloc: Callable[[int], tuple[int, np.ndarray]]) -> None:
        """Stores a whole video: `value.data` are its JPEGs, `value.sizes` their lengths in bytes."""
        count = len(value.sizes)
        size = sample_bytes(count, len(value.data))
        pointer, room = malloc(size)
        head = 4 * (count + 1)
        starts = np.concatenate([[0], np.cumsum(value.sizes, dtype=np.int64)]) + head
        room[:head] = starts.astype("<u4").view(np.uint8)
        room[head : head + len(value.data)] = np.frombuffer(value.data, np.uint8)
        room[head + len(value.data) :] = 0
        destination["frames"], destination["size"], destination["data_ptr"] = count, size, pointer

    def get_decoder_class(self) -> type[ClipDecoder]:
        return ClipDecoder


class ClipDecoder(Operation):
    """Decoder of `VideoField` in a pipeline of ffcv: one clip of each video, uint8 [B, frames, H, W, 3].

    A video that is too short for its clip gives its last frame again. Where a JPEG is damaged it raises ValueError;
    like every error in its pipelines, ffcv prints that from its reading thread and gives no further batch.

    Args:
        frames: of a clip.
        stride: frames from one to the next.
        start: "random" (drawn by numba, as the random decoders of ffcv do, so no seed governs it) or "middle".
    """

    def __init__(self, frames: int = 16, stride: int = 2, start: str = "random") -> None:
        super().__init__()
        if start not in ("random", "middle"):
            raise ValueError(f"start {start!r} is not possible. Legal: random, middle")
        self.frames, self.stride, self.start = frames, stride, start

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, Any]:
        width, height = self.field.picture
        shape, kind = (self.frames, height, width, 3), np.dtype("<u1")
        memory = AllocationQuery(shape, kind), AllocationQuery((scratch_words(self.field.coded),), np.dtype("<i8"))
        return replace(previous_state, jit_mode=True, shape=shape, dtype=kind), memory

    def generate_code(self) -> Callable:
        read, rows_of, coded = self.memory_read, Compiler.get_iterator(), self.field.coded
        frames, stride, random = self.frames, self.stride, self.start == "random"

        def decode(batch_indices, memory, metadata, storage_state):
            clips, scratch = memory
            damaged = 0
            for row in rows_of(len(batch_indices)):
                entry = metadata[batch_indices[row]]
                sample, count = read(entry["data_ptr"], storage_state), np.int64(entry["frames"])
                room = np.maximum(count - 1 - (frames - 1) * stride, 0)
                first = np.random.randint(0, room + 1) if random else room // 2  # noqa: NPY002 - in numba
                wanted = np.minimum(first + np.arange(frames) * stride, count - 1)
                failed = decode_frames(
                    sample.view(np.int64), len(sample), count, wanted, coded, scratch[row], clips[row]
                )
                damaged += min(failed, 1)
            if damaged > 0:
                raise ValueError("a JPEG of this batch is damaged: the bytes of the .beton changed after it was made")
            return clips[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


def sample_bytes(frames: int, data: int) -> int:
    """Bytes of a sample of so many frames with so many bytes of JPEGs."""
    return -(-(4 * (frames + 1) + data) // _ALIGN) * _ALIGN
