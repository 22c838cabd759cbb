"""Verbs on what has been trained: evaluate, report, take features, export. No logic lives here, see `cli`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

results_app = typer.Typer()

AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Unpickle the weights if need be: runs any code that is in the file.")
]
Run = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="A finished run's folder (or its name under $VIDSSL_HOME/runs).")
]
Weights = Annotated[
    Path | None, typer.Option(help="Instead of a run, a file of weights: public, or a run's model.safetensors.")
]
BackboneName = Annotated[
    str | None, typer.Option("--backbone", help="The network that the weights are of; see `vidssl list backbones`.")
]


@results_app.command("eval")
def eval_(
    on: Annotated[str, typer.Option(help="Data set; ucf101:2: its second official split, ucf101:all: their mean.")],
    run: Run = None,
    weights: Weights = None,
    backbone: BackboneName = None,
    allow_pickle: AllowPickle = False,
    evals: Annotated[str, typer.Option("--with", help="finetune,linear,retrieval,robustness,cka; all; none")] = (
        "finetune,linear,retrieval"
    ),
    against: Annotated[
        list[Path] | None, typer.Option(help="Another run: its layers beside this network's, by CKA. May be repeated.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, for example finetune.epochs=10")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Another folder for the results.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on the last line.")] = False,
) -> None:
    """Evaluate a finished run, or a file of weights, on a data set; nothing is done twice.

    Results go into RUN/evals/DATASET (into RUN where it was made with that data set and nothing is changed), or into
    $VIDSSL_HOME/runs/weights-BACKBONE-HASH/evals/DATASET. robustness and cka look at the fine-tuned network.
    """
    from .engine.progress import Reporter
    from .evals.names import parse_names
    from .evaluate import evaluate
    from .report.table import show_run
    from .spec import parse_override

    changes = dict(parse_override(text) for text in sets or [])
    reporter = Reporter()
    names = parse_names(evals)
    summary = evaluate(run, weights, backbone, allow_pickle, on, names, changes, out, reporter, against or [])
    if not reporter.quiet:
        show_run(summary, Console())
        if as_json:
            print(json.dumps(summary))


@results_app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Runs, by folder or name, or folders of an evaluation (RUN/evals/DATA)."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file. Default: report.html in the run's folder; here, for several runs."),
    ] = None,
    frames: Annotated[
        bool, typer.Option("--frames/--no-frames", help="Whether frames of the videos are on the page.")
    ] = True,
) -> None:
    """One page of runs: numbers beside chance and paper, curves, confusion, neighbours, noise, CKA; runs compared.

    Two runs that were tested on the same videos are compared video by video: McNemar's test, bootstrap interval.
    """
    from .report.report_verb import report_verb

    report_verb(runs, out, frames)


@results_app.command()
def embed(
    data: Annotated[str, typer.Option(help="Prepared data set whose videos are looked at.")],
    out: Annotated[Path, typer.Option(help="File to write, .npz or .parquet. The same call goes on with it.")],
    run: Run = None,
    weights: Weights = None,
    backbone: BackboneName = None,
    allow_pickle: AllowPickle = False,
    split: Annotated[str, typer.Option(help="train, test or all.")] = "all",
    clips: Annotated[int, typer.Option(help="Evenly spaced clips of each video.")] = 10,
    feature: Annotated[str, typer.Option(help="pooled: the mean of the map. map: its 2x2 maxima, as VCOP.")] = "pooled",
    average: Annotated[
        bool, typer.Option("--average/--each-clip", help="One feature a video, or one a clip with its frames.")
    ] = True,
    sets: Annotated[list[str] | None, typer.Option("--set", help="eval.batch=64, data.size=112, ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON on the last line.")] = False,
) -> None:
    """Features of every video with ids, labels and splits, in one file; goes on where it stopped."""
    from .embed import Wanted, embed_verb

    wanted = Wanted(split, clips, feature, average)
    embed_verb(run, weights, backbone, allow_pickle, data, wanted, out, sets or [], as_json)


@results_app.command()
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A finished run's folder (or its name under $VIDSSL_HOME/runs).")
    ],
    out: Annotated[Path, typer.Option(help="File to write: .safetensors, .pt2 or .onnx; beside it a model card.")],
    format: Annotated[str, typer.Option(help="safetensors, torch-export or onnx.")] = "safetensors",
    classifier: Annotated[
        str | None,
        typer.Option(help="The fine-tuned network of an evaluation, by folder or data set, instead of the backbone."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON on the last line.")] = False,
) -> None:
    """Write a run's network for other programs, reload it, and compare it with the original."""
    from .export import export_verb

    export_verb(run, format, out, classifier, as_json)
