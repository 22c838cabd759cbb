"""The augmentation that the benchmark shares between its non-contrastive tasks (RotNet, VCOP, PRP).

The paper's supplement names the pieces (small random rotation, resize, random crop, colour jitter, horizontal flip)
and no magnitudes. Those here are inferred: 10 degrees from the two code bases that rotate whole clips by a small angle
(3D-RotNet, TDL), 112 of 128 for the crop, jitter (0.5, 0.5, 0.25, 0.5) from TDL's settings. Each is an option.

All is decided on the host from random numbers (`draw`) and only carried out on the device (`apply`); every clip has one
set of parameters for all its frames, so that input, target and attention of a task see the same transformation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch

from ..errors import ConfigError, unknown_name
from .colour import jitter
from .geometry import Crop, check_size, crop_flip, crop_side, offsets, resize, to_clip, warp

CROPS = ("random", "centre")


@dataclass(frozen=True)
class AugmentationArgs:
    """What is done to each clip.

    Args:
        rotation_degrees: the angle is drawn from plus or minus this; 0 turns rotation off.
        crop: "random" or "centre".
        flip: probability of mirroring left and right.
        jitter: how far brightness, contrast and saturation go from 1, and hue from 0 (in turns, 0.5 is all of the
            circle); all 0 turns it off.
    """

    rotation_degrees: float = 10.0
    crop: str = "random"
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.25, 0.5)

    def __post_init__(self) -> None:
        object.__setattr__(self, "jitter", tuple(self.jitter))
        if self.crop not in CROPS:
            raise unknown_name("crop", self.crop, CROPS)
        if not 0 <= self.rotation_degrees <= 180:
            raise ConfigError(f"rotation_degrees={self.rotation_degrees} is outside 0 to 180.")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip={self.flip} is no probability; legal: 0 to 1.")
        if len(self.jitter) != 4 or min(self.jitter) < 0 or max(self.jitter[:3]) > 1 or self.jitter[3] > 0.5:
            raise ConfigError(
                f"jitter={self.jitter} must be four numbers: brightness, contrast and saturation from 0 to 1, hue from "
                "0 to 0.5; (0, 0, 0, 0) turns it off."
            )


CENTRE_ONLY = AugmentationArgs(rotation_degrees=0.0, crop="centre", flip=0.0, jitter=(0.0, 0.0, 0.0, 0.0))


class SharedAugmentation:
    """Draws and applies the augmentation.

    Args:
        args: what is done.
        size: side of the picture that the network takes, pixels.
    """

    Args: ClassVar[type] = AugmentationArgs
    num_uniforms: ClassVar[int] = 8
    """The same for all options, so that turning one off leaves the numbers of the others as they are."""

    def __init__(self, args: AugmentationArgs | None = None, size: int = 112) -> None:
        check_size(size)
        self.args = args or AugmentationArgs()
        self.size = size

    def settings(self) -> dict[str, Any]:
        """What is done, without what else a task's settings hold."""
        return {field.name: getattr(self.args, field.name) for field in fields(AugmentationArgs)}

    def draw(self, uniforms_NU: np.ndarray) -> dict[str, np.ndarray]:
        """`degrees` float32 [N], `crop` float32 [N, 2] (where in the room there is, y and x), `flip` bool [N],
        `jitter` float32 [N, 4], from float64 [N, num_uniforms] in [0, 1)."""
        u, a = np.asarray(uniforms_NU), self.args
        swing = 2 * u[:, 4:8] - 1
        factors = np.array([1.0, 1.0, 1.0, 0.0]) + swing * np.array(a.jitter)
        # float64 just below 1 would round up to 1 and out of the crop's room
        crop = np.minimum(u[:, 1:3].astype(np.float32), np.float32(1 - 2**-24))
        return {
            "degrees": ((2 * u[:, 0] - 1) * a.rotation_degrees).astype(np.float32),
            "crop": crop,
            "flip": u[:, 3] < a.flip,
            "jitter": factors.astype(np.float32),
        }

    def apply(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> torch.Tensor:
        """uint8 frames and the drawn parameters on the same device -> float [B, 3, T, size, size] in [0, 1]."""
        height, width = frames_BTHWC.shape[2:4]
        side = crop_side(height, width)
        if self.args.crop == "random":
            top, left = offsets(params["crop"][:, 0], height - side), offsets(params["crop"][:, 1], width - side)
        else:
            top = torch.full_like(params["flip"], round((height - side) / 2), dtype=torch.int64)
            left = torch.full_like(params["flip"], round((width - side) / 2), dtype=torch.int64)
        crop = Crop(top, left, params["flip"], side)
        if self.args.rotation_degrees:
            x = warp(frames_BTHWC, crop, params["degrees"], self.size)
        else:
            x = resize(to_clip(crop_flip(frames_BTHWC, crop)), self.size)
        if any(self.args.jitter):
            return jitter(x, params["jitter"], scale=1 / 255)
        return x.div_(255)
