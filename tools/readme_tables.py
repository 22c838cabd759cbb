"""Writes the README's tables from the files in benchmarks/results. No number in them is typed.

python tools/readme_tables.py                      rewrites what stands between <!-- table: NAME --> and <!-- end -->
python tools/readme_tables.py --check              exit status 1 where the README differs from the results
python tools/readme_tables.py --record RUN         first keeps the numbers of the README's first command in results
python tools/readme_tables.py --record DIR --name evals_embedded       those of an evaluation
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def newest(pattern: str) -> dict[str, Any]:
    files = sorted(RESULTS.glob(pattern))
    if not files:
        sys.exit(f"no {pattern} in {RESULTS}: run the benchmark with --out first")
    return {**json.loads(files[-1].read_text()), "file": files[-1].name}


def record(run: Path, where: str, name: str) -> None:
    """Keeps a run's or an evaluation's numbers, with the machine they were made on, as a result file."""
    summary = json.loads((run / "summary.json").read_text())
    summary.pop("directory")
    environment = json.loads((run / "environment.json").read_text())
    environment.pop("command")
    stages = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    memory = max(line["time"]["memory_gib"] for line in stages if "watch" not in line)
    content = {**summary, "peak_memory_gib": memory, "where": where, "environment": environment}
    (RESULTS / f"{name}_cpu_{date.today()}.json").write_text(json.dumps(content, indent=1) + "\n")


def first_run() -> str:
    """The table a newcomer sees after the README's first command."""
    run = newest("first_run_cpu_*.json")
    pretrain, evals, where = run["pretrain"], run["evals"], run["environment"]
    rows = [
        ("PRP, which of 4 playback rates (test videos)", pretrain["value"], pretrain["interval"], pretrain["chance"]),
        (
            "fine-tuned, top-1 of 8 motions",
            evals["finetune"]["top1"],
            evals["finetune"]["interval"],
            evals["finetune"]["chance"],
        ),
        ("linear probe, top-1", evals["linear"]["top1"], evals["linear"]["interval"], evals["linear"]["chance"]),
        (
            "retrieval, top-1",
            evals["retrieval"]["top1"],
            evals["retrieval"]["interval"],
            evals["retrieval"]["chance"]["top1"],
        ),
    ]
    lines = ["| the first command, as it stands | % | 95 % interval | chance |", "|---|---|---|---|"]
    for name, value, (low, high), chance in rows:
        lines.append(f"| {name} | {100 * value:.1f} | {100 * low:.1f} to {100 * high:.1f} | {100 * chance:.1f} |")
    lines.append("")
    lines.append(
        f"One seed, {run['seconds'] / 60:.1f} minutes of training and testing after the data (under a minute) on "
        f"{run['where']} ({where['processor']}), {run['peak_memory_gib']:.1f} GiB, "
        f"{pretrain['clips_per_second']:.0f} clips/s pre-training; `benchmarks/results/{run['file']}`."
    )
    return "\n".join(lines)


def decode() -> str:
    """CPU cost of a clip by each reader, with the ratio to the peer."""
    result = newest("decode_cpu_*.json")
    lines = ["| reader | CPU ms a clip | times cheaper than the peer |", "|---|---|---|"]
    for row in result["rows"]:
        if row["error"]:
            continue
        cost, ratio = row["cpu_ms_per_clip"], row.get("cpu_ratio")
        shown = f"{ratio['median']:.1f} ({ratio['p25']:.1f} to {ratio['p75']:.1f})" if ratio else "the peer"
        lines.append(f"| {row['name']} | {cost['median']:.2f} ({cost['p25']:.2f} to {cost['p75']:.2f}) | {shown} |")
    lines.append("")
    lines.append(
        f"Median (p25 to p75), {result['threads']} thread, {result['environment']['cpu']}, source "
        f"`{result['source']}`; `benchmarks/results/{result['file']}`. "
        "Raw frames are the ceiling, at 30 to 90 times the bytes."
    )
    return "\n".join(lines)


