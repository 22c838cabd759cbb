"""vidssl: compare, reproduce and push self-supervised learning on video."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "create_backbone": ".backbones",
    "list_backbones": ".backbones",
    "load_weights": ".backbones.weights",
    "create_task": ".tasks",
    "list_tasks": ".tasks",
    "VidsslError": ".errors",
}

# Nothing of torch is imported here: `vidssl --help` answers in a fraction of a second.


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "VidsslError",
    "__version__",
    "create_backbone",
    "create_task",
    "list_backbones",
    "list_tasks",
    "load_weights",
]
