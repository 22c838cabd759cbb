"""What a random clip costs: 16 frames at 112x112, from the store with each decoder, and from the original files.

    python benchmarks/decode.py                      real video if it is there, otherwise the embedded set
    python benchmarks/decode.py --source DIR         your own videos (folders of classes, or train.csv and test.csv)

The job, for all: the same frames of the same videos (random start, stride 2), the same random 112x112 cut out of the
171x128 picture, uint8 in one batch. Stores are prepared into a temporary folder, squashed, so that a peer that scales
the whole frame makes the same picture; `agreement` in the JSON is the mean difference to it in grey levels.

The peer reads the originals as most loaders do, and as well as that can be done with PyAV: open, seek to the key frame,
decode forward to the last wanted frame, scale and convert wanted frames only, by one lasting reformatter, one thread.
"kept open" spares it the opening, which no loader over 100,000 files can. The ceiling copies raw frames from a file
mapped into memory, at a hundred times the bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from vidssl.data import ClipRequest, Store, open_decoder, open_store
from vidssl.data.datasets import embedded
from vidssl.data.prep import prepare

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import Candidate, parser, run

FRAMES, SIZE = 16, 112
PEER = "PyAV seek, originals"
BATCHES = 10  # iteration n decodes batch n modulo this
REAL = Path(__file__).resolve().parents[2] / "shared/data/actions"


class Job:
    """Which clips: `batches` of requests, and for each clip the upper left corner of the cut (y, x)."""

    def __init__(self, store: Store, videos: int, clips: int, stride: int) -> None:
        rng = np.random.default_rng(0)
        span = (FRAMES - 1) * stride + 1
        rows = np.flatnonzero(store.frames >= span)[:videos]
        if len(rows) == 0:
            raise SystemExit(f"no video of the source has the {span} frames of a clip; try --stride 1")
        self.rows = rows
        self.batches: list[list[ClipRequest]] = []
        self.corners: list[np.ndarray] = []
        width, height = store.meta.picture
        for _ in range(BATCHES):
            chosen = rng.choice(rows, clips)
            starts = rng.integers(0, store.frames[chosen] - span + 1)
            pairs = zip(chosen.tolist(), starts.tolist(), strict=True)
            self.batches.append([ClipRequest(v, s + np.arange(FRAMES) * stride) for v, s in pairs])
            self.corners.append(rng.integers(0, (height - SIZE + 1, width - SIZE + 1), (clips, 2)))

    def cut(self, number: int, frames: Any) -> np.ndarray:
        """uint8 [B, 16, 112, 112, 3] from B clips of whole pictures."""
        out = np.empty((len(frames), FRAMES, SIZE, SIZE, 3), np.uint8)
        for row, (y, x) in enumerate(self.corners[number % BATCHES].tolist()):
            out[row] = frames[row][:, y : y + SIZE, x : x + SIZE]
        return out


class SeekReader:
    """The peer. `keep` holds every container open."""

    def __init__(self, store: Store, source: Path, keep: bool) -> None:
        self.files = [str(source / name) for name in store.ids]
        self.size = store.meta.picture
        self.reformatter = VideoReformatter()
        self.open: dict[int, Any] | None = {} if keep else None

    def clip(self, request: ClipRequest) -> np.ndarray:
        """uint8 [16, H, W, 3]"""
        if self.open is None:
            with self._container(request.video) as container:
                return self._read(container, request.frame_indices)
        if request.video not in self.open:
            self.open[request.video] = self._container(request.video)
        return self._read(self.open[request.video], request.frame_indices)

    def _container(self, video: int) -> Any:
        container = av.open(self.files[video], metadata_errors="ignore")  # real files carry any bytes as title
        context = container.streams.video[0].codec_context
        context.thread_type, context.thread_count = "NONE", 1
        return container

    def _read(self, container: Any, frames: np.ndarray) -> np.ndarray:
        width, height = self.size
        stream = container.streams.video[0]
        ticks = 1 / (stream.average_rate * stream.time_base)
        zero = stream.start_time or 0
        container.seek(zero + int(frames[0] * ticks), stream=stream)
        rows = {frame: row for row, frame in enumerate(frames.tolist())}
        out, last = np.empty((len(frames), height, width, 3), np.uint8), int(frames[-1])
        for frame in container.decode(stream):
            stamp = frame.dts if frame.pts is None else frame.pts  # AVI has no display times
            number = round((stamp - zero) / ticks)
            if number in rows:
                picture = self.reformatter.reformat(frame, width, height, "rgb24", threads=1).planes[0]
                lines = np.frombuffer(picture, np.uint8).reshape(height, picture.line_size)
                out[rows[number]] = lines[:, : width * 3].reshape(height, width, 3)
            if number >= last:
                break
        return out


def candidates(
    job: Job, stores: dict[str, Store], source: Path, folder: Path, threads: int, checked: dict[str, np.ndarray]
) -> list[Candidate]:
    """The table of this benchmark. `checked` receives the first batch of each, to see that all did the same work."""

    def timed(name: str, clips: Callable[[list[ClipRequest]], Any]) -> Callable[[int], int]:
        checked[name] = job.cut(0, clips(job.batches[0]))

        def call(number: int) -> int:
            return len(job.cut(number, clips(job.batches[number % BATCHES])))

        return call

    def peer(name: str, keep: bool) -> Candidate:
        def open_peer() -> Callable[[int], int]:
            reader = SeekReader(stores["h264"], source, keep)
            return timed(name, lambda requests: [reader.clip(request) for request in requests])

        return Candidate(name, open_peer, "no loader over many files can" if keep else "open, seek, decode, scale")

    def decoder(which: str, form: str, note: str = "") -> Candidate:
        name = f"{which}, {form} store"

        def open_it() -> Callable[[int], int]:
            device = "cuda" if which == "dali" and torch.cuda.is_available() else "cpu"
            opened = open_decoder(which, stores[form], device, threads)
            return timed(name, lambda requests: opened.decode(requests).cpu().numpy())

        return Candidate(name, open_it, note)

    def raw() -> Callable[[int], int]:
        frames, first = _raw_file(job, stores["h264"], folder / "raw.u8")
        return timed("raw memmap", lambda requests: [frames[first[r.video] + r.frame_indices] for r in requests])

    return [
        peer(PEER, keep=False),
        peer(f"{PEER}, kept open", keep=True),
        decoder("pyav", "h264"),
        decoder("dali", "h264"),
        decoder("pyav", "mjpeg"),
        decoder("jpeg", "mjpeg"),
        decoder("dali", "mjpeg"),
        *([decoder("ffcv", "ffcv", "the extra ffcv")] if "ffcv" in stores else []),
        Candidate("raw memmap", raw, "the ceiling: no decoding, 100 times the bytes"),
    ]


def _raw_file(job: Job, store: Store, path: Path) -> tuple[np.ndarray, dict[int, int]]:
    """All frames of the job's videos in one mapped file, and where each video begins."""
    first, count = {}, 0
    for row in job.rows.tolist():
        first[row] = count
        count += int(store.frames[row])
    width, height = store.meta.picture
    frames = np.memmap(path, np.uint8, "w+", shape=(count, height, width, 3))
    decoder = open_decoder("pyav", store, threads=1)
    for row, at in first.items():
        length = int(store.frames[row])
        frames[at : at + length] = decoder.decode([ClipRequest(row, np.arange(length))])[0].numpy()
    return frames, first


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--source", type=Path, help="folder of videos (default: real video if there, else embedded)")
    options.add_argument("--threads", type=int, default=1, help="of each decoder; the peer has one (default: 1)")
    options.add_argument("--stride", type=int, default=2, help="frames from one to the next (default: 2)")
    options.add_argument("--clips", type=int, default=8, help="of a batch (default: 8)")
    options.add_argument("--videos", type=int, default=32, help="of the source, at most (default: 32)")
    chosen: argparse.Namespace = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        workers = 1 if chosen.smoke else None
        source = chosen.source or (REAL if REAL.is_dir() and not chosen.smoke else None)
        if source is None:
            source = folder / "embedded"
            embedded.render(source, workers=workers, num_train=4 if chosen.smoke else 48, num_test=0)
        stores, bytes_per_frame = {}, {}
        for form in ("h264", "mjpeg", *(["ffcv"] if find_spec("ffcv") else [])):
            prepare(source=source, name=form, store_dir=folder / form, format=form, fit="squash", workers=workers)
            stores[form] = open_store(folder / form)
            sizes = [stores[form].packet_sizes(row).mean() for row in range(len(stores[form]))]
            bytes_per_frame[form] = round(float(np.mean(sizes)))
        job = Job(stores["h264"], chosen.videos, 2 if chosen.smoke else chosen.clips, chosen.stride)
        checked: dict[str, np.ndarray] = {}
        table = candidates(job, stores, source, folder, chosen.threads, checked)

        def complete(result: dict[str, Any]) -> None:
            truth = next(iter(checked.values())).astype(np.int16)  # the peer's, if it could be opened
            gaps = {name: round(float(np.abs(truth - made).mean()), 2) for name, made in checked.items()}
            result |= {"source": source.name, "stride": chosen.stride, "threads": chosen.threads}
            result |= {"clips": len(job.batches[0]), "videos": len(job.rows)}
            result |= {"bytes_per_frame": bytes_per_frame, "agreement": gaps}

        return run(chosen, "decode", table, "clip", PEER, complete)


if __name__ == "__main__":
    raise SystemExit(main())
