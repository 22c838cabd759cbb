"""What preparing a video costs, beside a bare ffmpeg that does the same transcode and checks nothing.

    python benchmarks/prep.py                      real video if it is there, otherwise the embedded set
    python benchmarks/prep.py --source DIR         your own videos
    python benchmarks/prep.py --ffmpeg FILE        another ffmpeg than that of the PATH
    python benchmarks/prep.py --memory 100 2000    also the peak memory of prep over so many videos

An iteration is the whole source. "vidssl prep" is the command as a user types it, with its start, the start of its
workers, the hashes of sources and results, the check of every frame, the shards and the index. The peer is a loop over
the files, with the crop of each told to it, the same scaling and the same x264 settings, in both ways to use two
cores: one file after the other with two threads each, and two files at once with one thread each.

Ratios are those of ffmpeg to prep: below 1, prep is the faster one. `agreement`: bytes of prep's videos over ffmpeg's,
and the mean difference of the pictures of one video in grey levels. A distribution's ffmpeg loads two hundred
libraries at each start; a static build starts in a tenth of the time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import pyarrow.parquet as pq

from vidssl.data.datasets import embedded
from vidssl.data.encode import x264_options
from vidssl.data.picture import crop_box
from vidssl.data.prep import prepare
from vidssl.data.store import Store, StoreMeta, open_store
from vidssl.engine.progress import Reporter

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import Candidate, parser, run

WORKERS = 2
OURS = "vidssl prep"
REAL = Path(__file__).resolve().parents[2] / "shared/data/actions"
PREP = [sys.executable, "-m", "vidssl.cli", "prep", "folder", "--name", "bench", "--workers", str(WORKERS), "--json"]


class Peer:
    """ffmpeg over all files of a store's source."""

    def __init__(self, ffmpeg: str, source: Path, store: Store, folder: Path) -> None:
        self.ffmpeg, self.folder = ffmpeg, folder
        self.files = [source / name for name in store.ids]
        self.filters = [_filters(file, store.meta) for file in self.files]

    def made(self, number: int) -> Path:
        return self.folder / f"{number}.mp4"

    def transcode(self, number: int, threads: int) -> None:
        x264 = x264_options(gop=8)
        parameters = x264.pop("x264-params").replace("threads=1", f"threads={threads}")
        command = [self.ffmpeg, "-nostdin", "-v", "error", "-y", "-threads", str(threads)]
        command += ["-i", str(self.files[number]), "-an", "-vf", self.filters[number], "-fps_mode", "passthrough"]
        command += ["-c:v", "libx264", "-x264-params", parameters, *(w for k, v in x264.items() for w in (f"-{k}", v))]
        subprocess.run([*command, "-movflags", "faststart", str(self.made(number))], check=True)

    def one_by_one(self) -> Callable[[int], int]:
        def call(number: int) -> int:
            for file in range(len(self.files)):
                self.transcode(file, WORKERS)
            return len(self.files)

        return call

    def at_once(self) -> Callable[[int], int]:
        def call(number: int) -> int:
            with ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(lambda file: self.transcode(file, 1), range(len(self.files))))
            return len(self.files)

        return call


def _filters(file: Path, meta: StoreMeta) -> str:
    """The filters of `picture.py` in ffmpeg's words, for an upright video of square pixels."""
    with av.open(str(file), metadata_errors="ignore") as container:
        video = container.streams.video[0].codec_context
        size = (video.width, video.height)
    width, height = (side + side % 2 for side in meta.picture)
    right, bottom = meta.coded[0] - width, meta.coded[1] - height
    w, h, x, y = crop_box(size, Fraction(1), (width, height))
    scale = f"scale={width}:{height}:flags=bicubic+accurate_rnd+bitexact:out_range=tv:out_color_matrix=bt601"
    pad = f"pad={meta.coded[0]}:{meta.coded[1]}:0:0,fillborders=0:{right}:0:{bottom}:smear"
    return f"crop={w}:{h}:{x}:{y}:exact=1,{scale},format=yuv420p,{pad}"


def ours(source: Path, home: Path, videos: int) -> Callable[[], Callable[[int], int]]:
    """The command, each time from nothing."""

    def call(number: int) -> int:
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([*PREP, "--source", str(source)], env=_environment(home), capture_output=True, check=True)
        return videos

    return lambda: call


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "VIDSSL_HOME": str(home)}


