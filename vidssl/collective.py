"""The rows of all processes of a run, with gradients. On one process these are its own.

Tasks that compare the samples of a step with each other use this, and batch norm over a whole step does; nothing else
in a task knows how many processes there are. A process takes its own rows' share of the loss (the mean over them,
which the engine weighs), so the gradient of a gathered row is the sum over all processes' losses, sent back to where
the row came from.

torch's own (`torch.distributed.nn`) asks for equal shapes on all processes and is deprecated in torch 2.15.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The rows of all processes in the order of their ranks, and where this process's rows begin.

    Args:
        x: [N, ...]; N may differ between processes, the rest may not. Differentiable where it is floating point.
    """
    return (x, 0) if world_size() == 1 else _gather_rows(x)


@torch.compiler.disable  # how many rows there are is only known at run time
def _gather_rows(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    counts = torch.zeros(world_size(), dtype=torch.int64, device=x.device)
    counts[rank()] = len(x)
    dist.all_reduce(counts)
    sizes = counts.tolist()
    return _Gather.apply(x, sizes), sum(sizes[: rank()])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        ctx.sizes = sizes
        # collectives take equal shapes
        padded = x.new_zeros((max(sizes), *x.shape[1:]))
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        first = sum(ctx.sizes[: rank()])
        return gradient[first : first + ctx.sizes[rank()]], None
