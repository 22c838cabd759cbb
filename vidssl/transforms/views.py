"""One augmented view of a clip: what the contrastive tasks (CVRL, TDL, RSPNet) show their networks.

The pieces are those of Qian et al., "Spatiotemporal Contrastive Video Representation Learning", CVPR 2021
(tensorflow/models:official/projects/video_ssl) and of TCLR's loader (DAVEISHAN/TCLR:tclr_pretraining/dl_tclr.py), which
the benchmark's variant follows. All is decided on the host from random numbers (`draw`) and only carried out on the
device (`apply`); one set of parameters for all frames of a clip.

Random resized crop, flip and blur are linear and treat rows and columns apart, so together they are one matrix for the
rows and one for the columns of each clip. Brightness, contrast, saturation, hue and grey are one affine map of the
colours (see `colour.py`). The blur's weights sum to one, so that it commutes with that map up to the clamp, and comes
first, where the originals blur last. Then, point by point: gamma, solarise, a channel dropped, a rectangle erased.
What has probability 0 costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch

from ..data.plan import choose
from ..errors import ConfigError, unknown_name
from .colour import jitter
from .geometry import (
    Crop,
    apply_separable,
    blur_matrix,
    check_size,
    crop_flip,
    crop_side,
    offsets,
    resize,
    resize_matrix,
    resized_crop,
    to_clip,
    warp,
)
from .pointwise import power, seen, solarise

GEOMETRIES = ("shared", "resized")
TRIES = 10
"""So often a random resized crop is drawn until one fits into the picture (torchvision's number)."""


@dataclass(frozen=True)
class ViewArgs:
    """What is done to one view.

    Args:
        geometry: "shared": small rotation, random crop of 112 of 128, resize (the benchmark's shared augmentation);
            "resized": random resized crop.
        rotation_degrees: the angle is drawn from plus or minus this; "shared" only.
        area: range of the crop's share of the picture's area; aspect: of its width / height, whose logarithm is
            uniform; "resized" only.
        flip: probability of mirroring left and right.
        jitter: how far brightness, contrast and saturation go from 1, and hue from 0 (in turns).
        jitter_probability: of the four together.
        grey: probability.
        blur: probability; blur_sigma: range of the Gaussian's deviation, in pixels of the network's picture.
        gamma: range of the exponent; gamma_probability: that there is one.
        solarise: probability that everything from 0.5 on is inverted.
        channel_drop: probability that one of the three channels is black.
        erase: probability of a black rectangle; erase_side: range of its height and of its width, each drawn, as a
            share of the picture's side.

    Raises ConfigError for values that are outside their range.
    """

    geometry: str = "shared"
    rotation_degrees: float = 10.0
    area: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.25, 0.5)
    jitter_probability: float = 1.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    gamma: tuple[float, float] = (0.75, 1.25)
    gamma_probability: float = 0.0
    solarise: float = 0.0
    channel_drop: float = 0.0
    erase: float = 0.0
    erase_side: tuple[float, float] = (0.08, 0.16)

    def __post_init__(self) -> None:
        if self.geometry not in GEOMETRIES:
            raise unknown_name("geometry of a view", self.geometry, GEOMETRIES)
        if not 0 <= self.rotation_degrees <= 180:
            raise ConfigError(f"view: rotation_degrees={self.rotation_degrees} is outside 0 to 180.")
        for name in ("flip", "jitter_probability", "grey", "blur", "gamma_probability", "solarise", "channel_drop"):
            _check_probability(name, getattr(self, name))
        _check_probability("erase", self.erase)
        for name, most in (("area", 1.0), ("aspect", 10.0), ("blur_sigma", 50.0), ("gamma", 10.0), ("erase_side", 1.0)):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            _check_range(name, getattr(self, name), most)
        object.__setattr__(self, "jitter", tuple(self.jitter))
        if len(self.jitter) != 4 or min(self.jitter) < 0 or max(self.jitter[:3]) > 1 or self.jitter[3] > 0.5:
            raise ConfigError(
                f"view: jitter={self.jitter} must be four numbers: brightness, contrast and saturation from 0 to 1, "
                "hue from 0 to 0.5; (0, 0, 0, 0) turns it off."
            )


