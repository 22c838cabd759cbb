"""Weights and clips by formula, so that a golden output needs no random generator and no file.

A golden output was made once, with the reference's own code given the same weights, and is kept as a `digest`: whoever
changes a network sees at once whether it still is the network of the paper.
"""

from __future__ import annotations

import math

import torch
from torch import nn


def _formula(tensor: torch.Tensor, name: str, number: int) -> None:
    wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 0.37 + number).reshape(tensor.shape)
    fan = math.prod(tensor.shape[1:]) or 1
    scale, shift = (2 / math.sqrt(fan), 0.0) if tensor.dim() > 1 else (0.3, 0.3 if "bias" in name else 1.0)
    tensor.copy_(wave * scale + shift)


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Fills every weight and statistic in the order of the state dict."""
    for number, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.is_floating_point():
            _formula(tensor, name, number)


@torch.no_grad()
def fill_as_executed(module: nn.Module, clip_BCTHW: torch.Tensor) -> None:
    """Fills every weight and statistic in the order in which the modules that hold them are first called.

    Two networks that compute the same get the same weights, whatever their tensors are called and in whichever order
    they were declared. Tensors of one module go by their order in its own state dict.
    """
    called: list[nn.Module] = []

    def note(submodule: nn.Module, _: object) -> None:
        if submodule not in called:
            called.append(submodule)

    hooks = [submodule.register_forward_pre_hook(note) for submodule in module.modules()]
    module(clip_BCTHW)
    for hook in hooks:
        hook.remove()
    number = 0
    for submodule in called:
        own = [*submodule.named_parameters(recurse=False), *submodule.named_buffers(recurse=False)]
        persistent = [(name, t) for name, t in own if name not in submodule._non_persistent_buffers_set]
        for name, tensor in persistent:
            if tensor.is_floating_point():
                _formula(tensor, name, number)
            number += 1


def formula_clip(*shape: int) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.11).reshape(shape) * 0.5 + 0.5


def digest(feature_D: torch.Tensor) -> list[float]:
    """Mean, standard deviation and six entries spread over a feature vector (float64)."""
    step = max(1, len(feature_D) // 6)
    return [feature_D.mean().item(), feature_D.std().item(), *feature_D[: 6 * step : step].tolist()]
