"""`vidssl prep`: from the command line's words to `prepare`, and its summary to the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from rich.console import Console

from ..errors import ConfigError, unknown_name
from .subset import parse_size

if TYPE_CHECKING:
    from .prep_summary import PrepSummary

NAMED_FILES = 20


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
) -> None:
    """Prepares a data set and shows what became of every file. Raises ConfigError, DataError, EnvironmentProblem."""
    size = None if subset in (None, "all") else parse_size(subset)
    from .datasets import DATASETS

    if dataset not in (*DATASETS.names(), "embedded"):
        raise unknown_name("data set to prepare", dataset, (*DATASETS.names(), "embedded"))
    from ..engine.progress import Reporter
    from . import catalog
    from .prep import prepare

    if dataset == "embedded":
        if source is not None:
            raise ConfigError(
                "the embedded data set is rendered, it takes no --source. Your own videos: `vidssl prep folder`."
            )
        summary = catalog.prepare_embedded(
            Reporter(),
            name=name or "embedded",
            subset=size,
            short_side=short_side,
            fit=fit,
            format=format,
            workers=workers,
            dry_run=dry_run,
        )
    else:
        if name is None and dataset != "folder":
            name = dataset
        if source is None or name is None:
            missing = " and ".join(
                flag for flag, value in (("--source DIR", source), ("--name NAME", name)) if value is None
            )
            example = "folder --source videos --name mine" if dataset == "folder" else f"{dataset} --source DIR"
            raise ConfigError(f"`vidssl prep {dataset}` needs {missing}. Example: vidssl prep {example}")
        summary = prepare(
            source=source,
            name=name,
            subset=size,
            short_side=short_side or 128,
            fit=fit,
            format=format,
            workers=workers,
            dry_run=dry_run,
            dataset=dataset,
        )
    show(summary, Console(file=sys.stderr if as_json else sys.stdout, soft_wrap=True, highlight=False))
    if as_json:
        print(json.dumps(summary.to_json()))


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
