"""The way of the data: prep -> store -> subset -> plan -> decoder -> frames."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "open_store": ".store",
    "Store": ".store",
    "ClipRequest": ".decode.base",
    "open_decoder": ".decode",
    "nested_subsets": ".subset",
    "Plan": ".plan",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["ClipRequest", "Plan", "Store", "nested_subsets", "open_decoder", "open_store"]
