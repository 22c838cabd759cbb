"""Fine-tuned networks of a run's evaluations, found by the name of the data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .data.catalog import folder_name, same_data
from .engine.runs import RunDirectory
from .errors import RunError
from .evals.finetune import WEIGHTS
from .pretrained import run_spec
from .spec import RunSpec, differences, to_dict


def find_evaluation(folder: Path, classifier: str) -> Path:
    """The folder of an evaluation of a run that kept its fine-tuned network.

    Args:
        folder: of the run.
        classifier: the evaluation's folder, or the name of its data set as `vidssl eval --on` takes it: "ucf101:2" is
            RUN/evals/ucf101_split2, and the data set that the run was made with is RUN too.

    Raises RunError where there is none, where several may be meant, and where it is of another run.
    """
    places = [folder / "evals" / folder_name(classifier), Path(classifier).expanduser()]
    if same_data(classifier, run_spec(folder).data.target):
        places.insert(0, folder)
    kept = list({place.resolve(): place for place in places if (place / WEIGHTS).is_file()}.values())
    if not kept:
        there = sorted(file.parent.name for file in folder.glob(f"evals/*/{WEIGHTS}"))
        there += ["its own folder"] if (folder / WEIGHTS).exists() else []
        raise RunError(
            f"{classifier} is no evaluation with a fine-tuned network ({WEIGHTS}). This run has: "
            f"{', '.join(there) or 'none'}. `vidssl eval RUN --on DATA --with finetune` makes one."
        )
    if len(kept) > 1:
        raise RunError(
            f"{classifier!r} may be any of {', '.join(map(str, kept))}. Give --classifier the path of one of them."
        )
    _require_own(kept[0], folder)
    return kept[0]


def _require_own(place: Path, folder: Path) -> None:
    """Raises RunError where an evaluation elsewhere is not of this run."""
    inside = (folder.resolve(), (folder / "evals").resolve())
    identity = (RunDirectory(place).stored() or {}).get("identity", {})
    requested = json.loads(identity.get("requested", "{}"))
    if "weights" in requested:
        own = requested["weights"] == sha256(folder / "model.safetensors")
    else:  # older ones say the run's name alone, which runs in two folders may share
        own = place.resolve() in inside or place.resolve().parent == inside[1]
        own = own or (requested.get("run") == folder.resolve().name and _same_pretraining(place, folder, requested))
    if not own:
        of = f"of {requested['run']!r}" if "run" in requested else "of a file of weights, or does not say of what"
        raise RunError(f"{place} is no evaluation of the run {folder}: it is {of}, another network.")


def _same_pretraining(place: Path, folder: Path, requested: Mapping[str, Any]) -> bool:
    """Whether an evaluation's spec has the run's pre-training, but for what the evaluation was asked to change."""

    def made(spec: RunSpec) -> dict[str, Any]:
        values = to_dict(spec)
        values["data"] = {key: values["data"][key] for key in ("source", "subset", "frames", "size")}
        return {key: values[key] for key in ("task", "backbone", "init", "pretrain", "seed", "data")}

    changed = differences(made(run_spec(folder)), made(run_spec(place)))
    return all(text.partition(":")[0] in requested for text in changed)


def sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
