"""Files of weights: opened, told apart from what is none, unwrapped."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import RunError

CONTAINERS = ("state_dict", "model", "module")
"""Keys under which checkpoints hold their tensors: Efficient-3DCNNs and mmaction; RSPNet and VideoMAE; DeepSpeed."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: name -> tensor on the CPU, out of the container, under the file's own names.
        outer: the keys of the container, of the dict itself where there is none.
        spec: of the run, for a file of vidssl; else None.
        sha256: of the file.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    outer: frozenset[str]
    spec: dict[str, Any] | None
    sha256: str


def read_checkpoint(path: Path, allow_pickle: bool = False) -> Checkpoint:
    """Reads a .safetensors file, or what `torch.save` wrote.

    Raises RunError: no such file, a folder, empty, no checkpoint, damaged, or not to be read without unpickling.
    """
    path = path.expanduser()
    if path.is_dir():
        raise RunError(f"{path} is a folder, not a file of weights. Those of a run are RUN/model.safetensors.")
    if not path.is_file():
        raise RunError(f"there is no file of weights at {path}. Check the path.")
    if path.stat().st_size == 0:
        raise RunError(f"{path} is empty. Fetch it again.")
    content: Any
    if path.suffix == ".safetensors":
        content, metadata = _read_safetensors(path)
    else:
        content, metadata = _read_torch(path, allow_pickle), {}
    outer = frozenset(map(str, content)) if isinstance(content, Mapping) else frozenset()
    tensors = _unwrap(path, content)
    spec = json.loads(metadata["spec"]) if "spec" in metadata else None
    if {"request", "random"} <= outer:  # of the engine: the spec stands in the run's folder
        spec = _spec_beside(path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(path, tensors, outer, spec, sha256)


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _read_torch(path: Path, allow_pickle: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file the reader can raise nearly anything
        refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused is None:
            raise _unreadable(path, error) from error
    if not allow_pickle:
        raise RunError(
            f"{path} holds more than tensors ({refused[1]}), so it cannot be read without unpickling, and unpickling "
            "runs any code that whoever made the file put into it. If you trust its source: --allow-pickle (in Python "
            "allow_pickle=True)."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # the code in the file can raise anything, for one that a module is not installed
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RunError:
    with path.open("rb") as file:
        begin = file.read(24)
    lines = [line for line in str(error).splitlines() if line.strip()] or ["no message"]
    return RunError(
        f"{path} cannot be read as a checkpoint: it is something else, cut short or damaged (it begins with {begin!r}; "
        f"{type(error).__name__}: {lines[0][:160]}). Fetch it again."
    )


def _unwrap(path: Path, content: Any) -> dict[str, torch.Tensor]:
    while isinstance(content, Mapping):
        inner = [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {key: value for key, value in items if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        names = f" with {', '.join(sorted(map(str, content))[:6])}" if isinstance(content, Mapping) else ""
        raise RunError(
            f"{path} holds no tensors by name but a {type(content).__name__}{names}. A state dict is needed, bare or "
            f"under {', '.join(CONTAINERS)}."
        )
    return tensors


def _spec_beside(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((path.absolute().parent.parent / "spec.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RunError(
            f"{path} is a checkpoint of a vidssl run outside its folder, and only the run's spec.toml says how its "
            "pixels were scaled. Name it at its place, RUN/checkpoints, or take RUN/model.safetensors."
        ) from error
