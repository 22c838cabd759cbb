"""Checkpoints: model, optimizer, position, random states and running sums of one stage.

The newest two of a stage are kept, and the last alone of a finished one.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import RunError
from .runs import write_atomic


def path_of(directory: Path, stage: str, step: int) -> Path:
    return directory / f"{stage}-{step:08d}.pt"


def list_checkpoints(directory: Path, stage: str) -> list[Path]:
    """Checkpoints of a stage, oldest first."""
    pattern = re.compile(rf"{re.escape(stage)}-\d{{8}}\.pt")
    return sorted(p for p in directory.glob("*.pt") if pattern.fullmatch(p.name)) if directory.is_dir() else []


def save(directory: Path, stage: str, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Writes a checkpoint whole or not at all, then removes all but the newest `keep` of the stage."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = path_of(directory, stage, step)
    write_atomic(path, buffer.getvalue())
    for old in list_checkpoints(directory, stage)[:-keep]:
        old.unlink()
    return path


def load(path: Path, request_hash: str) -> dict[str, Any]:
    """Reads a checkpoint. Raises RunError where it is cut, or of another spec."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        first = (str(error).splitlines() or ["no message"])[0][:120]
        raise RunError(
            f"checkpoint {path} cannot be read: it is cut short or damaged ({first}). Move it away and run the same "
            f"command "
            "again: the run goes on from the checkpoint before it, or begins the stage anew."
        ) from error
    if state["request"] != request_hash:
        raise RunError(f"checkpoint {path} belongs to another spec. Choose another folder with --out.")
    return state


def random_states() -> dict[str, Any]:
    """The states of torch's generators on this process (all else that is random is a function of the plan)."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
