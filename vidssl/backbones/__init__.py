"""Backbones by name. Add one: a file beside this one, and a line in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..registry import Registry

if TYPE_CHECKING:
    from .base import Backbone

BACKBONES = Registry(
    "backbone",
    "vidssl.backbones",
    {
        "shufflenet": "vidssl.backbones.shufflenet:ShuffleNet",
    },
)


def list_backbones() -> list[str]:
    return BACKBONES.names()


def create_backbone(name: str, **options: Any) -> Backbone:
    """Builds a backbone by name. Options are those of its class (`shufflenet`: width, groups)."""
    return BACKBONES.get(name)(**options)