class ViewAugmentation:
    """Draws and applies one view.

    Args:
        args: what is done.
        size: side of the picture that the network takes, pixels.
    """

    num_uniforms: ClassVar[int] = 22 + 2 * TRIES
    """The same for all options, so that turning one off leaves the numbers of the others as they are. The first eight
    are those of `SharedAugmentation`."""

    def __init__(self, args: ViewArgs, size: int) -> None:
        check_size(size)
        self.args = args
        self.size = size
        self.coloured = args.grey > 0 or (args.jitter_probability > 0 and any(args.jitter))

    def settings(self) -> dict[str, Any]:
        """What is done, without what has no effect and what else a task's settings hold."""
        names = [field.name for field in fields(ViewArgs) if field.name not in without_effect(self.args)]
        return {name: getattr(self.args, name) for name in names}

    def draw(self, uniforms_NU: np.ndarray) -> dict[str, np.ndarray]:
        """The parameters of N clips from float64 [N, num_uniforms] in [0, 1).

        degrees float32 [N]; crop float32 [N, 2], where in the room there is, y and x; flip bool [N]; area and aspect
        float32 [N, TRIES], of which the first that fits is taken; jitter float32 [N, 4], a clip in grey has saturation
        0; sigma float32 [N], 0 without blur; gamma float32 [N]; solarise bool [N]; dropped int64 [N], -1 for none;
        erase float32 [N, 4], height, width, and where in the room, y and x; 0 high and wide for none.
        """
        u, a = np.asarray(uniforms_NU), self.args
        factors = np.array([1.0, 1.0, 1.0, 0.0]) + np.where(
            u[:, 8:9] < a.jitter_probability, (2 * u[:, 4:8] - 1) * np.array(a.jitter), 0.0
        )
        # saturation and hue leave the luma as it is: grey after them is grey instead of them
        factors[:, 2:] = np.where(u[:, 9:10] < a.grey, 0.0, factors[:, 2:])
        sides = np.where(u[:, 17:18] < a.erase, _between(u[:, 18:20], a.erase_side), 0.0)
        low, high = np.log(a.aspect)
        return {
            "degrees": ((2 * u[:, 0] - 1) * a.rotation_degrees).astype(np.float32),
            "crop": _below_one(u[:, 1:3]),
            "flip": u[:, 3] < a.flip,
            "area": _between(u[:, 22 : 22 + TRIES], a.area).astype(np.float32),
            "aspect": np.exp(_between(u[:, 22 + TRIES :], (low, high))).astype(np.float32),
            "jitter": factors.astype(np.float32),
            "sigma": np.where(u[:, 10] < a.blur, _between(u[:, 11], a.blur_sigma), 0.0).astype(np.float32),
            "gamma": np.where(u[:, 12] < a.gamma_probability, _between(u[:, 13], a.gamma), 1.0).astype(np.float32),
            "solarise": u[:, 14] < a.solarise,
            "dropped": np.where(u[:, 15] < a.channel_drop, choose(u[:, 16], 3), -1),
            "erase": np.concatenate([sides.astype(np.float32), _below_one(u[:, 20:22])], 1),
        }

    def apply(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> torch.Tensor:
        """uint8 frames and the drawn parameters on the same device -> float [B, 3, T, size, size] in [0, 1]."""
        with torch.autocast(frames_BTHWC.device.type, enabled=False):  # eight bits of mantissa are too few for pixels
            geometry = self._resized if self.args.geometry == "resized" else self._shared
            return self._pointwise(geometry(frames_BTHWC, params), params)

    def _shared(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> torch.Tensor:
        height, width = frames_BTHWC.shape[2:4]
        side = crop_side(height, width)
        top, left = offsets(params["crop"][:, 0], height - side), offsets(params["crop"][:, 1], width - side)
        crop = Crop(top, left, params["flip"], side)
        if self.args.rotation_degrees:
            x = warp(frames_BTHWC, crop, params["degrees"], self.size)
        else:
            x = resize(to_clip(crop_flip(frames_BTHWC, crop)), self.size)
        if not self.args.blur:
            return x
        blur_BSS = blur_matrix(params["sigma"], self.size, self.args.blur_sigma[1])
        return apply_separable(x, blur_BSS, blur_BSS)

    def _resized(self, frames_BTHWC: torch.Tensor, params: dict[str, torch.Tensor]) -> torch.Tensor:
        height, width = frames_BTHWC.shape[2:4]
        top_B, left_B, tall_B, wide_B = resized_crop(
            params["area"], params["aspect"], params["crop"], (height, width), self.args.aspect
        )
        rows_BSH = resize_matrix(top_B, tall_B, height, self.size)
        columns_BSW = resize_matrix(left_B, wide_B, width, self.size)
        columns_BSW = torch.where(params["flip"][:, None, None], columns_BSW.flip(1), columns_BSW)
        if self.args.blur:
            blur_BSS = blur_matrix(params["sigma"], self.size, self.args.blur_sigma[1])
            rows_BSH, columns_BSW = blur_BSS @ rows_BSH, blur_BSS @ columns_BSW
        return apply_separable(to_clip(frames_BTHWC), rows_BSH, columns_BSW)

    def _pointwise(self, x_BCTHW: torch.Tensor, params: dict[str, torch.Tensor]) -> torch.Tensor:
        """From 0 to 255 to [0, 1], with everything that treats each pixel alone."""
        x = jitter(x_BCTHW, params["jitter"], 1 / 255) if self.coloured else x_BCTHW.div_(255).clamp_(max=1)
        if self.args.gamma_probability:
            x = power(x, params["gamma"])
        if self.args.solarise:
            x = solarise(x, params["solarise"])
        if self.args.channel_drop or self.args.erase:
            x = x.mul_(seen(params["dropped"], params["erase"], self.size))
        return x


def without_effect(args: ViewArgs) -> set[str]:
    """Names of settings that change nothing, because of what others are set to."""
    idle = {"area", "aspect"} if args.geometry == "shared" else {"rotation_degrees"}
    for probability, settings in (
        (args.jitter_probability, {"jitter"}),
        (args.blur, {"blur_sigma"}),
        (args.gamma_probability, {"gamma"}),
        (args.erase, {"erase_side"}),
    ):
        if not probability:
            idle |= settings
    return idle


def _between(u: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    return span[0] + u * (span[1] - span[0])


def _below_one(u: np.ndarray) -> np.ndarray:
    """float32; a float64 just below 1 would round up to 1."""
    return np.minimum(u.astype(np.float32), np.float32(1 - 2**-24))


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"view: {name}={value} is no probability; legal: 0 (off) to 1.")


def _check_range(name: str, span: tuple[float, ...], most: float) -> None:
    if len(span) != 2 or not 0 < span[0] <= span[1] <= most:
        raise ConfigError(f"view: {name}={span} must be two numbers, 0 < low <= high <= {most:g}.")
