"""`--decoder auto`: measures the decoders that can read this store on this machine, and takes the fastest.

Which one wins cannot be known beforehand: at 176x128 pixels 16 processor cores, nvJPEG and NVDEC are near each other,
and it depends on the machine and on who else uses it. Candidates take turns, so that a machine that slows down slows
all of them. What was measured is printed and recorded with the run; a candidate that fails is listed with its reason.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ...errors import EnvironmentProblem, VidsslError
from ..store import Store
from . import DECODERS, open_decoder
from .base import ClipRequest, Decoder

LENGTH, STRIDE, BATCH = 16, 2, 16  # the job: what most tasks ask for


@dataclass(frozen=True)
class Measurement:
    """One candidate. `seconds` is the time it was given; `error` says why there are no figures."""

    name: str
    clips_per_second: float = 0.0
    cpu_ms_per_clip: float = 0.0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Choice:
    """The decoder taken, and the figures it was taken by."""

    name: str
    measurements: tuple[Measurement, ...]

    def summary(self) -> str:
        """One line for people, fastest first."""
        ranked = sorted(self.measurements, key=lambda m: -m.clips_per_second)
        parts = [f"{m.name} {m.clips_per_second:.0f} clips/s" for m in ranked if not m.error]
        return ", ".join(parts + [f"{m.name}: {m.error}" for m in ranked if m.error])

    def to_dict(self) -> dict[str, Any]:
        """For the record of a run."""
        return {"name": self.name, "measurements": [asdict(m) for m in self.measurements]}


def choose_decoder(
    store: Store, device: str | torch.device = "cpu", threads: int | None = None, seconds: float = 2.0
) -> Choice:
    """Measures and chooses.

    Args:
        store: the clips are random 16-frame clips of it, stride 2, in batches of 16.
        device: where frames are wanted; what it takes to bring them there is in the figures.
        threads: as the decoder will be opened with.
        seconds: time for all candidates together, opening and warming up not counted.
    Raises:
        EnvironmentProblem: no decoder works; the message has the reason of each.
    """
    device = torch.device(device)
    opened: dict[str, Decoder] = {}
    failed: list[Measurement] = []
    batches = _batches(store)
    for name in DECODERS.names():
        try:
            reason = _left_out(DECODERS.get(name), store, device)
            if reason:
                failed.append(Measurement(name, error=reason))
                continue
            opened[name] = open_decoder(name, store, device, threads)
            _timed(opened[name], batches[0])  # compiles, allocates, reads the shard
        except (VidsslError, RuntimeError, ImportError) as error:
            failed.append(Measurement(name, error=str(error).splitlines()[0]))
            if name in opened:
                opened.pop(name).close()
    spent = {name: np.zeros(2) for name in opened}
    rounds = 0
    if len(opened) == 1:  # nothing to choose: only its figures for the record
        seconds /= 4
    while opened and sum(wall for wall, _ in spent.values()) < seconds:
        for name, decoder in opened.items():
            spent[name] += _timed(decoder, batches[rounds % len(batches)])
        rounds += 1
    clips = rounds * BATCH
    done = [
        Measurement(name, round(clips / float(wall), 1), round(float(cpu) * 1000 / clips, 3), round(float(wall), 3))
        for name, (wall, cpu) in spent.items()
    ]
    for decoder in opened.values():
        decoder.close()
    if not done:
        reasons = "; ".join(f"{m.name}: {m.error}" for m in failed)
        raise EnvironmentProblem(f"no decoder can read the store {store.path.name!r} on this machine. {reasons}")
    return Choice(max(done, key=lambda m: m.clips_per_second).name, tuple(done + failed))


def _left_out(decoder: Any, store: Store, device: torch.device) -> str:
    """Why a decoder is no candidate, or nothing."""
    codecs = getattr(decoder, "codecs", (store.meta.codec,))  # one from another package need not have the table
    if store.meta.codec not in codecs:
        return f"reads {', '.join(codecs)} only"
    if decoder.name == "dali" and device.type != "cuda":
        return "not tried without a GPU (import alone takes 2 s); name it to use it"
    return ""


def _batches(store: Store) -> list[list[ClipRequest]]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(4):
        videos = rng.integers(0, len(store), BATCH)
        starts = rng.integers(0, np.maximum(store.frames[videos] - LENGTH * STRIDE, 1))
        frames = np.minimum(starts[:, None] + np.arange(LENGTH) * STRIDE, store.frames[videos, None] - 1)
        made.append([ClipRequest(int(v), row) for v, row in zip(videos, frames, strict=True)])
    return made


def _timed(decoder: Decoder, batch: list[ClipRequest]) -> np.ndarray:
    """Seconds of wall clock and of processor for one batch, until its frames are there."""
    wall, cpu = time.perf_counter(), time.process_time()
    decoder.decode(batch)
    if decoder.device.type == "cuda":
        torch.cuda.synchronize(decoder.device)
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])
