"""One static HTML page of one run or several: numbers with their intervals, pictures, and what tells the runs apart.

Everything is inside the file: pictures as data URIs, no script, nothing from the net. So it can be mailed, printed and
kept beside the weights. What was not evaluated is said, with the command that does it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .. import __version__
from ..data.decode.base import Decoder
from ..errors import DataError, RunError
from ..spec import from_dict
from .commands import eval_command
from .confusion import COUNTED, draw_confusion, draw_per_class, most_confused
from .curves import draw_curves, png, read_log
from .figures import plain_text
from .neighbours import RULE, draw_neighbours
from .noise_curves import draw_noise_curves, draw_noise_sheet
from .paper import published
from .results import STAGES, Evaluation, Run
from .side_by_side import differing, over_splits, side_by_side
from .table import mean_cka

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GENERATOR = "vidssl report"
"""Stands in the head of every page: how a later one knows that it may replace it."""

OpenDecoder = Callable[[str], Decoder]
"""A data set's name -> a decoder over it, on the CPU; raises DataError where there is none."""


def render(runs: list[Run], open_decoder: OpenDecoder | None, done: Callable[[int], None]) -> str:
    """The page.

    Args:
        open_decoder: None leaves all frames of videos out.
        done: is called with the number of evaluations that are drawn.
    """
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "interval": _interval,
        "signed": _signed,
        "p": _p_value,
        "mean_cka": mean_cka,
    }
    template = environment.get_template("report.html.jinja")
    sections, count = [], 0
    noises_shown: dict[str, str] = {}
    for run in runs:
        parts = []
        for evaluation in run.evaluations:
            parts.append(_evaluation_section(run, evaluation, open_decoder, noises_shown))
            count += 1
            done(count)
        spec = (run.path / "spec.toml").read_text()
        section = {"run": run, "facts": _facts(run), "curves": _curves(run), "evaluations": parts, "spec": spec}
        sections.append({**section, "splits": [over_splits(content) for content in run.splits]})
    return template.render(
        generator=f"{GENERATOR} {__version__}",
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        stages=STAGES,
        sections=sections,
        comparisons=side_by_side([evaluation for run in runs for evaluation in run.evaluations]),
        specs=differing([run.spec for run in runs]),
        names=[run.name for run in runs],
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    spec, machine = run.spec, run.environment
    options = ", ".join(f"{key} {value}" for key, value in spec["backbone"].items() if key != "name")
    parameters = f", {run.parameters:,} parameters" if run.parameters else ""
    facts = [("network", f"{spec['backbone']['name']} ({options}){parameters}")]
    if run.weights:
        known = f"format {run.weights['format']}, sha256 {run.weights['sha256']}"
        facts.append(("began with the weights", f"{Path(run.weights['path']).name}, {known}"))
    if spec["task"]["name"] != "none":
        level = f", complexity {spec['task']['complexity']}" if "complexity" in spec["task"] else ""
        stage, data = spec["pretrain"], spec["data"]
        how = f"{stage['epochs']} epochs, batch {stage['batch']}, {stage['optimizer']} at {stage['lr']:g}"
        facts += [
            ("pretext task", spec["task"]["name"] + level),
            ("pre-training", f"{data['source']}, subset {data['subset']}; {how}"),
        ]
    clip = f"{spec['data']['frames']} frames of {spec['data']['size']} px"
    facts.append(
        ("clips", f"{clip}; {spec['eval']['clips']} a test video; preset {spec['preset']}, seed {spec['seed']}")
    )
    if machine:
        commit = machine.get("git_commit")
        versions = f"torch {machine['packages']['torch']}, vidssl {machine['packages']['vidssl']}"
        place = machine["gpu"] or machine["processor"]
        facts.append(("machine", f"{place}; {versions}" + (f" at {commit[:12]}" if commit else "")))
    return facts


def _curves(run: Run) -> dict[str, Any] | str:
    """A picture, or why there is none."""
    if run.spec["task"]["name"] == "none":
        return "Nothing was pre-trained here."
    if run.pretrain is None:
        return "The pre-training is not finished; the same `vidssl run` goes on with it."
    lines = read_log(run.path, "pretrain")
    if not lines:
        return "No step of the pre-training is in the log of this folder."
    figure = draw_curves(lines, run.pretrain["metric"], f"{run.name}: pre-training")
    return _picture(figure, "curves of the pre-training")


def _evaluation_section(
    run: Run, evaluation: Evaluation, open_decoder: OpenDecoder | None, noises_shown: dict[str, str]
) -> dict[str, Any]:
    """What the template shows of an evaluation; texts where a picture is missing."""
    stages = evaluation.stages
    elsewhere = {name for other in run.evaluations if other.videos == evaluation.videos for name in other.stages}
    missing = [name for name in STAGES if name not in elsewhere]
    pictures: dict[str, list[dict[str, Any] | str]] = {name: [] for name in STAGES}
    confused = {}
    for name in ("finetune", "linear"):
        if name in stages:
            try:
                predictions = evaluation.predictions(name)
            except RunError as error:
                pictures[name].append(f"No accuracy by class and no confusion: {error}")
                continue
            title = f"{STAGES[name]} on {evaluation.target}" + ", first seed" * ("seeds" in stages[name])
            chance = stages[name]["chance"]
            pictures[name] += [
                _picture(draw_per_class(predictions, chance, f"{title}: top-1 of each class"), "accuracy by class"),
                _picture(draw_confusion(predictions, f"{title}: confusion"), "confusion matrix"),
            ]
            if len(predictions.classes) > COUNTED:
                confused[name] = most_confused(predictions)
    if "retrieval" in stages:
        pictures["retrieval"].append(_retrieval_picture(evaluation, open_decoder))
    if "robustness" in stages:
        pictures["robustness"] = _noise_pictures(run, evaluation, open_decoder, noises_shown)
    cka = [result for name, result in stages.items() if name.partition("-")[0] == "cka"]
    if cka:
        pictures["cka"] = [_inline(path.read_bytes(), path.stem) for path in sorted(evaluation.path.glob("cka_*.png"))]
    return {
        "evaluation": evaluation,
        "rows": _rows(run, evaluation),
        "paper": _paper(run, evaluation)[1],
        "warnings": [text for name in stages for text in stages[name].get("train", {}).get("warnings", {}).values()],
        "pictures": pictures,
        "confused": confused,
        "cka": cka,
        "rule": RULE,
        "missing": [STAGES[name] for name in missing],
        "command": eval_command(evaluation, missing),
    }


def _rows(run: Run, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Lines of the table of results: fractions, and seconds of the whole stage in its first line."""
    stages, rows = evaluation.stages, []

    def add(stage: str, measure: str, value: float | None, result: dict[str, Any], **more: Any) -> None:
        known = {key: result.get(key) for key in ("interval", "chance", "seconds")}
        rows.append({"stage": stage, "measure": measure, "value": value, "clips": None, "paper": None, **known, **more})

    if run.pretrain and evaluation is run.evaluations[0]:
        measure = f"{run.pretrain['metric']}, {run.pretrain['tested_on']} videos"
        add("pre-training", measure, run.pretrain["value"], run.pretrain, clips=run.pretrain["clips_per_second"])
    for name in ("finetune", "linear"):
        if name in stages:
            result = stages[name]
            clips = result.get("train", {}).get("clips_per_second")
            paper = _paper(run, evaluation)[0] if name == "finetune" else None
            measure = f"top-1 of {result['classes']} classes"
            if "seeds" in result:
                measure += f", mean of seeds: {', '.join(map(_percent, result['seeds']))}"
            add(STAGES[name], measure, result["top1"], result, clips=clips, paper=paper)
    if "retrieval" in stages:
        result = stages["retrieval"]
        for number, (key, chance) in enumerate(result["chance"].items()):
            measure, first = f"top-{key.removeprefix('top')}", number == 0
            add(STAGES["retrieval"] * first, measure, result[key], result if first else {}, chance=chance)
    if "robustness" in stages:
        result = stages["robustness"]
        add(STAGES["robustness"], "clean top-1, same videos", result["clean"]["top1"], {**result, **result["clean"]})
        measure = f"relative drop, mean of {len(result['noises'])} noises (lower is better)"
        add("", measure, result["relative_drop"]["mean"], {})
    return rows


def _paper(run: Run, evaluation: Evaluation) -> tuple[float | None, str]:
    """The paper's fine-tuning accuracy as a fraction, and what is to be said beside it."""
    if run.weights or run.spec["task"]["name"] == "none":
        return None, "No number of the paper stands beside these: the weights came from a file."
    value, where = published(from_dict(evaluation.spec))
    if value is None:
        return None, where[0].upper() + where[1:] + "."
    return value / 100, f"Paper: {where} of arXiv 2306.06010. It leaves open optimizer, learning rate and batch."


def _retrieval_picture(evaluation: Evaluation, open_decoder: OpenDecoder | None) -> dict[str, Any] | str:
    if open_decoder is None:
        return "Examples are left out: the page was made without frames of the videos."
    try:
        neighbours = evaluation.neighbours()
        decoder = open_decoder(evaluation.target)
        title = f"Retrieval on {evaluation.target}"
        figure = draw_neighbours(neighbours, decoder, decoder.store.label_names, title)
        return _photograph(figure, "examples of retrieval")
    except (RunError, DataError) as error:
        return f"No examples: {error}"


def _noise_pictures(
    run: Run, evaluation: Evaluation, open_decoder: OpenDecoder | None, shown: dict[str, str]
) -> list[dict[str, Any] | str]:
    """Curves, and the noises on a frame.

    Args:
        shown: what was drawn of these -> where; of runs on the same data it is the same picture, a megabyte each.
    """
    figure = draw_noise_curves(evaluation.stages["robustness"], f"{run.name} on {evaluation.target}")
    pictures: list[dict[str, Any] | str] = [_picture(figure, "accuracy under noise")]
    if open_decoder is None:
        return [*pictures, "The picture of the noises is left out: the page was made without frames of the videos."]
    try:
        decoder = open_decoder(evaluation.target)
    except DataError as error:
        return [*pictures, f"No picture of the noises: {error}"]
    spec = from_dict(evaluation.spec)
    key = repr((evaluation.target, spec.eval.noise_table, spec.eval.noise_kinds, spec.eval.noise_severities, spec.seed))
    if key in shown:
        return [*pictures, f"The noises on one frame of this data set: shown above, under {shown[key]}."]
    shown[key] = evaluation.label
    first = min(decoder.store.indices("test").tolist(), key=decoder.store.ids.__getitem__)
    return [*pictures, _picture(draw_noise_sheet(decoder, first, spec.eval, spec.seed), "the noises on one frame")]


def _picture(figure: Figure, alt: str) -> dict[str, Any]:
    return _inline(png(figure), alt)


@plain_text
def _photograph(figure: Figure, alt: str) -> dict[str, Any]:
    """For figures made of frames, which as PNG take eight times the bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=110, facecolor="white", pil_kwargs={"quality": 85})
    return _inline(buffer.getvalue(), alt, "jpeg")


def _inline(data: bytes, alt: str, kind: str = "png") -> dict[str, Any]:
    return {"source": f"data:image/{kind};base64,{base64.b64encode(data).decode()}", "alt": alt}


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # + 0.0 makes a rounded -0.0 positive


def _interval(bounds: tuple[float, float] | None, signed: bool = False) -> str:
    if bounds is None:
        return ""
    return " to ".join(_signed(bound) if signed else _percent(bound) for bound in bounds)


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
