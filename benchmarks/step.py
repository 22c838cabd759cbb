"""What a training step of each backbone costs: forward, backward and optimizer on random clips that stay in memory.

python benchmarks/step.py                                  the benchmark's seven
python benchmarks/step.py --backbones mobilenet r3d_18     some
python benchmarks/step.py --no-compile                     without torch.compile, which takes a minute a candidate

This is the ceiling of every run: no decoder and no pretext task makes it faster. Each network runs eager and compiled,
with weights and clips in channels-first (contiguous) and channels-last order; ratios are against its own eager,
contiguous row. `shufflenet` and `mobilenet` have two more rows, their peers: the same network with torch's own
depthwise convolution in the order that it is given, as the original authors' code runs.

FLOPs are those of convolutions, linear layers and attention: two a multiply-add, three times the forward pass's. The
share is of the machine's peak, the better of a matrix product (4096x4096) and a dense 3x3 convolution (512 channels, 56
pixels), measured in the same run and precision: fp32 on a CPU, bf16 under autocast on a GPU. (On some
processors the library behind the one uses wider instructions than that behind the other.) Memory is what a step needs
beyond what was there before its network was built.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Candidate, parser, run
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vidssl.backbones import create_backbone
from vidssl.backbones.base import Backbone
from vidssl.backbones.depthwise import DepthwiseConv3d
from vidssl.engine.setup import keep_freed_memory

SEVEN = ("shufflenet", "squeezenet", "mobilenet", "c3d", "r3d", "r21d", "videoswin")
PEERS = ("shufflenet", "mobilenet")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
PEAKS = ("peak, matrix product", "peak, dense convolution")


def plain(network: Any, x_BCTHW: torch.Tensor) -> torch.Tensor:
    """ShuffleNet and MobileNet in the order of their authors' code, in the layout of the clips."""
    if hasattr(network, "features"):
        return network.features(x_BCTHW)
    return network.layer3(network.layer2(network.layer1(network.maxpool(network.conv1(x_BCTHW)))))


def without_our_depthwise(network: Backbone) -> Backbone:
    for module in network.modules():
        if isinstance(module, DepthwiseConv3d):
            module.__class__ = nn.Conv3d
    return network


