"""Runs and their evaluations as they lie on disk, read for a report; nothing is computed here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.catalog import split_of
from ..data.store import FIRST_SPLIT
from ..engine.runs import RunDirectory
from ..errors import RunError, unknown_name
from ..evals.predictions import Predictions
from ..home import runs_dir
from ..spec import from_dict, to_dict
from .neighbours import KeptNeighbours

STAGES = {
    "finetune": "fine-tuning",
    "linear": "linear probe",
    "retrieval": "retrieval",
    "robustness": "robustness to noise",
    "cka": "CKA",
}
"""Evaluations in the order of the page, with their headings."""
SPLITS = "*_splits.json"


@dataclass(frozen=True)
class Evaluation:
    """A folder with results on one data set.

    Args:
        run: name of the run that it is of. label: as it is called on the page; no two alike.
        spec: the content of spec.toml without its hashes.
        requested: what the command that made it said: `run` or `weights`, `on`, and what it changed; of a run's own
            folder what the run was asked for.
        stages: name -> result, of the finished ones; "cka-OTHER" is CKA with the network of another run.
    """

    run: str
    label: str
    path: Path
    spec: dict[str, Any]
    requested: dict[str, Any]
    stages: dict[str, dict[str, Any]]

    @property
    def target(self) -> str:
        return self.spec["data"]["target"]

    @property
    def videos(self) -> tuple[str, str]:
        """The target's name and official split, by which evaluations on the same videos are known: "ucf101" is
        "ucf101:1"."""
        name, split = split_of(self.target)
        return name, split or FIRST_SPLIT

    def predictions(self, stage: str) -> Predictions:
        """Raises RunError where none were kept."""
        return Predictions.load(_require(self.path / "predictions" / f"{stage}.npz", "predictions"))

    def neighbours(self) -> KeptNeighbours:
        """Raises RunError where none were kept."""
        return KeptNeighbours.load(_require(self.path / "neighbours.npz", "nearest neighbours"))


@dataclass(frozen=True)
class Run:
    """A run, or weights that were evaluated.

    Args:
        name: no two alike.
        spec: see `Evaluation`.
        pretrain: the result of the pre-training; None where it is not finished, or was not made here.
        weights: facts of the file that training or evaluation began with, None where there was none.
        parameters: of the backbone; None where the run is not finished.
        environment: the content of environment.json.
        splits: of each data set that was evaluated on all its official splits the content of DATASET_splits.json, see
            `evals.over_splits`.
    """

    name: str
    path: Path
    spec: dict[str, Any]
    pretrain: dict[str, Any] | None
    weights: dict[str, Any] | None
    parameters: int | None
    environment: dict[str, Any]
    evaluations: list[Evaluation]
    splits: list[dict[str, Any]]


def _require(path: Path, what: str) -> Path:
    if not path.exists():
        raise RunError(
            f"{what} were not kept ({path.name} is missing): made by an older version? `vidssl eval RUN --on DATA "
            "--out DIR` makes them."
        )
    return path


def read_runs(given: list[str]) -> list[Run]:
    """What the command line named, in its order.

    Args:
        given: each a run's folder, its name under `$VIDSSL_HOME/runs`, or the folder of one evaluation
            (RUN/evals/DATASET, or what `vidssl eval --out` was given), of which only that is shown, or that of the
            evaluations on all official splits.

    Raises RunError where there is no such run, where one is named twice, or where a file of it cannot be read.
    """
    folders = [_find(name) for name in given]
    for folder in folders:
        around = [other for other in folders if other in (folder, folder.parent.parent)]
        if len(around) > 1:
            raise RunError(f"{folder} is named twice, or together with the run that it is of. Name each once.")
    return [_read_run(folder, name) for folder, name in zip(folders, _short_names(folders), strict=True)]


def _find(name: str) -> Path:
    for folder in (Path(name).expanduser(), runs_dir() / name):
        if (folder / "spec.toml").exists() or any(folder.glob("evals/*/spec.toml")) or _split_folders(folder):
            return folder.resolve()
    there = sorted(file.parent.name for file in runs_dir().glob("*/spec.toml"))
    raise RunError(f"{unknown_name('run', name, there)} A folder with a spec.toml is legal too.")


def _split_folders(folder: Path) -> list[Path]:
    """Those of the evaluations that `--on DATA:all --out FOLDER` made."""
    return sorted(file.parent for file in folder.glob("split*/spec.toml")) if any(folder.glob(SPLITS)) else []


def _short_names(folders: list[Path]) -> list[str]:
    """The last parts of each path, as many as tell the folders apart; of an evaluation's at least RUN/evals/DATASET."""
    longest = max(len(folder.parts) for folder in folders)
    for more in range(longest):
        names = ["/".join(folder.parts[-more - (3 if folder.parent.name == "evals" else 1) :]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _read_run(folder: Path, name: str) -> Run:
    base, read = folder, []
    if folder.parent.name == "evals" and (folder.parent.parent / "spec.toml").exists():
        base, read = folder.parent.parent, [_read_evaluation(folder, name, name)]
    else:
        read = [
            _read_evaluation(f.parent, name, f"{name}, evals/{f.parent.name}")
            for f in sorted(folder.glob("evals/*/spec.toml"))
        ]
        read += [_read_evaluation(place, name, f"{name}, {place.name}") for place in _split_folders(folder)]
        if (folder / "spec.toml").exists():
            read = [_read_evaluation(folder, name, name), *read]
        else:  # weights without a run, or evaluations without the run that they are of
            base = read[0].path
    spec, _, stages, summary = _content(base)
    means = [] if read[0].path == folder and base != folder else [*folder.glob(SPLITS), *folder.glob(f"evals/{SPLITS}")]
    return Run(
        name=name,
        path=base,
        spec=spec,
        pretrain=stages.get("pretrain") or (summary or {}).get("pretrain"),
        weights=(summary or {}).get("weights"),
        parameters=(summary or {}).get("backbone_parameters"),
        environment=_json(base / "environment.json") or {},
        evaluations=read,
        splits=[content for file in sorted(means) if (content := _json(file)) is not None],
    )


def _read_evaluation(path: Path, run: str, label: str) -> Evaluation:
    spec, requested, stages, _ = _content(path)
    others = [key for key in stages if key.startswith("cka-")]  # maps beside other runs' networks
    found = {key: stages[key] for key in (*STAGES, *others) if key in stages}
    return Evaluation(run, label, path, spec, requested, found)


def _content(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]], dict[str, Any] | None]:
    """Spec, request, results of the finished stages, and summary, None where the run is not finished."""
    spec = RunDirectory(path, main=False).stored()
    assert spec is not None  # callers looked
    requested = json.loads(spec.pop("identity", {}).get("requested", "{}"))
    spec = to_dict(from_dict(spec))  # what an older version did not write had the value that is the default now
    stages = {file.stem: _json(file) for file in sorted((path / "stages").glob("*.json"))}
    finished = {name: result for name, result in stages.items() if result is not None}
    return spec, requested, finished, _json(path / "summary.json")


def _json(file: Path) -> dict[str, Any] | None:
    """None where the file is not there."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}). Remove it and give the run's command again.") from error
