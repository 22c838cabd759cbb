"""Crop, resize, flip and rotation of whole clips: one parameter set a clip, applied to all its frames.

The picture is the store's (171x128 by default). The crop's side is 112/128 of its height, the ratio of the whole field
(112 of 128, 70 of 80), and is then resized to the side that the network takes. Without rotation and resize the result
is an exact slice of the pixels. With rotation everything is one sampling pass for all frames of a clip; where the crop
is much larger than the network's picture it is first made smaller with a filter that does not alias.

Random resized crops and blur treat rows and columns apart: two matrices a clip, which may be multiplied beforehand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import ConfigError

CROP_OF_HEIGHT = 112 / 128

_BILINEAR_UP_TO = 1.25
"""Shrinking by more than this, plain bilinear sampling would alias."""


@dataclass(frozen=True)
class Crop:
    """A square of each clip's picture: `top`, `left` int64 [B] and `side` in pixels; `flip` bool [B]: mirrored."""

    top: torch.Tensor
    left: torch.Tensor
    flip: torch.Tensor
    side: int


def crop_side(height: int, width: int | None = None) -> int:
    """The side in pixels of the square crop out of a picture of this height (112 of 128, 70 of 80)."""
    side = round(height * CROP_OF_HEIGHT)
    return side if width is None else min(side, width)