class Job:
    """Sizes of the clips, and what was found on the way: FLOPs a clip, memory and share of the peak by row."""

    def __init__(self, frames: int, size: int, batch: int, gmac_per_step: float, smoke: bool) -> None:
        self.clip = (3, frames, size, size)
        self.fixed_batch = batch
        self.gmac_per_step = gmac_per_step
        self.smoke = smoke
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.flops: dict[str, int] = {}
        self.batch: dict[str, int] = {}
        self.memory_mib: dict[str, float] = {}

    def count(self, name: str) -> None:
        """FLOPs of a training step a clip, counted on the meta device where nothing is computed; and the batch."""
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            create_backbone(name).eval()(torch.zeros(1, *self.clip))
        # each gradient, of inputs and of weights, costs a forward pass; torch's own count of them ignores groups
        self.flops[name] = 3 * counter.get_total_flops()
        most = self.gmac_per_step * 6e9 / self.flops[name]
        self.batch[name] = self.fixed_batch or max(2, min(64 if self.device.type == "cuda" else 8, int(most)))

    def step(self, name: str, layout: str, compiled: bool, peer: bool) -> Callable[[int], int]:
        before = self._memory_now()
        torch.manual_seed(0)
        network = create_backbone(name).to(self.device).train()
        if peer:
            without_our_depthwise(network)
        network.to(memory_format=LAYOUTS[layout])
        x_BCTHW = torch.rand(self.batch[name], *self.clip, device=self.device).to(memory_format=LAYOUTS[layout])
        forward: Callable[[torch.Tensor], torch.Tensor] = partial(plain, network) if peer else network
        if compiled:
            forward = torch.compile(network)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
        on_gpu = self.device.type == "cuda"

        def call(number: int) -> int:
            with torch.autocast("cuda", torch.bfloat16, enabled=on_gpu):
                loss = forward(x_BCTHW).float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if on_gpu:
                torch.cuda.synchronize()
            return len(x_BCTHW)

        call(0)  # compiles, and allocates what stays
        self.memory_mib[row_name(name, layout, compiled, peer)] = round(self._peak(call, before), 1)
        return call

    def _memory_now(self) -> float:
        gc.collect()
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated() / 2**20
        ctypes.CDLL(None).malloc_trim(0)
        return _status("VmRSS")

    def _peak(self, call: Callable[[int], int], before: float) -> float:
        """MiB at the most during one step, beyond `before`."""
        self._memory_now()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
        call(0)
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device.type == "cuda" else _status("VmHWM")
        return peak - before

    def peak(self, which: str) -> Callable[[int], int]:
        """A call that does nothing but multiply and add."""
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        make = partial(torch.rand, device=self.device, dtype=dtype)
        side, channels, pixels = (512, 64, 14) if self.smoke else (4096, 512, 56)
        if which == PEAKS[0]:
            a, b = make(side, side), make(side, side)
            self.flops[which], work = 2 * side**3, partial(torch.mm, a, b)
        else:
            x_BCHW = make(4, channels, pixels, pixels).to(memory_format=torch.channels_last)
            kernel = make(channels, channels, 3, 3).to(memory_format=torch.channels_last)
            self.flops[which] = 2 * 4 * pixels**2 * 9 * channels**2
            work = partial(torch.nn.functional.conv2d, x_BCHW, kernel, padding=1)

        def call(number: int) -> int:
            with torch.no_grad():
                work()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return 1

        return call

    def complete(self, result: dict[str, Any]) -> None:
        """Adds what the step was, and to each row FLOPs, share of the peak and memory."""
        result |= {"clip": list(self.clip), "precision": "bf16" if self.device.type == "cuda" else "fp32"}
        result |= {"own_baselines": "each other network's own eager, contiguous row"}
        result |= {"threads": torch.get_num_threads(), "show": ["batch", "share_of_peak", "memory_mib"]}
        rows = result["rows"]
        wall = {row["name"]: row["wall_ms_per_clip"]["median"] for row in rows if not row["error"]}
        rates = [self.flops[which] / wall[which] for which in PEAKS if which in wall]
        peak = max(rates) if rates else None
        result["peak_gflops"] = round(peak / 1e6, 1) if peak else None
        for row in rows:
            name = row["name"].partition(",")[0]
            if name in self.batch and row["name"] in wall:
                rate = self.flops[name] / wall[row["name"]]
                row |= {"batch": self.batch[name], "gflop_per_clip": round(self.flops[name] / 1e9, 3)}
                row |= {"clips_per_second": round(1000 / wall[row["name"]], 3)}
                row |= {"share_of_peak": round(rate / peak, 4) if peak else None}
                row |= {"memory_mib": self.memory_mib[row["name"]]}


def _status(field: str) -> float:
    """A field of this process's status, MiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def row_name(name: str, layout: str, compiled: bool, peer: bool) -> str:
    return f"{name}, {'peer' if peer else 'compiled' if compiled else 'eager'}, {layout}"


def candidates(job: Job, names: list[str], compiled: bool) -> list[Candidate]:
    """The table: the peak, then each network's rows."""
    table = [Candidate(which, partial(job.peak, which), "ms a call", against="", group="peak") for which in PEAKS]
    for name in names:
        job.count(name)
        against = row_name(name, "contiguous", False, False)
        kinds = [(False, False), *([(True, False)] if compiled else []), *([(False, True)] if name in PEERS else [])]
        for is_compiled, peer in kinds:
            for layout in LAYOUTS:
                opened = partial(job.step, name, layout, is_compiled, peer)
                table.append(Candidate(row_name(name, layout, is_compiled, peer), opened, against=against, group=name))
    return table


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--backbones", nargs="+", metavar="NAME", help="default: the benchmark's seven")
    options.add_argument("--frames", type=int, default=16)
    options.add_argument("--size", type=int, default=112)
    options.add_argument("--batch", type=int, default=0, help="clips a step; 0: 2 to 8 (64 on a GPU), by the cost")
    options.add_argument("--no-compile", action="store_true")
    options.set_defaults(iterations=10)
    chosen: argparse.Namespace = options.parse_args()
    keep_freed_memory()
    torch._dynamo.config.recompile_limit = 64  # every network has the same `forward`; at 8 the ninth would run eager
    names = chosen.backbones or (["shufflenet"] if chosen.smoke else list(SEVEN))
    on_gpu = torch.cuda.is_available()
    job = Job(
        chosen.frames, 32 if chosen.smoke else chosen.size, chosen.batch, 4000.0 if on_gpu else 20.0, chosen.smoke
    )
    table = candidates(job, names, compiled=not (chosen.no_compile or chosen.smoke))
    first = row_name(names[0], "contiguous", False, False)
    return run(chosen, "step", table, "clip", first, job.complete)


if __name__ == "__main__":
    raise SystemExit(main())
