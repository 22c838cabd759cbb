"""`vidssl doctor`: what is installed, what is missing, and what still works."""

from __future__ import annotations

import importlib
import shutil
from importlib import metadata
from typing import Any

from .home import home

_PARTS = {  # import name -> (distribution, what it is for, what happens without it)
    "torch": ("torch", "networks", "nothing runs"),
    "torchvision": ("torchvision", "networks of the public zoo", "its backbones are missing"),
    "accelerate": ("accelerate", "training", "nothing trains"),
    "av": ("av", "prep and the reference decoder", "nothing can be prepared"),
    "simplejpeg": ("simplejpeg", "decoder 'jpeg'", "mjpeg stores are read by 'pyav', slower"),
    "nvidia.dali": ("nvidia-dali-cuda130", "decoder 'dali', on the GPU", "'pyav' and 'jpeg' decode on the processor"),
    "ffcv": ("ffcv", "format and decoder 'ffcv' (extra: vidssl[ffcv])", "'mjpeg' and 'jpeg' give the same frames"),
    "numba": ("numba", "plans of epochs, depthwise gradients, noise", "nothing trains"),
    "pyarrow": ("pyarrow", "manifests and indices", "no data set can be opened"),
    "matplotlib": ("matplotlib", "pictures", "no preview"),
    "jinja2": ("jinja2", "reports and model cards", "neither is written"),
    "onnx": ("onnx", "export to ONNX (extra: vidssl[export])", "the other formats of export work"),
}


def diagnose() -> dict[str, Any]:
    """A plain dict: `parts` (a row a package), `gpu`, `home`, `free_gb`, `works` (can a run be made here?)."""
    parts = [_part(module, *about) for module, about in _PARTS.items()]
    needed = {"torch", "accelerate", "numba", "pyarrow"}
    broken = [part["package"] for part in parts if part["problem"] and part["module"] in needed]
    folder = home()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    return {
        "works": not broken,
        "broken": broken,
        "gpu": _gpu(),
        "home": str(folder),
        "free_gb": round(shutil.disk_usage(existing).free / 1e9, 1),
        "parts": parts,
    }


def _part(module: str, package: str, purpose: str, otherwise: str) -> dict[str, Any]:
    problem = None
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken binary raises anything; the doctor must go on
        problem = _explain(module, error)
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        version = None
    return {
        "module": module,
        "package": package,
        "version": version,
        "purpose": purpose,
        "problem": problem,
        "otherwise": otherwise if problem else None,
    }


def _explain(module: str, error: Exception) -> str:
    text = (str(error).splitlines() or [type(error).__name__])[0]
    if module == "torchvision" and "nms" in text:
        # a CPU-only torch beside PyPI's CUDA build of torchvision (pytorch/vision#9085)
        return (
            "torch is a CPU-only build, torchvision is not: pip install --force-reinstall torch torchvision, from PyPI"
        )
    return text


def _gpu() -> dict[str, Any] | None:
    try:
        import torch
    except Exception:
        return None
    if not torch.cuda.is_available():
        return None
    return {
        "name": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "memory_gb": torch.cuda.mem_get_info()[1] / 1e9,
    }
