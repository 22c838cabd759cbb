"""NVIDIA DALI: NVDEC for H.264 and VP9 stores, nvJPEG for MJPEG stores, and the same two graphs on the processor.

- DALI decodes what it is given from its first byte (its own index is not used by the operator), so it is given the
  groups of pictures of the clip, cut from the shard and wrapped as a small MP4 (`mp4.py`).
- `fn.decoders.video` is the one operator that spreads samples over several NVDEC engines, through its `num_threads`.
- It sorts the frames of a sample and decodes forward; a frame asked for twice would start the sample again from its
  first byte. So each frame is asked for once, and repeats are gathered on the device.
- DALI's CPU build has VP8, VP9 and MJPEG and no H.264: on a machine without a GPU the video graph runs over VP9 stores
  (in the tests) and the image graph over MJPEG stores. Where the user would get an H.264 store and no GPU, we say so.
- The pipeline is made at the first call and runs one batch at a time; decoding ahead is the loader's business.

The GPU side was written from DALI's documentation and source (2.4); what it reaches is in benchmarks/results, if it
was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...errors import DataError, EnvironmentProblem
from ..store import Store
from . import mp4
from .base import ClipRequest, Decoder
from .host import check_codec, clip_shape, read_slice, undecodable


class DaliDecoder(Decoder):
    """See the head of this file. On a GPU the frames never leave it."""

    name = "dali"
    codecs = ("h264", "mjpeg", "vp9")

    def __init__(self, store: Store, device: torch.device, threads: int) -> None:
        super().__init__(store, device, threads)
        check_codec(self.name, self.codecs, store)
        self._on_gpu = device.type == "cuda"
        if not self._on_gpu and store.meta.codec == "h264":
            raise EnvironmentProblem(
                "decoder 'dali' has no H.264 without a GPU (DALI's CPU build reads VP9 and MJPEG only). Take --decoder "
                "pyav or auto, or prepare the set with --format mjpeg."
            )
        self._fn, self._types, self._pipeline_class = _import_dali()
        self._images = store.meta.codec == "mjpeg"
        self._pipeline: Any = None
        self._largest = 0

    def decode(self, requests: Sequence[ClipRequest]) -> torch.Tensor:
        shape = clip_shape(requests, self.store)
        wanted, inverse = zip(*(np.unique(r.frame_indices, return_inverse=True) for r in requests), strict=True)
        frames = self._run_images(requests, wanted) if self._images else self._run_video(requests, wanted)
        out = torch.empty(shape, dtype=torch.uint8, device=self.device)
        plain = all(np.array_equal(r.frame_indices, w) for r, w in zip(requests, wanted, strict=True))
        height, width = shape[2:4]
        if plain and not isinstance(frames, list):  # the usual case: one copy for the batch, which also crops
            out.copy_(frames.view(*shape[:2], *frames.shape[-3:])[:, :, :height, :width])
        else:
            for row, clip in enumerate(_per_clip(frames, wanted)):
                index = torch.as_tensor(inverse[row], device=self.device)
                out[row] = clip[:, :height, :width][index]
        if self._on_gpu:  # DALI takes its buffers back at the next run, on a stream of its own
            torch.cuda.current_stream(self.device).synchronize()
        return out

    def _run_video(self, requests: Sequence[ClipRequest], wanted: Sequence[np.ndarray]) -> Any:
        files, frames = [], []
        for request, numbers in zip(requests, wanted, strict=True):
            clip = read_slice(self.store, request)
            keys = self.store.key_flags(request.video)[clip.first_frame : clip.first_frame + len(clip.sizes)]
            try:
                files.append(mp4.wrap(clip.data, clip.sizes, keys, self.store.meta.codec, self.store.meta.coded))
            except ValueError as error:
                raise undecodable(self.store, request.video, str(error)) from error
            frames.append((numbers - clip.first_frame).astype(np.int32))
        return self._run(requests, {"encoded": files, "frames": frames})

    def _run_images(self, requests: Sequence[ClipRequest], wanted: Sequence[np.ndarray]) -> Any:
        pictures = []
        for request, numbers in zip(requests, wanted, strict=True):
            clip = read_slice(self.store, request)
            data, ends = np.frombuffer(clip.data, np.uint8), np.cumsum(clip.sizes, dtype=np.int64)
            for place in (numbers - clip.first_frame).tolist():
                pictures.append(data[ends[place] - int(clip.sizes[place]) : ends[place]])
        return self._run(requests, {"encoded": pictures})

    def _run(self, requests: Sequence[ClipRequest], inputs: dict[str, list[np.ndarray]]) -> Any:
        """Runs the graph: one tensor over all samples where they have one shape, else a list of tensors."""
        count = len(inputs["encoded"])
        try:
            if self._pipeline is None or count > self._largest:
                self._pipeline, self._largest = self._build(count), count
            for name, batch in inputs.items():
                self._pipeline.feed_input(name, batch)
            (output,) = self._pipeline.run()
        except RuntimeError as error:
            self._pipeline = None  # after an error DALI's pipeline is not to be used again
            raise self._explain(requests, error) from error
        if output.is_dense_tensor():
            return torch.from_dlpack(output.as_tensor())
        return [torch.from_dlpack(output[n]) for n in range(len(output))]

    def _build(self, batch: int) -> Any:
        fn, types = self._fn, self._types
        device = "mixed" if self._on_gpu else "cpu"
        pipeline = self._pipeline_class(
            batch_size=batch,
            num_threads=self.threads,
            device_id=(self.device.index or 0) if self._on_gpu else None,
            exec_pipelined=False,
            exec_async=False,
            prefetch_queue_depth=1,
        )
        with pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            if self._images:
                decoded = fn.decoders.image(encoded, device=device, output_type=types.RGB)
            else:
                frames = fn.external_source(name="frames", dtype=types.INT32, ndim=1)
                decoded = fn.decoders.video(encoded, device=device, frames=frames, pad_mode="none")
            pipeline.set_outputs(decoded)
        pipeline.build()
        return pipeline

    def _explain(self, requests: Sequence[ClipRequest], error: RuntimeError) -> Exception:
        text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:600]
        if any(sign in text.lower() for sign in ("nvcuvid", "nvdec", "codec configuration", "cuda")):
            return EnvironmentProblem(
                f"DALI cannot decode on this GPU: {text}. `vidssl doctor` says what is missing; --decoder pyav works "
                "without it."
            )
        names = ", ".join(dict.fromkeys(self.store.ids[r.video] for r in requests[:4]))
        return DataError(f"DALI could not decode a clip of a batch that begins with {names}: {text}")

    def close(self) -> None:
        self._pipeline = None


def _per_clip(frames: Any, wanted: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Frames of each clip [U, H, W, 3], from one tensor or a list, of clips (video) or of pictures (images)."""
    if isinstance(frames, list):
        return frames
    if frames.dim() == 5:
        return list(frames)
    return list(frames.split([len(numbers) for numbers in wanted]))


def _import_dali() -> tuple[Any, Any, Any]:
    try:
        from nvidia.dali import Pipeline, fn, types
    except ImportError as error:
        raise EnvironmentProblem(
            f"decoder 'dali' needs the package nvidia-dali-cuda130 ({error}). Install it with `pip install "
            "nvidia-dali-cuda130` (Linux, x86-64), or take --decoder pyav, jpeg or auto."
        ) from error
    return fn, types, Pipeline
