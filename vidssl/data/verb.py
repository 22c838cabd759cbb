"""`vidssl prep`: from the command line's words to `prepare`, and its summary to the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ..errors import ConfigError, unknown_name
from .subset import parse_size

if TYPE_CHECKING:
    from .prep import PrepSummary

KINDS = ("folder", "embedded")


def prep_verb(
    dataset: str, source: Path | None, name: str | None, subset: str | None, short_side: int | None, fit: str, format: str,
    workers: int | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Prepares a data set and shows what became of every file. Raises ConfigError, DataError, EnvironmentProblem."""
    size = None if subset in (None, "all") else parse_size(subset)
    if dataset not in KINDS:
        raise unknown_name("data set to prepare", dataset, KINDS)
    from ..engine.progress import Reporter
    from . import catalog
    from .prep import prepare

    if dataset == "embedded":
        if source is not None:
            raise ConfigError("the embedded data set is rendered, it takes no --source. Your own videos: `vidssl prep folder`.")
        summary = catalog.prepare_embedded(
            Reporter(), name=name or "embedded", subset=size, short_side=short_side, fit=fit, format=format, workers=workers,
            dry_run=dry_run,
        )  # fmt: skip
    else:
        if source is None or name is None:
            missing = " and ".join(flag for flag, value in (("--source DIR", source), ("--name NAME", name)) if value is None)
            raise ConfigError(f"`vidssl prep folder` needs {missing}. Example: vidssl prep folder --source videos --name mine")
        summary = prepare(
            source=source, name=name, subset=size, short_side=short_side or 128, fit=fit, format=format, workers=workers,
            dry_run=dry_run,
        )  # fmt: skip
    show(summary, Console(file=sys.stderr if as_json else sys.stdout, soft_wrap=True, highlight=False))
    if as_json:
        print(json.dumps(summary.to_json()))


def show(summary: PrepSummary, console: Console) -> None:
    """Counts, then every reason for which files were kept out, most frequent first."""
    for line in summary.lines():
        console.print(line, markup=False)
