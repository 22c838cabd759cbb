"""`vidssl prep`: from the command line's words to `prepare`, and its summary to the terminal."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.prompt import Confirm

from ..errors import ConfigError, unknown_name
from .addresses import ORIGINS, public_of
from .discovery import estimate, find_source, parse_bytes, remember, ways
from .subset import parse_size

if TYPE_CHECKING:
    from .prep_summary import PrepSummary

NAMED_FILES = 20
_FOLDER_EXAMPLE = "Example: vidssl prep folder --source videos --name mine"


def prep_verb(
    dataset: str,
    source: Path | None,
    name: str | None,
    subset: str | None,
    short_side: int | None,
    fit: str,
    format: str,
    workers: int | None,
    dry_run: bool,
    as_json: bool,
    *,
    download: bool = False,
    mirror: str | None = None,
    max_disk: str = "20GB",
    yes: bool = False,
    cluster: str | None = None,
    jobs: int | None = None,
    slurm: list[str] | None = None,
    repair: bool = False,
) -> None:
    """Prepares a data set and shows what became of every file. Raises ConfigError, DataError, EnvironmentProblem."""
    size = None if subset in (None, "all") else parse_size(subset)
    from .datasets import DATASETS

    if dataset not in (*DATASETS.names(), "embedded"):
        raise unknown_name("data set to prepare", dataset, sorted({*DATASETS.names(), "embedded"}))
    if mirror is not None and not download:
        raise ConfigError("--mirror says where to download from. Add --download, or leave it out.")
    if download and source is not None:
        raise ConfigError("--source reads what is here, --download fetches it: give one of the two.")
    if repair:
        raise ConfigError("--repair is for `vidssl prep --verify STORE --repair`. Leave it out.")
    if cluster is not None and (download or dataset == "embedded"):
        what = "--download transcodes what it fetches, where it fetches it" if download else "embedded takes a minute"
        raise ConfigError(f"{what}: it has no use for --cluster. Leave that out.")
    from ..engine.progress import Reporter
    from . import catalog
    from .prep import prepare
    from .prep_checks import check_settings, meta_for
    from .schedulers import slurm_options

    height = 128 if short_side is None else short_side
    check_settings(meta_for(name or dataset, format, fit, height), workers)
    reporter = Reporter()
    settings: dict[str, Any] = {
        "name": name or dataset,
        "subset": size,
        "short_side": short_side,
        "fit": fit,
        "format": format,
        "workers": workers,
        "dry_run": dry_run,
    }
    if dataset == "embedded":
        if source is not None or download:
            raise ConfigError(
                "the embedded data set is rendered, it takes no --source and no --download. Your own videos: `vidssl "
                "prep folder`."
            )
        summary = catalog.prepare_embedded(reporter, **settings)
    else:
        settings |= {"dataset": dataset, "short_side": height, "progress": reporter}
        most = parse_bytes(max_disk)
        if dataset == "folder" and name is None:
            missing = "--name NAME" if source else "--source DIR and --name NAME"
            raise ConfigError(f"`vidssl prep folder` needs {missing}. {_FOLDER_EXAMPLE}")
        key = f"folder:{name}" if dataset == "folder" else dataset
        found, where = (None, "") if download else find_source(key, source)
        if found is not None:
            if where:
                reporter.say(f"source: {found} ({where})")
            summary = prepare(source=found, cluster=cluster, jobs=jobs, slurm=slurm_options(slurm or []), **settings)
            if not dry_run:
                remember(key, found)
        else:
            if cluster is not None:
                raise ConfigError(f"no source of {dataset} here: {where}. --cluster needs one: give --source DIR.")
            if not download:
                _consent(settings, most, where, yes)
            from .download_checks import refusals

            figures = estimate(public_of(dataset), size, height, format, workers, most)
            refused = refusals(dataset, meta_for(name or dataset, format, fit, height), figures, most)
            if dry_run:
                if download:
                    reporter.say("\n".join(figures.lines()))
                for problem in refused:
                    reporter.say(f"it would be refused: {problem}")
                if as_json:
                    told = {"download": asdict(figures), "refused": list(map(str, refused))}
                    print(json.dumps({"dataset": dataset, **told, "dry_run": True}))
                return
            if refused:
                raise refused[0]
            from .parts import prepare_downloaded

            summary = prepare_downloaded(mirror=mirror, max_disk=most, **settings)
    show(summary, Console(file=sys.stderr if as_json else sys.stdout, soft_wrap=True, highlight=False))
    if as_json:
        print(json.dumps(summary.to_json()))


def one_source(given: list[str]) -> Path | None:
    """The folder of `--source`. Raises ConfigError where there are several, or it is empty."""
    if len(given) > 1:
        raise ConfigError(
            f"--source is given {len(given)} times ({', '.join(given)}), and prep reads one. Give a folder that holds "
            "all of it (links to folders will do), or prepare each under a --name of its own."
        )
    if given and not given[0].strip():
        raise ConfigError("--source is empty. Is the variable set that stands there? Legal: a folder or an archive.")
    return Path(given[0]) if given else None


def _consent(settings: dict[str, Any], max_disk: int, why: str, yes: bool) -> None:
    """Shows the ways to a source. Raises ConfigError unless the user wants the download."""
    dataset = settings["dataset"]
    if dataset not in ORIGINS:
        raise ConfigError(
            f"no source for {settings['name']!r} here: {why}. `vidssl prep {dataset}` needs --source DIR. "
            f"{_FOLDER_EXAMPLE}"
        )
    shown = ways(dataset, settings["subset"], settings["short_side"], settings["format"], settings["workers"], max_disk)
    text = f"no source of {dataset} here: {why}. Three ways:\n{shown}"
    if ORIGINS[dataset].public is None:
        raise ConfigError(text)
    if settings["dry_run"] or yes:
        settings["progress"].say(text)
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(f"{text}\nThere is no terminal to ask on. --yes says that you want the download.")
    console = settings["progress"].console
    console.print(text, markup=False)
    if not Confirm.ask("Download it now?", console=console, default=False):
        raise ConfigError("nothing was downloaded. Give --source DIR, or say yes the next time.")


def show(summary: PrepSummary, console: Console) -> None:
    """Counts, then what was kept out and why: file by file where they are few, else by reason, most frequent first."""
    if summary.dry_run:
        console.print(
            f"{summary.videos} videos, {summary.to_do} to do ({summary.source_bytes / 1e6:.0f} MB to read); estimated "
            f"{summary.estimated_seconds:.0f} s and {summary.estimated_bytes / 1e6:.0f} MB. Nothing was written."
        )
        for note in summary.notes():
            console.print(f"  {note}", markup=False)
        return
    console.print(
        f"{summary.videos} videos: {summary.ok} ok, {summary.damaged} damaged, {summary.rejected} rejected "
        f"({summary.skipped} were done before); {summary.frames} frames, {summary.bytes / 1e6:.1f} MB, "
        f"{summary.seconds:.0f} s"
    )
    _show_kept_out(summary, console)
    for split, parts in summary.splits.items():
        counts = ", ".join(f"{held} of {named} {part}" for part, (held, named) in parts.items())
        console.print(f"  official split {split}: {counts} videos are stored")
    for note in summary.notes():
        console.print(f"  {note}", markup=False)
    console.print(f"store: {summary.store}\nevery file with its reason: {summary.manifest}", markup=False)


def _show_kept_out(summary: PrepSummary, console: Console) -> None:
    if summary.damaged + summary.rejected > NAMED_FILES:
        for reason, count in summary.reasons.most_common():
            console.print(f"  kept out, {count}x: {reason}", markup=False)
        return
    for row in pq.read_table(summary.manifest, columns=["path", "status", "reason"]).to_pylist():
        if row["status"] != "ok":
            console.print(f"  {row['status']}: {row['path']}: {row['reason']}", markup=False)
