"""Stores of format "ffcv" from their one file, mapped into memory: a clip is one call into compiled code.

- Only wanted frames are decoded, each once; nothing is read, sliced or looped over in Python.
- The same JPEGs and the same calls of libjpeg-turbo as decoder `jpeg`, so equal frames, as long as two versions of that
  library give the same: ffcv is linked with the system's, simplejpeg brings its own (2.1.5 of Debian 12 and 3 agree).
- The file must not be cut while it is open: a mapped byte that is gone ends the process, where `jpeg` says which shard.
  It is compared with the index, and its length with its own header, when it is opened.
"""

from __future__ import annotations

from types import ModuleType

import numba
import numpy as np
import torch

from ...errors import DataError, EnvironmentProblem
from ..store import Store
from .base import ClipRequest
from .host import ThreadedDecoder, check_codec, check_frames


class FfcvDecoder(ThreadedDecoder):
    """See the head of this file."""

    name = "ffcv"
    codecs = ("mjpeg",)

    def __init__(self, store: Store, device: torch.device, threads: int) -> None:
        check_codec(self.name, self.codecs, store)
        if store.meta.format != "ffcv":
            raise DataError(
                f"decoder 'ffcv' reads stores of format ffcv; {store.path.name!r} has format {store.meta.format!r}. "
                "Take --decoder auto, or prepare the set with --format ffcv under another --name."
            )
        beton = import_beton("decoder 'ffcv'")
        from .. import ffcv_field

        reader = beton.open_beton(store.path)
        if reader is None:
            raise DataError(
                f"{store.path / beton.FILE} is missing, damaged, or not of the index beside it. Run the same `vidssl "
                "prep` again: it makes that file again and redoes nothing else."
            )
        self._file = store.path / beton.FILE
        self._words = np.memmap(self._file, np.int64, "r").view(np.ndarray)  # as `decode_frames` takes it
        self._first_word = reader.metadata["f0"]["data_ptr"].astype(np.int64) // 8
        self._size = reader.metadata["f0"]["size"].astype(np.int64)
        self._decode_frames, self._scratch = ffcv_field.decode_frames, ffcv_field.scratch_words(store.meta.coded)
        super().__init__(store, device, threads)

    def _new_worker(self) -> np.ndarray:
        return np.empty(self._scratch, np.int64)

    def _one(self, worker: np.ndarray, request: ClipRequest, out_THWC: np.ndarray) -> None:
        check_frames(self.store, request)
        video = request.video
        frames = np.ascontiguousarray(request.frame_indices, np.int64)
        count, coded = int(self.store.frames[video]), self.store.meta.coded
        sample = self._words[self._first_word[video] :]
        failed = self._decode_frames(sample, self._size[video], count, frames, coded, worker, out_THWC)
        if failed:
            raise DataError(
                f"frame {frames[failed - 1]} of {self.store.ids[video]!r} in {self._file} cannot be decoded: its bytes "
                "changed after it was prepared. Delete that file and run the same `vidssl prep` again, which makes it "
                "from the shards."
            )


def import_beton(what: str) -> ModuleType:
    """The module `vidssl.data.beton`, which imports ffcv. Raises EnvironmentProblem that `what` needs it."""
    threads = torch.get_num_threads(), numba.get_num_threads()
    try:
        from .. import beton
    except (ImportError, OSError) as error:  # OSError: a library that it is linked with
        raise EnvironmentProblem(
            f"{what} needs the package ffcv ({error}). It is built on installing, for which Debian and Ubuntu need "
            "`apt-get install build-essential pkg-config libopencv-dev libturbojpeg0-dev`; then `pip install "
            "'vidssl[ffcv]'`. --format mjpeg holds the same frames and needs neither."
        ) from error
    # importing ffcv sets both to 1, for the whole process
    torch.set_num_threads(threads[0])
    numba.set_num_threads(threads[1])
    return beton
