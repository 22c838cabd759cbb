"""Does a pretext task read the answer off the codec? One finished run, scored on the same clips from several stores.

    vidssl prep embedded --format mjpeg --name embedded-mjpeg
    python benchmarks/codec_cue.py RUN --stores embedded embedded-mjpeg

An H.264 store draws what stands still anew at each key frame, every 8 frames, and copies it in between. Neighbouring
frames of a clip of stride 8 have a key frame between them always, those of stride 1 once in 8: who sees the background
flicker by a level or so knows the stride. MJPEG draws every frame by itself and tells nothing.

For each store: how much the stillest fifth of the picture changes from one frame to the next, by the later frame's
number modulo 8 (grey levels of 255, median over videos), and the accuracy of the run's network on the test videos. The
clips are the same, frame for frame, because they follow from the seed and the videos' names: a network that needs the
flicker is worse on MJPEG.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import environment

from vidssl.data import ClipRequest, catalog, open_decoder
from vidssl.data.decode.base import Decoder
from vidssl.engine.checkpoint import list_checkpoints
from vidssl.engine.context import Context
from vidssl.engine.progress import Reporter
from vidssl.engine.runs import RunDirectory
from vidssl.engine.setup import build_accelerator
from vidssl.evals.pretext import evaluate_pretext
from vidssl.pretrained import run_folder, run_spec
from vidssl.run import build_task, usable_rows
from vidssl.spec import RunSpec
from vidssl.tasks.base import Task

PERIOD, BLOCK, STILL = 8, 8, 0.2  # the store's GOP; pixels; the share of blocks that counts as still
FRAMES = 48


def trained_task(folder: Path, spec: RunSpec) -> Task:
    """The whole task, heads included, as its pre-training left it."""
    found = list_checkpoints(folder / "checkpoints", "pretrain")
    if not found:
        raise SystemExit(f"{folder} has no checkpoint of its pre-training, and its heads are nowhere else.")
    task = build_task(spec, None)
    task.load_state_dict(torch.load(found[-1], map_location="cpu", weights_only=True)["model"])
    return task


def flicker(decoder: Decoder, rows: np.ndarray) -> list[float]:
    """Change of what stands still, in grey levels, from frame n - 1 to n: by n modulo PERIOD."""
    per_video = []
    for row in rows:
        frames = decoder.decode([ClipRequest(int(row), np.arange(FRAMES))])[0].cpu().numpy()
        change_THW = np.abs(np.diff(frames.astype(np.float32).mean(-1), axis=0))
        T, H, W = change_THW.shape
        kept = change_THW[:, : H // BLOCK * BLOCK, : W // BLOCK * BLOCK]
        blocks = kept.reshape(T, H // BLOCK, BLOCK, W // BLOCK, BLOCK).mean((2, 4)).reshape(T, -1)
        still = blocks.mean(0) <= np.quantile(blocks.mean(0), STILL)
        each, number = blocks[:, still].mean(1), np.arange(1, FRAMES) % PERIOD
        per_video.append([float(each[number == phase].mean()) for phase in range(PERIOD)])
    return np.median(per_video, axis=0).round(3).tolist()


def score(task: Task, spec: RunSpec, name: str, repeats: int, scratch: Path) -> dict[str, Any]:
    """One row of the result."""
    store = catalog.open_data(name, Reporter())
    rows = usable_rows(task, store, store.indices("test"), "test")
    if not len(rows):
        raise SystemExit(f"store {name!r} has no test videos.")
    accelerator = build_accelerator(spec.engine)
    decoder = open_decoder("pyav", store, accelerator.device, 1)
    context = Context(accelerator, spec.engine, RunDirectory(scratch, True), "", spec.seed, Reporter())
    found = evaluate_pretext(task, decoder, rows, context, repeats, spec.eval.batch)
    long = rows[store.frames[rows] >= FRAMES]
    still = flicker(decoder, long) if len(long) else None
    decoder.close()
    return {"store": name, "format": store.meta.format, "flicker": still, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run, or its name")
    parser.add_argument("--stores", nargs="+", required=True, metavar="NAME", help="the same videos in several formats")
    parser.add_argument("--repeats", type=int, default=8, help="clips of each test video (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keeps the result")
    options = parser.parse_args()
    table = Table("task", "store", "pretext %", "flicker at key frames", "between")
    result: list[dict[str, Any]] = []
    for run in options.runs:
        folder = run_folder(run)
        spec = run_spec(folder)
        task = trained_task(folder, spec)
        with tempfile.TemporaryDirectory() as scratch:
            for name in options.stores:
                row = {"task": spec.task.name, **score(task, spec, name, options.repeats, Path(scratch))}
                result.append(row)
                low, high = row["interval"]
                still = row["flicker"]
                accuracy = f"{100 * row['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
                seen = [f"{still[0]:.2f}", f"{np.mean(still[1:]):.2f}"] if still else ["", ""]
                table.add_row(row["task"], name, accuracy, *seen)
    Console(stderr=True).print(table)
    whole = {"benchmark": "codec_cue", "repeats": options.repeats, "rows": result, "environment": environment()}
    if options.out:
        options.out.write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps(whole))


if __name__ == "__main__":
    main()
