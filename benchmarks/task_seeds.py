"""Retrieval after each pretext task beside untrained networks, over several seeds: is one above the other?

    python benchmarks/task_seeds.py --runs DIR --tasks cvrl tdl rspnet --seeds 0 1 2
    python benchmarks/task_seeds.py --runs DIR --tasks tdl --seeds 3 4        # goes on with the same folder

One run of one seed moves by 0.05 with rounding alone (benchmarks/results/NOTES.md), so that a table of single runs
cannot tell. Each run is DIR/TASK-SEED, `vidssl run` without fine-tuning; a finished one is not done again, and every
seed in DIR counts. A seed decides the weights that a training begins with, so a trained network is compared with the
untrained ones of its own seed: `above` holds the mean of the differences and Student's 95 % interval. The untrained
networks are those of `tasks.py`. Their videos are the same ones throughout: an interval over seeds says how a network
does on these, not on others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import environment
from benchmarks.tasks import UNTRAINED
from vidssl import list_tasks
from vidssl.evals.statistics import student_interval


def execute(name: str, seed: int, options: argparse.Namespace) -> str | None:
    """Runs one to its end. Returns what went wrong, or None."""
    folder = options.runs / f"{name}-{seed}"
    if (folder / "summary.json").exists():
        return None
    task = list_tasks()[0] if name in UNTRAINED else name
    line = [
        sys.executable, "-m", "vidssl", "run", "--task", task, "--backbone", options.backbone, "--data", options.data,
        "--target", options.data, "--seed", str(seed), "--eval", "retrieval", "--out", str(folder),
        *[word for setting in options.set for word in ("--set", setting)], *UNTRAINED.get(name, []),
    ]  # fmt: skip
    threads = str(max(1, (os.cpu_count() or 1) // options.jobs))
    with open(f"{folder}.log", "a") as log:
        done = subprocess.run(
            line, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": threads}, check=False
        )
    return f"exit status {done.returncode}; see {folder}.log" if done.returncode else None


def gather(runs: Path, name: str) -> dict[int, float]:
    """Retrieval top-1 of every finished run of this name, by seed."""
    found = {}
    for path in runs.glob(f"{name}-*/summary.json"):
        summary = json.loads(path.read_text())
        found[summary["spec"]["seed"]] = summary["evals"]["retrieval"]["top1"]
    return dict(sorted(found.items()))


def over_seeds(values: Mapping[int, float]) -> dict[str, Any]:
    """Mean and, from two seeds on, Student's interval."""
    several = list(values.values())
    interval = student_interval(several) if len(several) > 1 else None
    return {"seeds": list(values), "values": several, "mean": float(np.mean(several)), "interval": interval}


def compare(scores: Mapping[str, Mapping[int, float]]) -> list[dict[str, Any]]:
    """A row a network; trained ones with their differences to the untrained ones of the same seeds."""
    rows = []
    for name, mine in scores.items():
        if not mine:
            continue
        row: dict[str, Any] = {"task": name, "retrieval": over_seeds(mine)}
        if name not in UNTRAINED:
            both = {other: [seed for seed in mine if seed in scores[other]] for other in UNTRAINED}
            row["above"] = {
                other: over_seeds({seed: mine[seed] - scores[other][seed] for seed in seeds})
                for other, seeds in both.items()
                if seeds
            }
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("network", "seeds", "retrieval top-1", *(f"above {name}" for name in UNTRAINED))
    for row in rows:
        cells = [_span(row["above"][name]) if name in row.get("above", {}) else "" for name in UNTRAINED]
        table.add_row(row["task"], str(len(row["retrieval"]["seeds"])), _span(row["retrieval"]), *cells)
    console.print(table)


def _span(figures: Mapping[str, Any]) -> str:
    span = figures["interval"]
    return f"{100 * figures['mean']:.1f}" + (f" ({100 * span[0]:.1f} to {100 * span[1]:.1f})" if span else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument("--data", default="embedded", help="data set to pre-train on and to retrieve in")
    parser.add_argument("--backbone", default="shufflenet")
    parser.add_argument("--tasks", nargs="+", default=list_tasks(), choices=list_tasks(), metavar="TASK")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="handed to every run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keeps the result")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    wanted = [(name, seed) for name in (*UNTRAINED, *options.tasks) for seed in options.seeds]
    begun, failed = time.monotonic(), []
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(execute, name, seed, options): f"{name}-{seed}" for name, seed in wanted}
        for count, job in enumerate(as_completed(jobs), 1):
            left = (time.monotonic() - begun) / 60 / count * (len(wanted) - count)
            console.print(f"{jobs[job]}: {job.result() or 'done'}  ({count}/{len(wanted)}, ETA {left:.0f} min)")
            failed += [jobs[job]] if job.result() else []
    names = [*(name for name in list_tasks() if any(options.runs.glob(f"{name}-*/summary.json"))), *UNTRAINED]
    rows = compare({name: gather(options.runs, name) for name in names})
    if rows:
        show(rows, console)
    result = {
        "benchmark": "task_seeds",
        "data": options.data,
        "backbone": options.backbone,
        "rows": rows,
        "failed": failed,
        "environment": environment(),
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
