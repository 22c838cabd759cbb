"""`vidssl report`: from the command line's words to a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from ..data.decode.base import Decoder
    from ..engine.progress import Reporter
    from .page import OpenDecoder


def report_verb(given: list[str], out: Path | None, frames: bool) -> Path:
    """Writes the page of runs and returns its path.

    Args:
        given: see `results.read_runs`.
        out: the file; by default report.html in the folder of a single run, and here for several.
        frames: whether frames of the videos are on it.

    Raises ConfigError where `out` is a file of something else, RunError and EnvironmentProblem as `read_runs` and
    `write_atomic` do.
    """
    from ..engine.progress import Reporter
    from ..engine.runs import write_atomic
    from .page import render
    from .results import read_runs

    runs = read_runs(given)
    if out is None:
        single = runs[0].evaluations[0].path if len(runs[0].evaluations) == 1 else runs[0].path
        out = (single if len(runs) == 1 else Path()) / "report.html"
    _require_replaceable(out)
    reporter = Reporter()
    with reporter.meter("report", sum(len(run.evaluations) for run in runs)) as meter:
        page = render(runs, _decoders(reporter) if frames else None, meter.update)
    write_atomic(out, page)
    reporter.say(f"wrote {out} ({len(page) / 1e6:.1f} MB)")
    return out


def _require_replaceable(out: Path) -> None:
    """A report may be made anew; nothing else is written over."""
    from .page import GENERATOR

    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder. Name a file in it: --out {out / 'report.html'}")
    if out.exists() and f'<meta name="generator" content="{GENERATOR}'.encode() not in out.read_bytes()[:2000]:
        raise ConfigError(f"{out} is there and is no report of vidssl. Choose another file with --out.")


def _decoders(reporter: Reporter) -> OpenDecoder:
    """Opens each data set once. What is not prepared here is not prepared for the sake of pictures."""
    from ..data import catalog
    from ..data.decode import open_decoder

    opened: dict[str, Decoder] = {}

    def open_(name: str) -> Decoder:
        if name.partition("-")[0] == catalog.EMBEDDED and catalog.EMBEDDED not in catalog.prepared():
            raise DataError(f"data set {name!r} is not prepared on this machine: `vidssl prep embedded`.")
        if name not in opened:
            opened[name] = open_decoder("pyav", catalog.open_data(name, reporter))
        return opened[name]

    return open_
