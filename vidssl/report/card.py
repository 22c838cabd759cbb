"""A run's model card: what the weights are, how to use them, what was measured, what is not known.

Markdown with the YAML head that the Hugging Face hub reads. Numbers come from the run's files alone. Licences: this
toolkit knows none of the videos and none of the weights that a run may have begun with, so the card says what is not
stated and asks for what the reader must look up.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..backbones import BACKBONES
from ..data.catalog import EMBEDDED, split_of
from ..errors import RunError
from ..spec import RunSpec, to_dict
from ..tasks import TASKS

PRETEXT = "pretext task"

RESEARCH = {"k400", "ucf101", "hmdb51", "ssv2", "diving48"}
"""Names under which public collections are prepared: videos of many owners, given out for research."""


@dataclass(frozen=True)
class Artifact:
    """An exported file.

    Attributes:
        format: "safetensors", "torch-export" or "onnx".
        width: numbers that come out for a clip.
        classes: names of the classes of a fine-tuned network; None for a backbone.
        difference, largest, tolerance: the largest difference of the file, read again, from the network, the largest
            output, and the share of it that was allowed.
        batches: sizes that were tried.
        reader: what read the file again.
    """

    file: str
    format: str
    sha256: str
    bytes: int
    width: int
    classes: list[str] | None
    difference: float
    largest: float
    tolerance: float
    batches: tuple[int, ...]
    reader: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def card(run: Path, artifact: Artifact, spec: RunSpec, evaluation: Path | None = None) -> str:
    """The card of a file that was made from a finished run.

    Args:
        run: the run's folder.
        spec: the run's; of a fine-tuned network that of the evaluation that made it.
        evaluation: the folder of that evaluation, where the file holds a fine-tuned network.

    Raises RunError where the run has no summary.json: its evaluations are not done.
    """
    summary, environment = _read_json(run / "summary.json"), _read_json(run / "environment.json")
    folders = [run, *(file.parent for file in sorted(run.glob("evals/*/summary.json")))]
    if evaluation is not None and (evaluation / "summary.json").exists():
        folders += [evaluation] if evaluation.resolve() not in [folder.resolve() for folder in folders] else []
    rows = []
    for folder in folders:
        made_this = evaluation is not None and folder.resolve() == evaluation.resolve()
        shown = f"evals/{folder.name}" if folder.parent == run / "evals" else folder.name
        for row in number_rows(_read_json(folder / "summary.json"), pretrain=folder is run):
            ours = made_this and row["stage"] in ("finetune", "robustness")
            rows.append({**row, "folder": shown, "of_this_file": ours})
    weights, versions = summary["weights"], environment["packages"]
    templates = Environment(
        loader=PackageLoader("vidssl.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {
        "yaml": json.dumps,
        "code": _code,
        "cell": _cell,
        "percent": lambda value: f"{100 * value:.1f}",
    }
    return templates.get_template("card.md.jinja").render(
        artifact=artifact,
        spec=spec,
        rows=rows,
        settings=tomli_w.dumps(public_spec(spec)).rstrip(),
        options="".join(f", {key}={value!r}" for key, value in spec.backbone.options.items()),
        source=_shown_data(spec.data.source),
        target=_shown_data(spec.data.target),
        fingerprint=tomllib.loads((run / "spec.toml").read_text())["identity"]["source"],
        videos=summary["pretrain"]["videos_trained"],
        seed=summary["spec"]["seed"],
        warnings=list(summary["pretrain"]["warnings"].values()),
        seen=_seen_data(spec, fine_tuned=artifact.classes is not None),
        begun_with=weights and {**weights, "path": Path(weights["path"]).name},
        task_paper=TASKS.get(spec.task.name).paper,
        origin=BACKBONES.get(spec.backbone.name).origin,
        parameters=summary["backbone_parameters"],
        versions=versions,
        packages=", ".join(f"{name} {number}" for name, number in versions.items() if number and name != "vidssl"),
        environment=environment,
        torch_version=torch.__version__,
    )


def number_rows(summary: dict[str, Any], pretrain: bool) -> list[dict[str, Any]]:
    """A row a number of a summary: `data`, `stage`, `measure`, `value`, `interval`, `interval_of`, `chance`, `videos`.

    Interval and chance are None where there is none; `interval_of` is None for an interval over test videos. An
    evaluation that ends in no single number (CKA) has no row.

    Args:
        pretrain: with that of the pretext task.
    """
    spec, pretext, rows = summary["spec"], summary["pretrain"], []

    def add(
        stage: str,
        measure: str,
        value: float,
        interval: list[float] | None,
        chance: float | None,
        videos: int,
        interval_of: str | None = None,
    ) -> None:
        data = _shown_data(spec["data"]["source" if stage == PRETEXT else "target"])
        row: dict[str, Any] = {"data": data, "stage": stage, "measure": measure, "value": value}
        row |= {"interval": interval, "interval_of": interval_of, "chance": chance, "videos": videos}
        rows.append(row)

    if pretrain:
        measure = f"{pretext['metric']} ({pretext['tested_on']} clips)"
        add(PRETEXT, measure, pretext["value"], pretext["interval"], pretext["chance"], pretext["videos"])
    for name, result in summary["evals"].items():
        if name == "retrieval":
            for k, chance in result["chance"].items():
                measure = f"top-{k.removeprefix('top')}, gallery of {result['gallery']}"
                add(name, measure, result[k], result["interval"] if k == "top1" else None, chance, result["queries"])
        elif name == "robustness":
            measure = f"lost to noise, of the accuracy ({result['table']} table, mean; less is better)"
            lost = result["relative_drop"]["mean"]
            if lost is not None:  # a network that has no accuracy has none to lose
                add(name, measure, lost, None, None, result["videos"])
        elif "top1" in result:
            measure, of = f"top-1 of {result['classes']} classes", result.get("interval_of")
            add(name, measure, result["top1"], result["interval"], result["chance"], result["videos"], of)
    return rows


def _seen_data(spec: RunSpec, fine_tuned: bool) -> list[dict[str, Any]]:
    """A row a data set that the weights have seen, official splits of one set counted as one: what is known of it."""
    roles = {"Pre-trained": spec.data.source, **({"Fine-tuned": spec.data.target} if fine_tuned else {})}
    bases = {role: split_of(name)[0] for role, name in roles.items()}
    return [
        {
            "role": role,
            "name": _shown_data(roles[role]),
            "embedded": base.partition("-")[0] == EMBEDDED,
            "research": base in RESEARCH,
        }
        for role, base in bases.items()
        if role == "Pre-trained" or base != bases["Pre-trained"]
    ]


def public_spec(spec: RunSpec) -> dict[str, Any]:
    """The spec without the folders of the machine that it ran on: of paths the last part."""
    values = to_dict(spec)
    values["init"]["weights"] = Path(spec.init.weights).name
    for key in ("source", "target"):
        values["data"][key] = _shown_data(values["data"][key])
    return values


def _shown_data(name: str) -> str:
    return Path(name).name if "/" in name else name


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError as error:
        raise RunError(
            f"{file} is missing, so this run is not finished and has no numbers for a model card. Give its `vidssl "
            "run` again: it goes on where it stopped."
        ) from error


def _code(text: str) -> str:
    return "`" + text.replace("`", "'") + "`"


def _cell(text: str) -> str:
    """Text as code in a table, where a bar would end the cell."""
    return _code(text).replace("|", "\\|")
