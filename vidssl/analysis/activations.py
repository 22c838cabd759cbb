"""The outputs of a network's modules during a forward pass, reduced to what is wanted as soon as each module returns.

What is kept is the reduction, so memory does not grow with the size of the maps, and a module that writes into its
input afterwards (an in-place ReLU, `+=` on a shortcut) cannot change what was seen of the module before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, unknown_name

MODULES = ("blocks", "leaves", "all")
ROOT = "(network)"
"""The name of the network itself among its modules, where torch has an empty text."""


def choose_modules(network: nn.Module, modules: str | Sequence[str]) -> dict[str, nn.Module]:
    """Modules by name, in the order of their definition.

    Args:
        modules: "blocks" (the backbone's `taps`), "leaves" (modules that hold no others), "all" (containers and the
            network itself too, as AntixK/PyTorch-Model-Compare takes them), or names of modules.

    Raises ConfigError where a name is unknown, or the network has no taps.
    """
    table = {name or ROOT: module for name, module in network.named_modules()}
    if modules == "all":
        return table
    if modules == "leaves":
        return {name: module for name, module in table.items() if not list(module.children())}
    if modules == "blocks":
        modules = getattr(network, "taps", ())
        if not modules:
            raise ConfigError(
                f"{type(network).__name__} names no blocks (it has no `taps`). Legal here: 'leaves', 'all', or a list "
                "of module names; of a task, its `backbone` has blocks."
            )
    if isinstance(modules, str):
        raise unknown_name("choice of modules:", modules, MODULES)
    if not modules:
        raise ConfigError(f"an empty list of modules; name at least one of {type(network).__name__}, or {MODULES}.")
    for name in modules:
        if name not in table:
            raise unknown_name(f"module of {type(network).__name__}:", name, table)
    return {name: module for name, module in table.items() if name in modules}


class Activations:
    """Hooks on modules of a network. A forward pass fills `values`; leaving the `with` removes the hooks.

        with Activations(network, choose_modules(network, "blocks"), reduce) as seen:
            network(x_BCTHW)
        seen.names, seen.values

    Args:
        modules: of `choose_modules`.
        reduce: what is kept of an output, called with it while it is as the module returned it. It must not keep the
            output itself, which may be overwritten; `torch.clone` keeps all of it.

    Attributes:
        values: name -> what `reduce` returned, in the order in which the modules returned: a container stands behind
            its last child. A module that is called more than once is "NAME", "NAME#2", ... .
        left_out: name -> why a module that returned has no value.
    """

    def __init__(
        self, network: nn.Module, modules: dict[str, nn.Module], reduce: Callable[[torch.Tensor], Any]
    ) -> None:
        self._network, self._modules, self._reduce = network, modules, reduce
        self._clips = 0
        self._calls: Counter[str] = Counter()
        self._handles: list[Any] = []
        self.values: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}

    def __enter__(self) -> Activations:
        self._handles.append(self._network.register_forward_pre_hook(self._begin))
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(partial(self._returned, name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def names(self) -> list[str]:
        return list(self.values)

    def all_left_out(self) -> dict[str, str]:
        """`left_out` after a pass, and with it the modules that took no part: lists of modules, heads without use."""
        idle = {name: "the forward pass does not call it" for name in self._modules if not self._calls[name]}
        return {**idle, **self.left_out}

    def _begin(self, network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._clips = len(inputs[0])
        self._calls.clear()
        self.values.clear()
        self.left_out.clear()

    def _returned(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._calls[name] += 1
        key = name if self._calls[name] == 1 else f"{name}#{self._calls[name]}"
        if not isinstance(output, torch.Tensor):
            self.left_out[key] = f"its output is a {type(output).__name__}, not a tensor"
        elif not output.is_floating_point():
            self.left_out[key] = f"its output is {output.dtype}, not floating point"
        elif output.ndim == 0 or len(output) != self._clips:
            self.left_out[key] = f"its output has shape {list(output.shape)}, which is not one entry a clip"
        else:
            self.values[key] = self._reduce(output)


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for network in networks for module in network.modules()}
    try:
        for network in networks:
            network.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
