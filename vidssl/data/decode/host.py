"""What the decoders on the processor share: threads over clips, one output tensor, errors that name the video.

Threads, not processes: the codecs release the interpreter's lock, frames land in the batch without a copy between
processes, and nothing has to be pickled. A worker keeps its codec context and scratch space for its whole life.
"""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from ...errors import DataError
from ..store import ClipSlice, Store
from .base import ClipRequest, Decoder


class ThreadedDecoder(Decoder):
    """Decodes clips in threads. A subclass says what a thread keeps and how one clip is made."""

    def __init__(self, store: Store, device: torch.device, threads: int) -> None:
        super().__init__(store, device, threads)
        self._buffers = _Buffers()
        self._workers = [self._new_worker() for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=self.name) if threads > 1 else None

    @abstractmethod
    def _new_worker(self) -> Any:
        """Codec context and scratch space of one thread."""

    @abstractmethod
    def _one(self, worker: Any, request: ClipRequest, out_THWC: np.ndarray) -> None:
        """Answers one request. Raises DataError for damaged bytes, IndexError for frames the video does not have."""

    def decode(self, requests: Sequence[ClipRequest]) -> torch.Tensor:
        shape = clip_shape(requests, self.store)
        if self.device.type == "cuda":
            frames = torch.empty(shape, dtype=torch.uint8, pin_memory=True)  # torch recycles pinned memory itself
        else:
            frames = self._buffers.take(shape)
        out = frames.numpy()
        todo = list(range(len(requests)))[::-1]  # pop() hands out the first clip first, and is atomic

        def work(worker: Any) -> None:
            while todo:
                try:
                    number = todo.pop()
                except IndexError:
                    return
                try:
                    self._one(worker, requests[number], out[number])
                except BaseException:
                    todo.clear()
                    raise

        if self._pool is None or len(requests) == 1:
            work(self._workers[0])
        else:
            for done in [self._pool.submit(work, worker) for worker in self._workers[: len(requests)]]:
                done.result()
        return frames.to(self.device, non_blocking=True)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._workers.clear()


class HostDecoder(ThreadedDecoder):
    """Decodes slices of shards. A subclass says how one slice becomes frames."""

    codecs: tuple[str, ...]

    def __init__(self, store: Store, device: torch.device, threads: int) -> None:
        check_codec(self.name, self.codecs, store)
        super().__init__(store, device, threads)

    @abstractmethod
    def _clip(self, worker: Any, clip: ClipSlice, rows: dict[int, list[int]], out_THWC: np.ndarray) -> None:
        """Decodes one slice. `rows`: packet number in the slice -> rows of `out_THWC` it goes to, in no order.

        Raises ValueError with the reason where the bytes cannot be decoded.
        """

    def _one(self, worker: Any, request: ClipRequest, out_THWC: np.ndarray) -> None:
        clip = read_slice(self.store, request)
        rows: dict[int, list[int]] = {}
        for row, frame in enumerate(request.frame_indices.tolist()):
            rows.setdefault(frame - clip.first_frame, []).append(row)
        try:
            self._clip(worker, clip, rows, out_THWC)
        except ValueError as error:
            raise undecodable(self.store, request.video, str(error)) from error
        for same in rows.values():
            for row in same[1:]:
                out_THWC[row] = out_THWC[same[0]]


class _Buffers:
    """Memory of batches that nobody holds any more, to be used again.

    A fresh batch is memory that the kernel hands out page by page, at up to 0.5 ms a clip: half of what decoding JPEGs
    costs. An array goes back when the last tensor that shares its memory is gone, whichever view that is.
    """

    KEPT = 4  # batches: one in use, some decoded ahead

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor with anything in it."""
        size = int(np.prod(shape))
        memory = None
        for place, candidate in enumerate(self._free):
            if size <= len(candidate) <= 2 * size:
                memory = self._free.pop(place)
                break
        if memory is None:
            memory = np.empty(size, np.uint8)
        # the tensor holds this view, and nothing else does: it dies with the tensor's storage
        view = memory[:size].reshape(shape)
        weakref.finalize(view, self._give_back, memory).atexit = False
        return torch.from_numpy(view)

    def _give_back(self, memory: np.ndarray) -> None:
        if len(self._free) == self.KEPT:
            self._free.pop(0)
        self._free.append(memory)


def check_codec(name: str, codecs: tuple[str, ...], store: Store) -> None:
    """Raises DataError where a decoder cannot read what the store holds."""
    if store.meta.codec not in codecs:
        raise DataError(
            f"decoder {name!r} reads {', '.join(codecs)}; the store {store.path.name!r} holds {store.meta.codec}. "
            "Take --decoder auto (or pyav, which reads every store), or prepare the set with another --format."
        )


def clip_shape(requests: Sequence[ClipRequest], store: Store) -> tuple[int, int, int, int, int]:
    """[B, T, H, W, 3] of the answer; checks what the caller must hold to."""
    lengths = {len(request.frame_indices) for request in requests}
    assert len(lengths) == 1, f"requests of one call have the same number of frames, these have {sorted(lengths)}"
    width, height = store.meta.picture
    return len(requests), lengths.pop(), height, width, 3


def read_slice(store: Store, request: ClipRequest) -> ClipSlice:
    """The bytes a request needs. Raises DataError for a cut shard, IndexError for frames the video does not have."""
    return store.read(request.video, *check_frames(store, request))


def check_frames(store: Store, request: ClipRequest) -> tuple[int, int]:
    """The first and the last frame of a request. Raises IndexError for frames the video does not have."""
    first, last = int(request.frame_indices.min()), int(request.frame_indices.max())
    if first < 0 or last >= store.frames[request.video]:
        raise IndexError(
            f"frames {first} to {last} of {store.ids[request.video]!r}, which has {store.frames[request.video]}"
        )
    return first, last


def undecodable(store: Store, video: int, reason: str) -> DataError:
    return DataError(
        f"{store.ids[video]!r} in the store {store.path} cannot be decoded ({reason}): its bytes changed after it was "
        f"prepared. `vidssl prep --verify {store.path} --repair`, then its `vidssl prep` again, mends what is bad."
    )
