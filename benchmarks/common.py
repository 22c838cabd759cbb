"""The harness of every benchmark: candidates side by side in one run, medians with quartiles, ratios that hold.

Machines drift (other users, clocks, caches), so absolute figures of two runs are not to be compared. Here candidates
take turns (A B C A B C ...) on the same work, and a ratio is taken pair by pair: iteration n of one against iteration n
of the baseline, then its median and quartiles.

- CPU time is that of the process with all its threads and its children: with threads, wall time hides the cost.
- A candidate that cannot be opened, or fails on the way, is a row with its error; the others go on.
- The table is for people; the last line of stdout is the whole result as JSON, with the environment in it.

A benchmark is a table of `Candidate` and a call of `main`:

    candidates = [Candidate("new", open_new), Candidate("old", open_old)]
    run(parser(__doc__).parse_args(), "what", candidates, unit="clip", baseline="old")
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

PACKAGES = ("vidssl", "torch", "av", "simplejpeg", "nvidia-dali-cuda130", "numba", "numpy")
WARM_UP, ITERATIONS = 3, 40
SMOKE_WARM_UP, SMOKE_ITERATIONS = 1, 3


@dataclass(frozen=True)
class Candidate:
    """One row.

    Args:
        name: as it stands in the table.
        open: makes it ready and returns what is timed: a call with the number of the iteration, returning the units
            of work it did. Whatever `open` raises becomes the row's error.
        note: what a reader must know of it.
        against: the row that its ratio is taken to; None for the benchmark's baseline, "" for no ratio.
        group: candidates take turns within their group only. One that follows another sort of work finds the caches and
            the allocator's memory laid out for that, and would pay for it.
    """

    name: str
    open: Callable[[], Callable[[int], int]]
    note: str = ""
    against: str | None = None
    group: str = ""


@dataclass
class Row:
    """The samples of one candidate; `wall`, `cpu` in milliseconds a unit of work, one an iteration."""

    name: str
    note: str
    against: str | None = None
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    first_ms: float = 0.0
    error: str = ""


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; add your own."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, metavar="FILE", help="write the JSON here too")
    made.add_argument("--iterations", type=int, default=ITERATIONS, help="of each candidate (default: %(default)s)")
    made.add_argument("--warm-up", type=int, default=WARM_UP, help="untimed iterations before (default: %(default)s)")
    made.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs; figures mean nothing")
    return made


def measure(candidates: Iterable[Candidate], iterations: int, warm_up: int) -> list[Row]:
    """Group by group: opens the candidates, warms each up, then lets them take turns."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.group, []).append(candidate)
    return [row for group in groups.values() for row in _take_turns(group, iterations, warm_up)]


def _take_turns(candidates: list[Candidate], iterations: int, warm_up: int) -> list[Row]:
    rows, calls = [], {}
    for candidate in candidates:
        row = Row(candidate.name, candidate.note, candidate.against)
        rows.append(row)
        try:
            call = candidate.open()
            row.first_ms = _sample(call, 0)[0]
            for number in range(warm_up):
                call(number)
            calls[candidate.name] = call
        except Exception as error:
            row.error = _one_line(error)
    for number in range(iterations):
        for row in rows:
            if row.error:
                continue
            try:
                wall, cpu = _sample(calls[row.name], number)
            except Exception as error:
                row.error = _one_line(error)
                continue
            row.wall.append(wall)
            row.cpu.append(cpu)
    return rows


def _sample(call: Callable[[int], int], number: int) -> tuple[float, float]:
    cpu, wall = cpu_seconds(), time.perf_counter()
    units = call(number)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return wall * 1000 / units, cpu * 1000 / units


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def cpu_seconds() -> float:
    """Processor time of this process, its threads, and its children, finished or living."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def quartiles(samples: Iterable[float]) -> dict[str, float]:
    """p25, median and p75."""
    low, middle, high = np.percentile(list(samples), (25, 50, 75))
    return {"p25": round(float(low), 4), "median": round(float(middle), 4), "p75": round(float(high), 4)}


def report(title: str, rows: list[Row], unit: str, baseline: str) -> dict[str, Any]:
    """The result: rows with quartiles and ratios to their baseline (above 1: cheaper than it), and the environment."""
    by_name = {row.name: row for row in rows}
    made = []
    for row in rows:
        entry: dict[str, Any] = {"name": row.name, "note": row.note, "error": row.error}
        if not row.error:
            entry |= {f"wall_ms_per_{unit}": quartiles(row.wall), f"cpu_ms_per_{unit}": quartiles(row.cpu)}
            entry |= {f"first_ms_per_{unit}": round(row.first_ms, 3), "iterations": len(row.wall)}
            entry["against"] = baseline if row.against is None else row.against
            base = by_name.get(entry["against"])
            if base is not None and not base.error and base is not row:
                for kind in ("wall", "cpu"):
                    pairs = zip(getattr(base, kind), getattr(row, kind), strict=True)
                    entry[f"{kind}_ratio"] = quartiles(ours / max(theirs, 1e-9) for ours, theirs in pairs)
        made.append(entry)
    return {"benchmark": title, "unit": unit, "baseline": baseline, "rows": made, "environment": environment()}


def show(result: dict[str, Any]) -> None:
    """The table."""
    unit = result["unit"]
    title = f"{result['benchmark']}: median (p25 to p75); ratios, pair by pair, against {result['baseline']!r}"
    if "own_baselines" in result:
        title += f" and {result['own_baselines']}"
    table = Table(title=title, title_justify="left")
    table.add_column("candidate", no_wrap=True)
    further = {key: key.replace("_", " ") for key in result.get("show", ())}
    for heading in (f"CPU ms/{unit}", f"wall ms/{unit}", f"{unit}s/s", "CPU ratio", "wall ratio", *further.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for row in result["rows"]:
        if row["error"]:
            table.add_row(row["name"], *["-"] * (5 + len(further)), f"failed: {row['error']}")
            continue
        cpu, wall = row[f"cpu_ms_per_{unit}"], row[f"wall_ms_per_{unit}"]
        own = "1" if row["name"] == result["baseline"] else "-"
        ratios = [_span(row[key], 1) if key in row else own for key in ("cpu_ratio", "wall_ratio")]
        rate = f"{1000 / wall['median']:.3g}"
        others = [str(row.get(key, "-")) for key in further]
        table.add_row(row["name"], _span(cpu, 2), _span(wall, 2), rate, *ratios, *others, row["note"])
    Console(width=max(190, Console().width)).print(table)


def _span(figures: dict[str, float], digits: int) -> str:
    low, middle, high = (f"{figures[key]:.{digits}f}" for key in ("p25", "median", "p75"))
    return f"{middle} ({low} to {high})"


def environment() -> dict[str, Any]:
    """What a figure depends on."""
    root = Path(__file__).resolve().parent
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(value, 2) for value in os.getloadavg()],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _output("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"),
        "gpu": _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def run(
    options: argparse.Namespace,
    title: str,
    candidates: Iterable[Candidate],
    unit: str,
    baseline: str,
    complete: Callable[[dict[str, Any]], None] = lambda result: None,
) -> int:
    """Measures, prints the table and the JSON line, writes `--out`; `complete` may add to the result before.

    Returns the exit status: 1 where nothing could be timed.
    """
    warm_up, iterations = (SMOKE_WARM_UP, SMOKE_ITERATIONS) if options.smoke else (options.warm_up, options.iterations)
    rows = measure(candidates, iterations, warm_up)
    result = {**report(title, rows, unit, baseline), "smoke": options.smoke}
    complete(result)
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    sys.stdout.flush()
    return 1 if all(row.error for row in rows) else 0
