"""Decoders by name. Add one: a file beside this one, and a line in the table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ...registry import Registry

if TYPE_CHECKING:
    import torch

    from ..store import Store
    from .base import Decoder

DECODERS = Registry(
    "decoder",
    "vidssl.decoders",
    {
        "dali": "vidssl.data.decode.dali:DaliDecoder",
        "ffcv": "vidssl.data.decode.ffcv:FfcvDecoder",
        "jpeg": "vidssl.data.decode.jpeg:JpegDecoder",
        "pyav": "vidssl.data.decode.pyav:PyAVDecoder",
    },
)


def open_decoder(name: str, store: Store, device: str | torch.device = "cpu", threads: int | None = None) -> Decoder:
    """Opens a decoder over a store.

    Args:
        name: one of `DECODERS.names()`; which is fastest here is `vidssl.data.decode.auto`'s question.
        device: where the frames are wanted.
        threads: how many clips are decoded at a time; by default one a processor.
    """
    import torch

    return DECODERS.get(name)(store, torch.device(device), threads or os.cpu_count() or 1)
