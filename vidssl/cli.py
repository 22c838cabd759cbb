"""The verbs. Each parses, builds a request and calls one function; no logic lives here.

torch, numpy and pyarrow are imported inside the verbs, so that every `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .cli_lists import Json, list_app
from .cli_results import AllowPickle, results_app
from .errors import VidsslError

app = typer.Typer(
    name="vidssl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(results_app)  # without a name, so that its verbs are the program's own
app.add_typer(list_app, name="list")


@app.callback()
def _root(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Compare, reproduce and push self-supervised learning on video.

    First time here? [bold]vidssl run --task prp --backbone shufflenet[/bold] needs no data and no GPU.
    Your own videos: [bold]vidssl prep folder --source DIR --name NAME[/bold], then [bold]vidssl run --data NAME[/bold]
    """


@app.command()
def run(
    task: Annotated[str, typer.Option(help="Pretext task; see `vidssl list tasks`.")] = "prp",
    backbone: Annotated[str, typer.Option(help="Network; see `vidssl list backbones`.")] = "shufflenet",
    init: Annotated[
        Path | None, typer.Option(help="File of weights to begin with: a run's model.safetensors, or a public one.")
    ] = None,
    allow_pickle: AllowPickle = False,
    data: Annotated[
        str | None, typer.Option(help="Data set to pre-train on. Default: k400 if prepared, else the embedded set.")
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="Class-balanced number of its training videos: 84, 50k, or all.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Data set to evaluate on. Default: the one pre-trained on.")
    ] = None,
    complexity: Annotated[int | None, typer.Option(help="The task's difficulty, 1 to 3.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the pre-training videos.")] = None,
    evals: Annotated[str | None, typer.Option("--eval", help="As `vidssl eval --with`, or none.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is random.")] = None,
    decoder: Annotated[str | None, typer.Option(help="dali, jpeg, pyav, or auto: the fastest here, measured.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="paper: the benchmark's protocol. small: minutes without a GPU. auto: by machine and data."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: one of its own under $VIDSSL_HOME/runs.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting: section.key=value; --dry-run shows all.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved spec and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on the last line.")] = False,
) -> None:
    """Pre-train, test the pretext task, fine-tune, probe, retrieve; then show the numbers beside chance.

    The same command goes on where it stopped, whatever stopped it, and does nothing twice.
    """
    from .evals.names import parse_names
    from .spec import parse_override

    request: dict[str, Any] = {"task.name": task, "backbone.name": backbone}
    given = {
        "init.weights": None if init is None else str(init.expanduser().absolute()),
        "init.allow_pickle": allow_pickle or None,
        "data.source": data,
        "data.subset": subset,
        "data.target": target,
        "task.complexity": complexity,
        "pretrain.epochs": epochs,
        "seed": seed,
        "data.decoder": decoder,
        "preset": preset,
        "eval.names": None if evals is None else parse_names(evals),
    }
    request |= {key: value for key, value in given.items() if value is not None}
    request |= dict(parse_override(text) for text in sets or [])

    from .engine.progress import Reporter

    reporter = Reporter()
    if dry_run:
        import tomli_w
        import torch

        from .resolve import processes, resolve
        from .run import build_task, check_pretraining
        from .spec import to_dict

        resolved = resolve(request, reporter)
        with torch.device("meta"):  # what the run would refuse, without the cost of weights
            built = build_task(resolved.spec, None)
        for note in [*resolved.notes, *check_pretraining(built, resolved, processes().num_processes)]:
            reporter.say(note)
        print(tomli_w.dumps(to_dict(resolved.spec)).rstrip())
        return
    from .report.table import show_run
    from .run import execute

    summary = execute(request, out, reporter)
    if not reporter.quiet:
        show_run(summary, Console())
        if as_json:
            print(json.dumps(summary))


@app.command()
def prep(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET", help="folder (your videos), k400, ucf101, hmdb51, ssv2, diving48 or embedded."
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="Folder of videos: class folders, or train.csv/test.csv (path,label), or plain files; with the "
            "official lists of a data set by name. Default: the one used last, or $VIDSSL_HOME/sources/DATASET.",
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch it, part after part: choose, transcode, delete. Goes on if cut.")
    ] = False,
    mirror: Annotated[str | None, typer.Option(help="Address to download from instead of the official one.")] = None,
    max_disk: Annotated[str, typer.Option(help="Most that downloads take on disk at once: 200GB.")] = "20GB",
    yes: Annotated[bool, typer.Option("--yes", help="Download without asking where no source is here.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the prepared set, for --data and --target.")] = None,
    subset: Annotated[
        str | None,
        typer.Option(help="Class-balanced number of training videos (50k). A larger one later adds only what is new."),
    ] = None,
    short_side: Annotated[
        int | None, typer.Option(help="Height in pixels of the stored picture; width is 4/3 of it. Default 128.")
    ] = None,
    fit: Annotated[str, typer.Option(help="cover: scale and crop, keeps proportions. squash: scale only.")] = "cover",
    format: Annotated[
        str,
        typer.Option(
            help="h264: small. mjpeg: five times larger, twice as fast to decode. ffcv: mjpeg, and a .beton of it."
        ),
    ] = "h264",
    workers: Annotated[int | None, typer.Option(help="Processes. Default: one a processor.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="slurm: shards as jobs of a cluster. local: as jobs of this machine.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Jobs at once, with --cluster.")] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="With --cluster slurm: partition=cpu, time=120 (minutes), cpus_per_task=8, mem=16G.",
        ),
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Read a prepared set (name or folder) again and check every byte. Alone."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="With --verify: what is bad is done again by the next prep.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and estimate; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on the last line.")] = False,
) -> None:
    """Check, transcode and pack videos once, so that training never opens, probes or seeks.

    Every frame is decoded once. Files that do not decode whole are kept out and listed with the reason in
    manifest.parquet. Killed or interrupted, the same command goes on where it stopped.
    """
    if verify is not None or dataset is None:
        from .data.verify_verb import verify_verb

        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        if not verify_verb(verify, repair, dataset, as_json, given):
            raise typer.Exit(1)
        return
    from .data.verb import one_source, prep_verb

    prep_verb(
        dataset, one_source(source or []), name, subset, short_side, fit, format, workers, dry_run, as_json,
        download=download, mirror=mirror, max_disk=max_disk, yes=yes, cluster=cluster, jobs=jobs, slurm=slurm,
        repair=repair,
    )  # fmt: skip


@app.command()
def preview(
    task: Annotated[str, typer.Option(help="Pretext task; see `vidssl list tasks`.")] = "prp",
    data: Annotated[str, typer.Option(help="Data set.")] = "embedded",
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("preview.png"),
    samples: Annotated[int, typer.Option(help="How many videos.")] = 4,
    seed: Annotated[int, typer.Option(help="Another seed shows other clips.")] = 0,
    sets: Annotated[list[str] | None, typer.Option("--set", help="task.key=value or data.size=112")] = None,
) -> None:
    """Draw exactly what the network sees in a task, with its labels, as a PNG."""
    from .report.verb import preview_verb

    preview_verb(task, data, out, samples, seed, sets or [])


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing, and what still works. Exit status 1 if nothing can run."""
    from .doctor import diagnose

    found = diagnose()
    if as_json:
        print(json.dumps(found))
    else:
        table = Table("package", "version", "for", "problem")
        for part in found["parts"]:
            table.add_row(
                part["package"],
                part["version"] or "-",
                part["purpose"],
                f"{part['problem']} -> {part['otherwise']}" if part["problem"] else "",
            )
        console = Console()
        console.print(table)
        gpu = found["gpu"]
        console.print(
            f"GPU: {gpu['name']}, {gpu['memory_gb']:.0f} GB"
            if gpu
            else "GPU: none; runs use the processor and the small preset"
        )
        console.print(f"data and runs: {found['home']} ({found['free_gb']} GB free)", soft_wrap=True)
        broken = ", ".join(found["broken"])
        console.print("ready" if found["works"] else f"not ready: {broken} does not import")
    if not found["works"]:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: turns the user's mistakes into one message and exit status 2."""
    from .engine.signals import Interrupted

    try:
        app()
    except VidsslError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(
            f"\nstopped at {stop.where}; a checkpoint is written. The same command goes on from there.", file=sys.stderr
        )
        sys.exit(128 + stop.number)
    except KeyboardInterrupt:
        print("\nstopped. The same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
