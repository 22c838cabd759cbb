"""What a store of 100,000 videos costs before its first clip: opened, listed, planned, prepared again.

    python benchmarks/store.py
    python benchmarks/store.py --videos 300000

The store is generated: true tables and packet arrays, shards that are holes of the right length. "read the index" is
pyarrow alone on the same file, the floor of opening. "merge" is what a prep with nothing to do spends on its store.
`fresh` in the JSON is one process from nothing: seconds of each step, and the peak of its memory after each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vidssl.data.catalog import training_rows
from vidssl.data.manifest import current_rows, merge, write_rows
from vidssl.data.plan import Plan, uniforms
from vidssl.data.store import StoreMeta, open_store, read_meta

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import Candidate, parser, run

VIDEOS, FRAMES, CLASSES, SHARD_VIDEOS, BATCH = 100_000, 300, 400, 512, 64
FLOOR = "read the index"
FRESH = """
import json, sys, time
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024, 1)
steps = {}
def step(name, do):
    begun = time.perf_counter()
    done = do()
    steps[name] = {"seconds": round(time.perf_counter() - begun, 3), "peak_mib": peak()}
    return done
def imports():
    from vidssl.data import Plan, open_store
    return Plan, open_store
def epoch():
    plan = Plan(store.indices("train"), store.keys[store.indices("train")], int(sys.argv[2]), 1)
    return sum(len(plan.step(number).samples) for number in range(plan.num_steps))
Plan, open_store = step("import", imports)
store = step("open", lambda: open_store(sys.argv[1]))
step("plan an epoch", epoch)
print(json.dumps(steps))
"""


def generate(store: Path, videos: int, frames: int) -> None:
    """A store of K400's make: long ids, 400 classes, one video in 13 a test, the lengths a little different."""
    (store / "shards").mkdir(parents=True)
    names = [f"class {number:03d}" for number in range(CLASSES)]
    for shard, first in enumerate(range(0, videos, SHARD_VIDEOS)):
        rows, offset = [], 0
        for video in range(first, min(videos, first + SHARD_VIDEOS)):
            rows.append(_row(video, shard, names[video % CLASSES], frames - video % min(20, frames), offset))
            offset += rows[-1]["member_bytes"] + 4096
        with (store / "shards" / f"{shard:06d}.tar").open("wb") as tar:
            tar.truncate(offset)
        write_rows(store, shard, rows, offset)
    merge(store, StoreMeta(store.name, label_names={"": names}))


def _row(video: int, shard: int, label: str, frames: int, offset: int) -> dict[str, Any]:
    digest = hashlib.sha256(str(video).encode()).hexdigest()
    name = f"{label}/{digest[:11]}_{video % 300:06d}_{video % 300 + 10:06d}.mp4"
    return {
        "path": name, "id": name, "status": "ok", "reason": "", "label": label,
        "split": "train" if video % 13 else "test", "frames": frames, "frames_promised": frames, "fps": 29.97,
        "width": 340, "height": 256, "rotation": 0, "codec": "h264", "duration_seconds": round(frames / 29.97, 6),
        "bytes": 300_000 + video, "mtime_ns": 0, "sha256": digest, "shard": shard, "revision": 0,
        "number": shard * 10_000 + video % SHARD_VIDEOS, "offset": offset + 2048, "member_bytes": 1000 * frames + 2000,
        "member_sha256": digest,
        "packet_sizes": [1000] * frames, "packet_keys": [frame % 8 == 0 for frame in range(frames)],
    }  # fmt: skip


def candidates(path: Path) -> list[Candidate]:
    """The table of this benchmark: each call is one store."""

    def timed(call: Callable[[], Any]) -> Callable[[], Callable[[int], int]]:
        def once(number: int) -> int:
            call()
            return 1

        return lambda: once

    store = open_store(path)
    rows = training_rows(store, "all")
    keys = store.keys[rows]

    def epoch() -> None:
        plan = Plan(rows, keys, BATCH, 1)
        assert sum(len(plan.step(number).samples) for number in range(plan.num_steps)) == len(rows)

    half = str(len(rows) // 2)
    return [
        Candidate(FLOOR, timed(lambda: pq.read_table(path / "index.parquet")), "pyarrow alone"),
        Candidate("open", timed(lambda: open_store(path))),
        Candidate("plan an epoch", timed(epoch), "order and steps"),
        Candidate("numbers of an epoch", timed(lambda: uniforms(0, 0, keys, 16)), "16 a clip"),
        Candidate("half of it as a subset", timed(lambda: training_rows(store, half))),
        Candidate("fingerprint", timed(store.fingerprint), "a run's spec holds it"),
        Candidate("rows of all shards", timed(lambda: current_rows(path)), "what prep begins with"),
        Candidate("merge", timed(lambda: merge(path, read_meta(path))), "what prep ends with"),
    ]


def main() -> int:
    options = parser(__doc__)
    options.set_defaults(iterations=5, warm_up=1)
    options.add_argument("--videos", type=int, default=VIDEOS, help="of the store (default: %(default)s)")
    options.add_argument("--frames", type=int, default=FRAMES, help="of a video, at most (default: %(default)s)")
    chosen: argparse.Namespace = options.parse_args()
    videos, frames = (2000, 8) if chosen.smoke else (chosen.videos, chosen.frames)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "generated"
        generate(path, videos, frames)

        def complete(result: dict[str, Any]) -> None:
            command = [sys.executable, "-c", FRESH, str(path), str(BATCH)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result |= {"videos": videos, "frames": frames, "fresh": json.loads(done.stdout)}

        return run(chosen, "store", candidates(path), "store", FLOOR, complete)


if __name__ == "__main__":
    raise SystemExit(main())
