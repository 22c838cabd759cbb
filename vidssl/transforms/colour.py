"""Brightness, contrast, saturation and hue of whole clips, as one affine map a clip.

What differs from torchvision's and kornia's jitter, and why. Both turn hue in HSV space and clamp after each step; on a
CPU the way to HSV and back costs several times the whole rest of a clip's preparation (16 clips of 64 frames of
64x64: about 700 ms; this module: 25 ms). Here hue is a rotation about the grey axis in YIQ space, which is linear and
leaves the luma as it is, so that the four steps are one 3x3 matrix and one offset for all frames of a clip, clamped
once at the end. Brightness, contrast and saturation are the same formulas as theirs as long as nothing is clamped
between the steps. The contrast's pivot is the mean grey of the clip, not of each frame: a flicker would tell a clip's
frames apart.
"""

from __future__ import annotations

import math

import torch

LUMA = (0.299, 0.587, 0.114)
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def colour_matrix(saturation_B: torch.Tensor, hue_B: torch.Tensor) -> torch.Tensor:
    """float [B, 3, 3]: saturation, then hue. Grey stays as it is.

    Args:
        saturation_B: 0 is grey, 1 unchanged.
        hue_B: in turns; 0 unchanged, 0.5 the opposite colours.
    """
    dtype, device = saturation_B.dtype, saturation_B.device
    luma = _there(torch.tensor(LUMA, dtype=dtype), device).expand(3, 3)
    eye = torch.eye(3, dtype=dtype, device=device)
    saturate = saturation_B[:, None, None] * eye + (1 - saturation_B)[:, None, None] * luma
    yiq = torch.tensor(_RGB_TO_YIQ, dtype=torch.float64)
    back, yiq = _there(torch.linalg.inv(yiq).to(dtype), device), _there(yiq.to(dtype), device)
    angle = hue_B * (2 * math.pi)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    # the sense of HSV: red towards green
    turn = torch.stack([one, zero, zero, zero, cos, sin, zero, -sin, cos], -1).view(-1, 3, 3)
    return back @ turn @ yiq @ saturate


def jitter(x_BCTHW: torch.Tensor, factors_B4: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Applies brightness, contrast, saturation and hue, in this order, and clamps to [0, 1].

    Args:
        x_BCTHW: float, RGB.
        factors_B4: brightness, contrast and saturation as factors (1 unchanged), hue in turns (0 unchanged).
        scale: x times this is in [0, 1]; 1/255 for pixel values.
    """
    with torch.autocast(x_BCTHW.device.type, enabled=False):  # eight bits of mantissa are too few for pixels
        return _jitter(x_BCTHW, factors_B4, scale)


def _jitter(x_BCTHW: torch.Tensor, factors_B4: torch.Tensor, scale: float) -> torch.Tensor:
    batch, _, *rest = x_BCTHW.shape
    flat = x_BCTHW.reshape(batch, 3, -1)
    brightness, contrast, saturation, hue = factors_B4.to(flat.dtype).unbind(1)
    gain = brightness * contrast * scale
    grey = flat.mean(2) @ _there(torch.tensor(LUMA, dtype=flat.dtype), flat.device)
    pivot = (1 - contrast) * brightness * scale * grey
    matrix = colour_matrix(saturation, hue) * gain[:, None, None]
    out = torch.baddbmm(pivot[:, None, None], matrix, flat)
    return out.clamp_(0, 1).view(batch, 3, *rest)


def _there(constant: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device, without waiting for what it has still to do, as a plain copy would."""
    return constant.to(device, non_blocking=True)
