"""What a person sees while work goes on: a rich bar on a terminal, a plain line now and then elsewhere.

All of it goes to stderr, so that what a program prints as its result stays alone on stdout.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_EVERY_SECONDS = 15.0


class Meter:
    """One piece of work with a known length."""

    def __init__(self, title: str, total: int, start: int, bar: Progress | None, quiet: bool) -> None:
        self.title, self.total, self.done, self.quiet = title, total, start, quiet
        self._begun, self._start = time.monotonic(), start
        self._said = self._begun
        self._bar = bar
        self._id = bar.add_task(title, total=total, completed=start, note="") if bar else None

    def update(self, done: int, note: str = "") -> None:
        """Says that `done` of `total` units are finished; `note` is shown beside."""
        self.done = done
        if self.quiet:
            return
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._said >= PLAIN_EVERY_SECONDS or done == self.total:
            self._said = now
            print(f"{self.title}  {done}/{self.total}  {note}  ETA {self.eta()}".rstrip(), file=sys.stderr, flush=True)

    def eta_seconds(self) -> float:
        fresh = self.done - self._start
        return (time.monotonic() - self._begun) / fresh * (self.total - self.done) if fresh > 0 else float("nan")

    def eta(self) -> str:
        seconds = self.eta_seconds()
        return "?" if math.isnan(seconds) else str(timedelta(seconds=round(seconds)))


class Reporter:
    """Makes meters and says things. `quiet` drops both."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False)

    @contextmanager
    def meter(self, title: str, total: int, start: int = 0) -> Iterator[Meter]:
        if self.quiet or not self.console.is_terminal:
            yield Meter(title, total, start, None, self.quiet)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=False) as bar:
            yield Meter(title, total, start, bar, False)
