"""Backbones by name. Add one: a file beside this one, and a line in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..options import Named, complete_options, signature_options
from ..registry import Registry

if TYPE_CHECKING:
    from .base import Backbone

BACKBONES = Registry(
    "backbone",
    "vidssl.backbones",
    {
        # the benchmark's seven
        "shufflenet": "vidssl.backbones.shufflenet:ShuffleNet",
        "squeezenet": "vidssl.backbones.squeezenet:SqueezeNet",
        "mobilenet": "vidssl.backbones.mobilenet:MobileNetV2",
        "c3d": "vidssl.backbones.c3d:C3D",
        "r3d": "vidssl.backbones.r3d:R3D",
        "r21d": "vidssl.backbones.r21d:R2Plus1D",
        "videoswin": "vidssl.backbones.videoswin:VideoSwin",
        # those that people hold weights of
        "vit": "vidssl.backbones.vit:ViT",
        "mobilenet_v1": "vidssl.backbones.mobilenet_v1:MobileNetV1",
        "r3d_18": "vidssl.backbones.resnet18:R3D18",
        "mc3_18": "vidssl.backbones.resnet18:MC318",
        "r2plus1d_18": "vidssl.backbones.resnet18:R2Plus1D18",
        "r3d_18_hara": "vidssl.backbones.r3d_18_hara:R3D18Hara",
        "s3d": "vidssl.backbones.s3d:S3D",
    },
)


def list_backbones() -> list[str]:
    return BACKBONES.names()


def create_backbone(name: str, **options: Any) -> Backbone:
    """Builds a backbone by name. Options are the keywords of its class (`shufflenet`: width, groups, input).

    Raises ConfigError on a name or an option that is not there, with the nearest that is.
    """
    cls = BACKBONES.get(name)
    options = complete_options(Named(name, options), signature_options(cls), "backbone").options
    return cls(**options)
