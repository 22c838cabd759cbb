"""The commands that a page suggests, made of what its evaluations were asked for."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ..data.catalog import folder_name
from ..home import runs_dir
from .results import Evaluation


def eval_command(evaluation: Evaluation, names: list[str]) -> str:
    """The `vidssl eval` that adds evaluations to a folder: the same request, so that the folder takes it.

    Of an evaluated file of weights the file is left open.
    """
    path, requested = evaluation.path, evaluation.requested
    own = "on" not in requested  # a run's own folder, which says what the run was asked for
    beside = path.parent.name == "evals" and (own or path.name == folder_name(requested["on"]))
    changes = [] if own else [f"{key}={_value(value)}" for key, value in requested.items() if "." in key]
    if evaluation.spec["task"]["name"] == "none":
        what = ["--weights", "FILE", "--backbone", evaluation.spec["backbone"]["name"]]
    elif own or beside:
        folder = path.parent.parent if beside else path
        what = [folder.name if folder == (runs_dir() / folder.name).resolve() else str(folder)]
    else:
        what = [requested["run"]]
    on = ["--on", evaluation.target if own else requested["on"], "--with", ",".join(names)]
    sets = [word for change in changes for word in ("--set", change)]
    out = [] if own or beside else ["--out", str(path)]
    return shlex.join(["vidssl", "eval", *what, *on, *sets, *out])


def _value(value: Any) -> str:
    """As `--set` reads it: TOML, of which a JSON number, truth value, text or list of these is one."""
    return json.dumps(value, ensure_ascii=False)
