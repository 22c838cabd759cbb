"""Kinetics-400 and Something-Something V2 at their real size, as tables and names of files; no video in them.

python -m tests.data.at_scale k400 FOLDER     reads the tables in FOLDER and chooses the subsets in a process of its
                                              own; the last line of its output is its time and peak memory as JSON
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from vidssl.data.datasets import annotated, k400, ssv2
from vidssl.data.prep_plan import choose
from vidssl.data.sources import Listing, SourceFile, SourceFiles

READERS: dict[str, ModuleType] = {"k400": k400, "ssv2": ssv2}
SIZES = (10_000, 30_000, 50_000, 100_000)
PARTS = {"k400": {"train": 220_000, "val": 20_000}, "ssv2": {"train": 168_000, "validation": 25_000, "test": 27_000}}
MISSING = 0.03  # of CVDF's K400 2.5 % of the training videos are missing
_LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))


def write(dataset: str, folder: Path, scale: float = 1.0) -> list[str]:
    """Writes the tables, and returns names of video files in class folders or one for all; some are missing."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    return (_k400 if dataset == "k400" else _ssv2)(folder, parts_of(dataset, scale), rng)


def parts_of(dataset: str, scale: float = 1.0) -> dict[str, int]:
    """Rows of each table."""
    return {part: max(400, int(rows * scale)) for part, rows in PARTS[dataset].items()}


def _labels(rng: np.random.Generator, rows: int, classes: int) -> np.ndarray:
    """Every class at least once, the largest about four times the smallest (K400 has 250 to 1,000 a class)."""
    weights = rng.uniform(1, 4, classes)
    drawn = rng.choice(classes, rows - classes, p=weights / weights.sum())
    return rng.permutation(np.concatenate([np.arange(classes), drawn]))


def _k400(folder: Path, parts: dict[str, int], rng: np.random.Generator) -> list[str]:
    names = []
    for part, rows in parts.items():
        ids = _LETTERS[rng.integers(0, 64, (rows, 11))].view("U11").ravel()
        with (folder / f"{part}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["label", "youtube_id", "time_start", "time_end", "split", "is_cc"])
            for video, label, start in zip(ids, _labels(rng, rows, 400), rng.integers(0, 600, rows), strict=True):
                table.writerow([f"class {label:03d}", video, start, start + 10, part, 0])
                if rng.random() >= MISSING:
                    names.append(f"{part}/class_{label:03d}/{video}_{start:06d}_{start + 10:06d}.mp4")
    return names


def _ssv2(folder: Path, parts: dict[str, int], rng: np.random.Generator) -> list[str]:
    ids = [str(number) for number in rng.permutation(sum(parts.values())) + 1]
    (folder / "labels.json").write_text(json.dumps({f"Doing {n:03d} to something": str(n) for n in range(174)}))
    first = 0
    for part, rows in parts.items():
        own, first = ids[first : first + rows], first + rows
        table: list[dict[str, object]] = [{"id": number} for number in own]
        if part != "test":
            for row, label in zip(table, _labels(rng, rows, 174), strict=True):
                row |= {
                    "label": "doing as said",
                    "template": f"Doing {label:03d} to [something]",
                    "placeholders": ["it"],
                }
        (folder / f"{part}.json").write_text(json.dumps(table, indent=0))
    return [f"videos/{number}.webm" for number in ids if rng.random() >= MISSING]


def make_files(folder: Path, names: list[str]) -> None:
    """Empty files of these names."""
    for parent in {name.rpartition("/")[0] for name in names}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def list_given(dataset: str, folder: Path, names: list[str]) -> Listing:
    """The listing of a source that has the tables in a folder, and files of these names without a disk."""
    reader = READERS[dataset]
    tables = {file.stem: SourceFile(file.name, file) for file in sorted(folder.glob("*.*")) if file.is_file()}
    tables.pop("names", None)
    if dataset == "k400":
        tables["validation"] = tables.pop("val")
    files = {table.id: table for table in tables.values()} | {name: SourceFile(name, folder / name) for name in names}
    return annotated.match(SourceFiles(folder, files), reader.read(tables), reader.ORIGIN, len(tables))


def choose_all(listing: Listing) -> dict[int, set[str]]:
    """Training videos of the sizes that the source can fill."""
    training = {video.id for video in listing.videos if video.split == "train"}
    sizes = [size for size in SIZES if size <= len(training)] or [len(training) // 2]
    return {size: {video.id for video in choose(listing, size)} & training for size in sizes}


def peak_mib() -> int:
    """Of this program; `getrusage` would count what its parent had when it started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024


def main(dataset: str, folder: Path) -> None:
    names = (folder / "names.txt").read_text().split("\n")
    begun, cpu = time.monotonic(), time.process_time()
    listing = list_given(dataset, folder, names) if names != [""] else READERS[dataset].list_videos(folder)
    choose_all(listing)
    used = {"seconds": round(time.monotonic() - begun, 2), "cpu_seconds": round(time.process_time() - cpu, 2)}
    print(json.dumps({**used, "peak_mib": peak_mib(), "videos": len(listing.videos)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
