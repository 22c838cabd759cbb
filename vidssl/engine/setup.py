"""Turns "auto" into what this machine does best, once, before step 0. The result stands in the run's spec."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs

from ..backbones.base import Backbone
from ..errors import ConfigError
from ..spec import EngineSpec
from ..tasks.base import ClipSpec

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's <malloc.h>


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of giving each large tensor's pages back to the kernel.

    Without it every activation of a training step is mapped, cleared and unmapped again: a fifth of a step's time on
    two cores (benchmarks/results/NOTES.md). The process keeps its peak, which it would reach in the next step anyway.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        pass  # another C library: slower, not wrong


def resolve_engine(engine: EngineSpec, on_gpu: bool) -> EngineSpec:
    """Precision and compilation: bf16 and compiled on a GPU, fp32 and eager on a CPU. The layout is timed later.

    Raises ConfigError on bf16 without a GPU: oneDNN leaves weight gradients of 3D convolutions over two frames
    undefined on processors with AVX512-BF16 (benchmarks/results/NOTES.md; pytorch/pytorch#169688 is of the same kind).
    """
    if engine.precision == "bf16" and not on_gpu:
        raise ConfigError(
            "engine.precision = bf16 needs a GPU: on a CPU torch computes some gradients of 3D convolutions wrongly in "
            "it. Legal here: fp32, auto."
        )
    return replace(
        engine,
        precision=("bf16" if on_gpu else "fp32") if engine.precision == "auto" else engine.precision,
        compile=("on" if on_gpu else "off") if engine.compile == "auto" else engine.compile,
    )


def build_accelerator(engine: EngineSpec) -> Accelerator:
    # first, because without it Accelerate takes processes that torchrun started on a CPU for one each
    PartialState(cpu=not torch.cuda.is_available())
    # with synced batch norm every buffer (statistics, queues) is the same on all ranks already
    buffers = DistributedDataParallelKwargs(broadcast_buffers=engine.batch_norm == "local")
    return Accelerator(
        kwargs_handlers=[buffers],
        mixed_precision="bf16" if engine.precision == "bf16" else "no",
        dynamo_backend="inductor" if engine.compile == "on" else "no",
    )


def faster_layout(
    make: Callable[[], Backbone], clip: ClipSpec, batch: int, device: torch.device
) -> tuple[str, dict[str, float]]:
    """Times a training pass of a fresh backbone in both memory layouts.

    Args:
        make: callable without arguments that builds the backbone.

    Returns:
        The faster of "contiguous" and "channels_last", and the seconds of one pass of each (the faster of two).
    """
    seconds = {}
    with torch.random.fork_rng():
        for layout in ("contiguous", "channels_last"):
            network = make().to(device)
            x_BCTHW = torch.rand(batch, 3, clip.frames, clip.size, clip.size, device=device)
            if layout == "channels_last":
                network = network.to(memory_format=torch.channels_last_3d)
                x_BCTHW = x_BCTHW.to(memory_format=torch.channels_last_3d)
            seconds[layout] = min(_timed_pass(network, x_BCTHW) for _ in range(3))
    return min(seconds, key=seconds.__getitem__), seconds


def _timed_pass(network: Backbone, x_BCTHW: torch.Tensor) -> float:
    on_gpu = x_BCTHW.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    with torch.autocast("cuda", torch.bfloat16, enabled=on_gpu):
        network(x_BCTHW).float().mean().backward()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - begin
