"""The contract of every backbone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from ..errors import ConfigError, unknown_name

INPUTS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "kinetics": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "efficient3d": ((114.7748 / 255, 107.7354 / 255, 99.4750 / 255), (1 / 255, 1 / 255, 1 / 255)),
}
"""name -> mean and standard deviation per channel, of clips in 0 to 1, that a network subtracts and divides by.

`unit` leaves clips as they are (VCOP, PRP); `imagenet` is RSPNet's, VideoMAE's and the VideoSwin's, `kinetics` that of
torchvision's 3D ResNets and S3D; `efficient3d` is 0 to 255 minus the ActivityNet mean (okankop/Efficient-3DCNNs).
"""


class Backbone(nn.Module):
    """A network from clips to a feature map; no head inside.

    `forward(x_BCTHW float, 0 to 1) -> float [B, D, T', H', W']`. A subclass sets the attributes and implements
    `feature_map`; its constructor's keywords are its options.

    Args:
        input: a name of `INPUTS`: how pixels are scaled before the first layer. Weights work with the scaling that
            they were trained with, so `load_weights` sets it.

    Attributes:
        feature_dim: D.
        stride: how much smaller the map is than the clip, as (T, H, W); a size that it does not divide is rounded up or
            down as the network pads.
        taps: ordered names of submodules whose outputs are worth looking at (feature analysis).
    """

    feature_dim: int
    stride: tuple[int, int, int]
    taps: tuple[str, ...]
    input_mean: torch.Tensor
    input_std: torch.Tensor

    origin: ClassVar[str] = ""
    """Whose definition it is: paper, and the code that it equals."""
    variants: ClassVar[tuple[dict[str, Any], ...]] = ()
    """Options with which people hold weights: further rows of `vidssl list backbones`."""
    smallest: ClassVar[tuple[int, int, int]] = (1, 1, 1)
    """The least (T, H, W) of a clip."""
    multiple: ClassVar[tuple[int, int, int]] = (1, 1, 1)
    """What (T, H, W) of a clip must be multiples of."""
    public_input: ClassVar[str] = "unit"
    """The `INPUTS` name that the published weights of this network were trained with."""

    def __init__(self, input: str = "unit") -> None:
        super().__init__()
        self.set_input(input)

    def set_input(self, name: str) -> None:
        """Chooses the scaling of pixels by name; see `INPUTS`."""
        if name not in INPUTS:
            raise unknown_name("input scaling", name, INPUTS)
        self.input = name
        for which, values in zip(("input_mean", "input_std"), INPUTS[name], strict=True):
            buffer = torch.tensor(values, device=self.input_mean.device if hasattr(self, "input_mean") else None)
            self.register_buffer(which, buffer.view(1, 3, 1, 1, 1), persistent=False)

    @classmethod
    def check_clip(cls, frames: int, height: int, width: int) -> None:
        """Raises ConfigError where the architecture cannot take a clip of this length and size."""
        seen = (frames, height, width)
        parts = zip(("frames", "pixels of height", "pixels of width"), seen, cls.smallest, cls.multiple, strict=True)
        for what, size, least, step in parts:
            if size >= least and size % step == 0:
                continue
            first = -(-least // step) * step
            legal = f"{first} or more" if step == 1 else f"multiples of {step} from {first} on"
            key = "data.frames" if what == "frames" else "data.size"
            raise ConfigError(f"{cls.__name__} takes no clip of {size} {what}; legal: {legal} (--set {key}=...).")

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        self.check_clip(*x_BCTHW.shape[2:])
        return self.feature_map(self.scaled(x_BCTHW))

    def scaled(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Clips in 0 to 1 as `feature_map` wants them."""
        return x_BCTHW if self.input == "unit" else (x_BCTHW - self.input_mean) / self.input_std

    def feature_map(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """The map of clips that are scaled as the network wants them."""
        raise NotImplementedError

    def pooled(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """The clip's feature, float [B, D]: the mean of the map."""
        return self.forward(x_BCTHW).mean(dim=(2, 3, 4))

    @classmethod
    def rename_public(cls, key: str) -> str:
        """The name here of a tensor that a public checkpoint holds under `key`, prefixes already stripped."""
        return key


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