def agreement(store: Store, peer: Peer) -> dict[str, float]:
    """How near the two results are."""
    theirs = sum(peer.made(number).stat().st_size for number in range(len(store)))
    mine = pq.read_table(store.path / "index.parquet", columns=["bytes"])["bytes"].to_numpy().sum()
    with tarfile.open(store.path / "shards" / "000000.tar") as tar:
        first = tar.extractfile(tar.getmembers()[0])
        assert first is not None
        seen, right = _grey(first), _grey(peer.made(0).open("rb"))
    gap = np.abs(seen - right).mean() if seen.shape == right.shape else np.inf
    return {"bytes": round(float(mine / theirs), 4), "pictures": round(float(gap), 3)}


def _grey(file: IO[bytes]) -> np.ndarray:
    """int16 [T, H, W]"""
    with file, av.open(file) as container:
        return np.stack([frame.to_ndarray(format="gray").astype(np.int16) for frame in container.decode(video=0)])


def peak_memory(originals: list[Path], count: int, folder: Path) -> dict[str, float]:
    """MiB at the most of prep's main process and of the largest of its workers, over `count` links to the originals."""
    source = folder / f"links_{count}"
    source.mkdir()
    for number, original in enumerate(islice(cycle(originals), count)):
        os.link(original, source / f"{number:06d}{original.suffix}")
    command, home = [*PREP, "--source", str(source)], folder / f"home_{count}"
    main, workers, begun = 0, 0, time.monotonic()
    with tempfile.TemporaryFile() as output:
        running = subprocess.Popen(command, env=_environment(home), stdout=output, stderr=output)
        while running.poll() is None:
            main = max(main, _peak_kib(running.pid))
            workers = max([workers, *map(_peak_kib, _children(running.pid))])
            time.sleep(0.02)
    if running.returncode:
        raise SystemExit(f"prep ended with {running.returncode}")
    shutil.rmtree(home)
    seconds = round(time.monotonic() - begun, 1)
    return {"videos": count, "main_mib": round(main / 1024, 1), "worker_mib": round(workers / 1024, 1), "s": seconds}


def _peak_kib(pid: int) -> int:
    """What the process itself has had: getrusage also counts what its parent had when it was started."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def main() -> int:
    options = parser(__doc__)
    options.set_defaults(iterations=5, warm_up=1)
    options.add_argument("--source", type=Path, help="folder of videos (default: real video if there, else embedded)")
    options.add_argument("--ffmpeg", default="ffmpeg", metavar="FILE", help="the peer (default: that of the PATH)")
    options.add_argument(
        "--memory", type=int, nargs="*", default=[], metavar="N", help="also peak memory over N videos"
    )
    chosen: argparse.Namespace = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rendered = folder / "embedded"
        source = chosen.source or (REAL if REAL.is_dir() and not chosen.smoke else rendered)
        counts = [4] if chosen.smoke else chosen.memory
        if counts or source == rendered:
            embedded.render(rendered, workers=WORKERS, num_train=4 if chosen.smoke else 48, num_test=0)
        prepare(source=source, name="once", store_dir=folder / "once", workers=WORKERS, progress=Reporter(quiet=True))
        store = open_store(folder / "once")
        (folder / "peer").mkdir()
        peer = Peer(chosen.ffmpeg, source, store, folder / "peer")
        table = [
            Candidate(OURS, ours(source, folder / "home", len(store)), "checks every frame, hashes, shards"),
            Candidate("ffmpeg -threads 2", peer.one_by_one, "one file after the other"),
            Candidate("ffmpeg -threads 1, two at once", peer.at_once),
        ]

        def complete(result: dict[str, Any]) -> None:
            result |= {"source": source.name, "videos": len(store), "frames": int(store.frames.sum())}
            if peer.made(len(store) - 1).exists():
                result |= {"ffmpeg": _version(chosen.ffmpeg), "agreement": agreement(store, peer)}
            result["memory"] = [peak_memory(sorted(rendered.rglob("*.mp4")), count, folder) for count in counts]

        return run(chosen, "prep", table, "video", OURS, complete)


def _version(ffmpeg: str) -> str:
    done = subprocess.run([ffmpeg, "-version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


if __name__ == "__main__":
    raise SystemExit(main())
