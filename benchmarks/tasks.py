"""All pretext tasks on the same data, one run each, beside untrained networks: what each learns, and what it costs.

    python benchmarks/tasks.py --runs DIR                              # the embedded set, both of its label systems
    python benchmarks/tasks.py --runs DIR --data mine --target mine

Each run is `vidssl run --task T` in DIR/T with its log in DIR/T.log; given again, the command goes on where it stopped
and finished runs are not done again. Runs share the processor, `--jobs` at a time with a thread for each share. The
last line of stdout is the result as JSON, with the environment in it; `--out FILE` keeps it.

Two networks are untrained. "untrained" is as it was built: its batch norm has the statistics 0 and 1 and normalises
nothing. "fitted" has gone through the data for an epoch at a learning rate of 0, so that its batch norm has seen them:
the network that training begins with.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import environment
from vidssl import list_tasks

UNTRAINED = {
    "untrained": ["--set", "pretrain.epochs=0"],
    "fitted": ["--set", "pretrain.epochs=1", "--set", "pretrain.lr=0.0"],
}


def command(task: str, options: argparse.Namespace) -> list[list[str]]:
    """The command lines of one row, in order."""
    folder = options.runs / task
    trained = UNTRAINED.get(task, [])
    name = list_tasks()[0] if task in UNTRAINED else task
    base = [sys.executable, "-m", "vidssl"]
    settings = [word for setting in options.set for word in ("--set", setting)]
    lines = [
        [
            *base, "run", "--task", name, "--backbone", options.backbone, "--data", options.data, "--target",
            options.target or options.data, "--seed", str(options.seed), "--out", str(folder), *settings, *trained,
        ]
    ]  # fmt: skip
    lines += [[*base, "eval", str(folder), "--on", other, "--with", "linear,retrieval"] for other in options.also]
    return lines


def execute(task: str, options: argparse.Namespace) -> str | None:
    """Runs one row to its end. Returns what went wrong, or None."""
    threads = str(max(1, (os.cpu_count() or 1) // options.jobs))
    with open(options.runs / f"{task}.log", "a") as log:
        for line in command(task, options):
            done = subprocess.run(
                line, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": threads}, check=False
            )
            if done.returncode:
                return f"exit status {done.returncode}; see {log.name}"
    return None


def row(task: str, options: argparse.Namespace) -> dict[str, Any]:
    """The numbers of a finished row."""
    folder = options.runs / task
    summary = json.loads((folder / "summary.json").read_text())
    found: dict[str, Any] = {"task": task, "evals": {options.target or options.data: summary["evals"]}}
    for other in options.also:
        place = folder / "evals" / other.strip("/").replace("/", "_") / "summary.json"
        found["evals"][other] = json.loads(place.read_text())["evals"]
    found["settings"] = {key: summary["spec"][key] for key in ("task", "backbone", "pretrain", "data")}
    if task not in UNTRAINED:
        found["pretrain"] = summary["pretrain"]
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        found["watch"] = [{"epoch": line["epoch"], **line["watch"]} for line in lines if "watch" in line]
    found["seconds"] = summary["seconds"]
    return found


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table()
    for heading in ("task", "pretext %", "chance"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    targets = list(rows[0]["evals"])
    for target in targets:
        for name in ("finetune", "linear", "retrieval"):
            table.add_column(f"{name}\n{target}", justify="right")
    table.add_column("minutes", justify="right")
    for each in rows:
        pretrain = each.get("pretrain")
        cells = [f"{100 * pretrain[key]:.1f}" for key in ("value", "chance")] if pretrain else ["", ""]
        for target in targets:
            evals = each["evals"][target]
            cells += [
                f"{100 * evals[name]['top1']:.1f}" if name in evals else ""
                for name in ("finetune", "linear", "retrieval")
            ]
        table.add_row(each["task"], *cells, f"{each['seconds'] / 60:.1f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument("--data", default="embedded", help="data set to pre-train on")
    parser.add_argument("--target", help="data set to evaluate on; by default the same")
    parser.add_argument("--also", nargs="*", default=None, help="further data sets for linear probe and retrieval")
    parser.add_argument("--backbone", default="shufflenet")
    parser.add_argument("--tasks", nargs="+", default=list_tasks(), choices=list_tasks(), metavar="TASK")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="handed to every run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keeps the result")
    options = parser.parse_args()
    if options.also is None:
        options.also = ["embedded-appearance"] if options.data == "embedded" else []
    options.runs.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    names = [*options.tasks, *UNTRAINED]
    begun, failed = time.monotonic(), []
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(execute, name, options): name for name in names}
        for count, job in enumerate(as_completed(jobs), 1):
            minutes = (time.monotonic() - begun) / 60
            left = minutes / count * (len(names) - count)
            console.print(f"{jobs[job]}: {job.result() or 'done'}  ({count}/{len(names)}, ETA {left:.0f} min)")
            failed += [jobs[job]] if job.result() else []
    rows = [row(name, options) for name in names if name not in failed]
    if rows:
        show(rows, console)
    result = {
        "benchmark": "tasks",
        "data": options.data,
        "target": options.target or options.data,
        "backbone": options.backbone,
        "jobs": options.jobs,
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