def centre_clip(frames_BTHWC: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 frames -> float [B, 3, T, size, size] in [0, 1]: the centre crop, resized if need be. For evaluations."""
    height, width = frames_BTHWC.shape[2:4]
    side = crop_side(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    x = to_clip(frames_BTHWC[:, :, top : top + side, left : left + side])
    return resize(x, size).div_(255)


def to_clip(frames_BTHWC: torch.Tensor) -> torch.Tensor:
    """uint8 frames -> float [B, 3, T, H, W], still 0 to 255."""
    return frames_BTHWC.permute(0, 4, 1, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)


def resize(x_BCTHW: torch.Tensor, size: int) -> torch.Tensor:
    """Each frame to size x size, bilinear, antialiased when it shrinks. The same size gives x itself."""
    if x_BCTHW.shape[-2:] == (size, size):
        return x_BCTHW
    flat = x_BCTHW.flatten(1, 2)
    flat = F.interpolate(flat, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return flat.unflatten(1, x_BCTHW.shape[1:3])


def offsets(u_B: torch.Tensor, room: int | torch.Tensor) -> torch.Tensor:
    """int64 [B] in [0, room], each as likely, from numbers in [0, 1). Each may have a room of its own, int64 [B]."""
    return (u_B * (room + 1)).long().clamp(max=room)


def crop_flip(frames_BTHWC: torch.Tensor, crop: Crop) -> torch.Tensor:
    """Each clip's own square of pixels: exact, uint8 [B, T, side, side, 3]."""
    if frames_BTHWC.device.type != "cpu" or torch.compiler.is_compiling():
        return _gather_crop(frames_BTHWC, crop)
    side = crop.side
    corners = zip(frames_BTHWC, crop.top.tolist(), crop.left.tolist(), strict=True)
    clips = [clip_THWC[:, y : y + side, x : x + side] for clip_THWC, y, x in corners]
    return torch.stack([clip.flip(2) if flip else clip for clip, flip in zip(clips, crop.flip.tolist(), strict=True)])


def _gather_crop(frames_BTHWC: torch.Tensor, crop: Crop) -> torch.Tensor:
    # The same without asking for the offsets: the host would wait for the device, and a graph cannot hang on them.
    batch = torch.arange(len(frames_BTHWC), device=frames_BTHWC.device)[:, None, None]
    run = torch.arange(crop.side, device=frames_BTHWC.device)
    rows = (crop.top[:, None] + run)[:, :, None]
    columns = (crop.left[:, None] + torch.where(crop.flip[:, None], crop.side - 1 - run, run))[:, None, :]
    return frames_BTHWC.permute(0, 2, 3, 1, 4)[batch, rows, columns].permute(0, 3, 1, 2, 4)


def warp(frames_BTHWC: torch.Tensor, crop: Crop, degrees_B: torch.Tensor, size: int) -> torch.Tensor:
    """Rotates the picture about its centre, crops, mirrors and resizes, in one bilinear sampling pass.

    Args:
        frames_BTHWC: uint8.
        crop: of the rotated picture.
        degrees_B: counter-clockwise. What the picture does not cover is black.
        size: side of the result in pixels.

    Returns float [B, 3, T, size, size], 0 to 255.
    """
    height, width = frames_BTHWC.shape[2:4]
    x = to_clip(frames_BTHWC)
    if crop.side / size > _BILINEAR_UP_TO:
        smaller = (round(height * size / crop.side), round(width * size / crop.side))
        flat = F.interpolate(x.flatten(1, 2), smaller, mode="bilinear", align_corners=False, antialias=True)
        x = flat.unflatten(1, x.shape[1:3])
    theta = _sampling_matrix(crop, degrees_B, height, width)
    with torch.autocast(x.device.type, enabled=False):  # eight bits of mantissa would displace pixels
        grid = F.affine_grid(theta, [len(x), 1, size, size], align_corners=False)
    # channels and frames share the grid, so it is computed, and its neighbours found, once a clip
    out = F.grid_sample(x.flatten(1, 2), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return out.unflatten(1, x.shape[1:3])


def _sampling_matrix(crop: Crop, degrees_B: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """float32 [B, 2, 3]: from output coordinates in [-1, 1] to picture coordinates in [-1, 1] (torch's convention)."""
    radians = torch.deg2rad(degrees_B.float())
    cos, sin = radians.cos(), radians.sin()
    mirror = 1 - 2 * crop.flip.float()
    half = crop.side / 2
    # the crop's centre, from the picture's centre, in pixels
    x0 = crop.left.float() + (half - width / 2)
    y0 = crop.top.float() + (half - height / 2)
    rows = [
        torch.stack([half * mirror * cos, -half * sin, x0 * cos - y0 * sin], -1) * (2 / width),
        torch.stack([half * mirror * sin, half * cos, x0 * sin + y0 * cos], -1) * (2 / height),
    ]
    return torch.stack(rows, 1)


def quarter_turns(x_BCTHW: torch.Tensor, turns_B: torch.Tensor) -> torch.Tensor:
    """Turns each clip counter-clockwise by its own number of right angles: exact, pixels only change places.

    Args:
        x_BCTHW: square pictures.
        turns_B: int64, 0 to 3.
    """
    # two choices for the whole batch, because asking the device for each clip's number would make the host wait
    turns = turns_B[:, None, None, None, None]
    x = torch.where(turns >= 2, x_BCTHW.rot90(2, (3, 4)), x_BCTHW)
    return torch.where(turns % 2 == 1, x.rot90(1, (3, 4)), x)


def resized_crop(
    area_BK: torch.Tensor,
    aspect_BK: torch.Tensor,
    place_B2: torch.Tensor,
    picture: tuple[int, int],
    aspect_range: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random resized crop as torchvision's `RandomResizedCrop` draws it: `top`, `left`, `height`, `width`, int64 [B].

    Of K tries, each an area and a shape, the first that fits into the picture is taken and lies anywhere in it, each
    place as likely. If none fits, it is the largest crop in the middle whose shape is in the range. With torchvision's
    ten tries the law is exactly its law.

    Args:
        area_BK: shares of the picture's area. aspect_BK: width / height.
        place_B2: in [0, 1), where in the room, y and x.
        picture: height and width, pixels.
        aspect_range: of the shapes, for the crop where none fits.
    """
    tall, wide = picture
    pixels_BK = area_BK * (tall * wide)
    height_BK, width_BK = (pixels_BK / aspect_BK).sqrt().round().long(), (pixels_BK * aspect_BK).sqrt().round().long()
    fits_BK = (height_BK >= 1) & (height_BK <= tall) & (width_BK >= 1) & (width_BK <= wide)
    last_height = min(tall, round(wide / aspect_range[0]))
    last_width = min(wide, round(tall * aspect_range[1]))
    fits_BK = F.pad(fits_BK, (0, 1), value=True)
    taken_B1 = fits_BK.int().argmax(1, keepdim=True)  # the first of them
    height = F.pad(height_BK, (0, 1), value=last_height).gather(1, taken_B1)[:, 0]
    width = F.pad(width_BK, (0, 1), value=last_width).gather(1, taken_B1)[:, 0]
    middle = taken_B1[:, 0] == area_BK.shape[1]
    top = torch.where(middle, (tall - height) // 2, offsets(place_B2[:, 0], tall - height))
    left = torch.where(middle, (wide - width) // 2, offsets(place_B2[:, 1], wide - width))
    return top, left, height, width


def resize_matrix(start_B: torch.Tensor, length_B: torch.Tensor, pixels: int, size: int) -> torch.Tensor:
    """float32 [B, size, pixels]: how much of each pixel along an axis goes into each pixel of the resized crop.

    The filter of an antialiased bilinear resize: a triangle, widened where the picture shrinks.

    Args:
        start_B, length_B: the crop along this axis, in pixels.
        pixels: of the picture along this axis. size: of the result.
    """
    start, length = start_B[:, None, None].float(), length_B[:, None, None].float()
    step = length / size
    centre = start + step * (torch.arange(size, device=start.device)[:, None] + 0.5)
    pixel = torch.arange(pixels, device=start.device) + 0.5
    weight = (1 - (pixel - centre).abs() / step.clamp_min(1)).clamp_min(0)
    weight = weight * ((pixel > start) & (pixel < start + length))  # what lies outside the crop is not seen
    return weight / weight.sum(-1, keepdim=True)


def blur_matrix(sigma_B: torch.Tensor, size: int, largest_sigma: float) -> torch.Tensor:
    """float32 [B, size, size]: a Gaussian along one axis, mirrored at the edges (the edge itself is not repeated).

    Args:
        sigma_B: deviation in pixels; 0 leaves a clip as it is.
        largest_sigma: the weights reach three of these to either side, for every clip, and sum to one. (SimCLR and
            CVRL cut at a twentieth of the picture, which at 112 pixels is 2.5 of the largest.)
    """
    reach = min(math.ceil(3 * largest_sigma), size - 1)
    pixel = torch.arange(size, device=sigma_B.device)
    straight = pixel - pixel[:, None]
    left, right = pixel + pixel[:, None], 2 * (size - 1) - pixel - pixel[:, None]
    # the first and the last pixel are their own mirror images
    left, right = left.masked_fill(pixel == 0, size), right.masked_fill(pixel == size - 1, size)
    distance = torch.stack([straight, left, right])
    # of deviation 0 a millionth is left, which makes every weight but the middle one 0
    scale = -0.5 / sigma_B.float().clamp_min(1e-6).square()
    weight = (distance.square() * scale[:, None, None, None]).exp() * (distance.abs() <= reach)
    weight = weight.sum(1)
    return weight / weight.sum(-1, keepdim=True)


def apply_separable(x_BCTHW: torch.Tensor, rows_BSH: torch.Tensor, columns_BSW: torch.Tensor) -> torch.Tensor:
    """Each clip's rows and columns times its own two matrices: float32 [B, C, T, S, S]."""
    with torch.autocast(x_BCTHW.device.type, enabled=False):  # eight bits of mantissa are too few for pixels
        narrow = (x_BCTHW.flatten(1, 3) @ columns_BSW.transpose(1, 2)).unflatten(1, (-1, x_BCTHW.shape[3]))
        return (rows_BSH[:, None] @ narrow).unflatten(1, (x_BCTHW.shape[1], -1))


def check_size(size: int) -> None:
    if not 1 <= size <= 1024:
        raise ConfigError(f"clip size {size} is outside 1 to 1024 pixels; usual: 64, 112, 224.")