def step() -> str:
    """Training steps a network: the fastest way measured, and what the others cost beside it."""
    result = newest("step_cpu_*.json")
    rows = {row["name"]: row for row in result["rows"]}
    lines = [
        "| backbone | clips/s, best | how | share of peak | memory | eager, contiguous | best against it |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["name"].partition(",")[0] for row in result["rows"] if "gflop_per_clip" in row):
        own = [row for row in rows.values() if row["name"].startswith(f"{name}, ") and "peer" not in row["name"]]
        best = max((row for row in own if not row["error"]), key=lambda row: row["clips_per_second"])
        plain = rows[f"{name}, eager, contiguous"]
        ratio = best.get("wall_ratio")
        shown = f"{ratio['median']:.2f} ({ratio['p25']:.2f} to {ratio['p75']:.2f})" if ratio else "1"
        how = best["name"].partition(", ")[2].replace("_", "-")
        lines.append(
            f"| {name} | {best['clips_per_second']:.2f} | {how} | {100 * best['share_of_peak']:.0f} % | "
            f"{best['memory_mib'] / 1024:.1f} GiB | {plain['clips_per_second']:.2f} | {shown} |"
        )
    lines.append("")
    where = result["environment"]
    lines.append(
        f"Forward, backward and SGD on resident clips of {result['clip'][1]}x{result['clip'][2]}x{result['clip'][3]}, "
        f"{result['precision']}, {result['threads']} threads of {where['cpu']}; ratios are medians (p25 to p75), pair "
        f"by pair in one run; the peak, {result['peak_gflops']:.0f} GFLOP/s, is the better of a matrix product and a "
        f"dense convolution; `benchmarks/results/{result['file']}`."
    )
    return "\n".join(lines)


def peers() -> str:
    """ShuffleNet and MobileNet beside the same networks with torch's own depthwise convolution."""
    result = newest("step_cpu_*.json")
    rows = {row["name"]: row for row in result["rows"]}
    lines = ["| | ours, eager | the same with torch's depthwise, contiguous | channels-last |", "|---|---|---|---|"]
    for name in ("shufflenet", "mobilenet"):
        ours = rows[f"{name}, eager, contiguous"]
        cells = []
        for layout in ("contiguous", "channels_last"):
            row = rows[f"{name}, peer, {layout}"]
            times = {key: 1 / row["wall_ratio"][key] for key in ("p25", "median", "p75")}
            cells.append(
                f"{row['clips_per_second']:.1f}: ours {times['median']:.1f} ({times['p75']:.1f} to {times['p25']:.1f}) "
                "times as fast"
            )
        lines.append(f"| {name}, clips/s | {ours['clips_per_second']:.1f} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def transforms() -> str:
    """What every task's views cost beside its own training step."""
    result = newest("transforms_cpu_*.json")
    rows = {row["name"]: row for row in result["rows"]}
    lines = ["| task, recipe | views of a batch, ms | share of the step | beside one copy of the bytes |"]
    lines.append("|---|---|---|---|")
    for name, row in rows.items():
        if not name.endswith(": views"):
            continue
        wall, ratio = (row[key] for key in ("wall_ms_per_sample", "wall_ratio"))
        times = {key: value * result["batch"] for key, value in wall.items()}
        lines.append(
            f"| {name.removesuffix(': views')} | {times['median']:.0f} ({times['p25']:.0f} to {times['p75']:.0f}) | "
            f"{100 / ratio['median']:.2f} % ({100 / ratio['p75']:.2f} to {100 / ratio['p25']:.2f}) | "
            f"{row['copies']:.0f} times |"
        )
    lines.append("")
    lines.append(
        f"{result['batch']} samples a batch, frames of {result['picture'][1]}x{result['picture'][0]} in memory to "
        f"clips of {result['clip'][0]}x{result['clip'][1]}x{result['clip'][1]}; the step is that of "
        f"{result['backbone']} on the same task, {result['precision']}; {result['threads']} threads of "
        f"{result['environment']['cpu']}; medians (p25 to p75), pair by pair in one run; "
        f"`benchmarks/results/{result['file']}`."
    )
    return "\n".join(lines)


def augmentations() -> str:
    """One clip's augmentation by ours and by the two libraries that do the same job."""
    result = newest("transforms_cpu_*.json")
    rows = {row["name"]: row for row in result["rows"]}
    lines = ["| one clip's augmentation | torchvision v2, ms | Kornia, ms | ours, ms | times torchvision's speed |"]
    lines.append("|---|---|---|---|---|")
    for name in [row.removesuffix(": ours") for row in rows if row.endswith(": ours")]:
        own = [rows[f"{name}: {kind}"] for kind in ("torchvision", "kornia", "ours")]
        cells = [f"{row['wall_ms_per_sample']['median']:.1f}" for row in own]
        ratio = own[-1]["wall_ratio"]
        lines.append(
            f"| {name.removeprefix('one clip, ')} | {' | '.join(cells)} | {ratio['median']:.1f} ({ratio['p25']:.1f} to "
            f"{ratio['p75']:.1f}) |"
        )
    return "\n".join(lines)


UNTRAINED = {"untrained": "untrained, as built", "fitted": "untrained, batch norm fitted"}


def tasks() -> str:
    """What each task learned on the embedded set, beside untrained networks."""
    columns = (
        ("embedded", "finetune", "fine-tuned, motion"),
        ("embedded", "linear", "linear, motion"),
        ("embedded-appearance", "linear", "appearance"),
        ("embedded", "retrieval", "retrieval, motion"),
        ("embedded-appearance", "retrieval", "appearance"),
    )
    return _tasks(newest("tasks_embedded_cpu_*.json"), columns)


def tasks_real() -> str:
    """The same from real video to real video, a tenth of the training."""
    names = {"finetune": "fine-tuned", "linear": "linear", "retrieval": "retrieval"}
    return _tasks(newest("tasks_real_cpu_*.json"), [("actions", key, name) for key, name in names.items()])


def _tasks(result: dict[str, Any], columns: Iterable[tuple[str, str, str]]) -> str:
    columns = list(columns)
    titles = ["task", "pretext, test clips", "chance", *[title for *_, title in columns], "minutes"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in result["rows"]:
        value = chance = ""
        if "pretrain" in row:
            pretrain = row["pretrain"]
            metric = "" if pretrain["metric"] == "accuracy" else f"{pretrain['metric']} "
            low, high = (100 * bound for bound in pretrain["interval"])
            value = f"{metric}{100 * pretrain['value']:.1f} ({low:.1f} to {high:.1f})"
            chance = f"{100 * pretrain['chance']:.1f}"
        cells = [f"{100 * row['evals'][target][name]['top1']:.1f}" for target, name, _ in columns]
        name = UNTRAINED.get(row["task"], row["task"])
        lines.append(f"| {name} | {value} | {chance} | {' | '.join(cells)} | {row['seconds'] / 60:.0f} |")
    first = result["rows"][0]["evals"]
    guesses = [first[target][name]["chance"] for target, name, _ in columns]
    cells = [f"{100 * (guess['top1'] if isinstance(guess, dict) else guess):.1f}" for guess in guesses]
    lines += [f"| *chance* | | | {' | '.join(cells)} | |", ""]
    where, target = result["environment"], columns[0][0]
    widths = [high - low for row in result["rows"] for low, high in [row["evals"][target]["linear"]["interval"]]]
    lines.append(
        f"Percent; `{result['data']}` to `{result['target']}`, {first[target]['linear']['videos']} test videos (95 % "
        f"intervals of the evaluations are up to {50 * max(widths):.0f} to each side), one run a row, "
        f"{where['cores']} cores of {where['cpu']} shared by {result['jobs']} runs; "
        f"`benchmarks/results/{result['file']}`."
    )
    return "\n".join(lines)


def seeds() -> str:
    """Retrieval over several seeds, each network beside the untrained ones that begin with its weights."""
    result = newest("task_seeds_cpu_*.json")
    lines = ["| network | seeds | retrieval, motion | above fitted | above as built |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        above = [_mean(row["above"][name]) if "above" in row else "" for name in ("fitted", "untrained")]
        retrieval = row["retrieval"]
        name = UNTRAINED.get(row["task"], row["task"])
        lines.append(f"| {name} | {len(retrieval['seeds'])} | {_mean(retrieval)} | {' | '.join(above)} |")
    lines += ["", "Percent, mean over seeds (Student's 95 % interval; differences seed by seed, to the network of the"]
    lines[-1] += f" same first weights); `benchmarks/results/{result['file']}`."
    return "\n".join(lines)


def _mean(figures: dict[str, Any]) -> str:
    span = figures["interval"]
    return f"{100 * figures['mean']:.1f}" + (f" ({100 * span[0]:.1f} to {100 * span[1]:.1f})" if span else "")


def evals() -> str:
    """Everything that is asked of a pre-trained network, on two data sets."""
    results = [newest(f"evals_{name}_cpu_*.json") for name in ("embedded", "actions")]
    titles = [
        f"{result['spec']['task']['name']}, {result['spec']['data']['source']} to {result['spec']['data']['target']}"
        for result in results
    ]
    rows: dict[str, list[str]] = {}

    def fill(name: str, column: int, cell: str) -> None:
        rows.setdefault(name, [""] * len(results))[column] = cell

    for column, result in enumerate(results):
        found = result["evals"]
        for stage, name in (("finetune", "fine-tuned"), ("linear", "linear probe"), ("retrieval", "retrieval, top-1")):
            if stage in found:
                each = found[stage]
                chance = each["chance"]["top1"] if stage == "retrieval" else each["chance"]
                fill(name, column, _beside(each["top1"], each["interval"], chance))
        noisy = found["robustness"]
        for severity, drop in noisy["relative_drop"].items():
            if severity != "mean":
                kinds = [kind[severity]["top1"] for kind in noisy["noises"].values()]
                lost = "" if drop is None else f"; {100 * drop:.0f} % lost"
                shown = f"{100 * sum(kinds) / len(kinds):.1f}{lost}"
                fill(f"mean of {len(kinds)} noises, severity {severity}", column, shown)
        for pair, each in found.get("cka", {"maps": {}})["maps"].items():
            block = each["block"]
            shown = f"; block of {100 * block['share']:.0f} % of the layers" if block else ""
            mean = (block or each)["mean"]  # of a network with itself that of two different layers
            fill(f"CKA, {pair}", column, "" if mean is None else f"mean {mean:.2f}{shown}")
    lines = [f"| | {' | '.join(titles)} |", "|---|" + "---|" * len(results)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    sizes = [f"{result['evals']['robustness']['videos']}" for result in results]
    seconds = [sum(each["seconds"] for each in result["evals"].values()) / 60 for result in results]
    lines.append("")
    lines.append(
        f"Percent (95 % interval; chance); {' and '.join(sizes)} test videos, {' and '.join(_network(results))}, "
        f"{' and '.join(f'{minute:.0f}' for minute in seconds)} minutes on {results[0]['where']} of "
        f"{results[0]['environment']['processor']}; "
        + ", ".join(f"`benchmarks/results/{result['file']}`" for result in results)
        + "."
    )
    return "\n".join(lines)


def _network(results: list[dict[str, Any]]) -> list[str]:
    """Network, picture and seed of each, once where they are the same."""
    told = []
    for spec in (result["spec"] for result in results):
        seeds = spec["eval"]["seeds"]
        more = f", {seeds} fine-tunings" if seeds > 1 else ""
        told.append(f"{spec['backbone']['name']} at {spec['data']['size']} px, seed {spec['seed']}{more}")
    return list(dict.fromkeys(told))


def analysis() -> str:
    """What CKA costs beside its forward passes, and retrieval beside the plain ways."""
    cka, retrieval = newest("cka_cpu_*.json"), newest("retrieval_cpu_*.json")
    rows = {row["name"]: row for row in cka["rows"]}
    lines = ["| | ours | beside it |", "|---|---|---|"]
    ours, few, peer = (rows[name] for name in ("ours", "ours, few layers", "peer, few layers"))
    clip = cka["clip"]
    lines.append(
        f"| CKA of {len(cka['layers'])} layers of {cka['backbone']} with itself, minibatches of "
        f"{cka['batch']} clips of {clip[1]}x{clip[2]}x{clip[3]} | {_times(ours, 'wall')} times the forward passes "
        f"by the clock, {_times(ours, 'cpu')} in CPU time | pair by pair, as it is usually done, "
        f"{len(cka['few_layers'])} layers: "
        f"{_times(peer, 'wall')} and {_times(peer, 'cpu')} times (ours {_times(few, 'wall')} and "
        f"{_times(few, 'cpu')}) |"
    )
    rows = {row["name"]: row for row in retrieval["rows"]}
    ours, *others = (
        rows[name]
        for name in (
            "ours, with the mean of ten clips",
            "torch, topk",
            "NumPy, full stable sort",
            "product alone",
        )
    )
    beside = ", ".join(f"{row['name']} {row['seconds']:.2f} s" for row in others)
    lines.append(
        f"| the {retrieval['k']} nearest of {retrieval['queries']} videos among {retrieval['gallery']}, "
        f"{retrieval['clips']} clips of {retrieval['width']} numbers each | {ours['seconds']:.2f} s | {beside} |"
    )
    lines.append("")
    lines.append(
        f"Medians (p25 to p75) of pairs in one run, {cka['threads']} threads of {cka['environment']['cpu']}; "
        f"`benchmarks/results/{cka['file']}`, `benchmarks/results/{retrieval['file']}`."
    )
    return "\n".join(lines)


def _times(row: dict[str, Any], kind: str) -> str:
    """How many times what it is compared with a row takes, with the quartiles of the pairs."""
    ratio = row[f"{kind}_ratio"]
    return f"{row[f'{kind}_times_forward']:.2f} ({1 / ratio['p75']:.2f} to {1 / ratio['p25']:.2f})"


def _beside(value: float, interval: list[float], chance: float) -> str:
    low, high = interval
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f}; {100 * chance:.1f})"


TABLES = {
    "evals": evals,
    "analysis": analysis,
    "first-run": first_run,
    "decode": decode,
    "step": step,
    "peers": peers,
    "transforms": transforms,
    "augmentations": augmentations,
    "tasks": tasks,
    "tasks-real": tasks_real,
    "seeds": seeds,
}


def filled(text: str) -> str:
    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: ([a-z-]+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--record", type=Path, metavar="RUN", help="a finished run or evaluation")
    parser.add_argument("--name", default="first_run", help="of the result (default: %(default)s)")
    parser.add_argument("--where", default=f"{os.cpu_count()} cores", help="what that run had (default: %(default)s)")
    options = parser.parse_args()
    if options.record:
        record(options.record, options.where, options.name)
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = filled(old)
    if options.check:
        sys.exit(0 if new == old else "README.md differs from benchmarks/results: run tools/readme_tables.py")
    readme.write_text(new)


if __name__ == "__main__":
    main()
