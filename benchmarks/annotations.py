"""Official tables at their real size: 240,000 rows of Kinetics-400, 220,000 of Something-Something V2.

    python benchmarks/annotations.py

Tables are generated in the official forms, and 3 % of the videos are missing. "listed from disk" reads the tables and
finds the videos among real, empty files in class folders (K400) or in one (SSv2); "files given" is the same without the
disk; "one subset" is the choice of 50,000 videos out of that. "bare" parses the same tables with csv or json and walks
the same folder, and keeps nothing: the floor. A unit is 1,000 rows of the tables.

`sizes` says for each data set what was asked of it: seconds of everything ("listed from disk" and the choice of 10k,
30k, 50k and 100k) and the peak memory of a process that does it and nothing else, imports included.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Candidate, parser, run

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.data.at_scale import READERS, list_given, make_files, parts_of, write  # noqa: E402
from vidssl.data.prep_plan import choose  # noqa: E402
from vidssl.data.sources import Listing  # noqa: E402


class Job:
    """One data set: its folder, and what the candidates do with it."""

    def __init__(self, dataset: str, folder: Path, smoke: bool) -> None:
        self.dataset, self.folder = dataset, folder
        scale = 0.02 if smoke else 1.0
        self.names = write(dataset, folder, scale)
        self.rows = sum(parts_of(dataset, scale).values())
        make_files(folder, self.names)
        self.listing = READERS[dataset].list_videos(folder)
        self.size = min(50_000, len(self.listing.videos) // 4)

    def table(self) -> list[Candidate]:
        made = [
            ("bare", self.bare, "the floor"),
            ("listed from disk", self.from_disk, ""),
            ("files given", self.given, ""),
            ("one subset", self.subset, ""),
        ]
        return [
            Candidate(f"{self.dataset}: {name}", open, note, against=f"{self.dataset}: bare", group=self.dataset)
            for name, open, note in made
        ]

    def bare(self) -> Callable[[int], float]:
        def call(number: int) -> int:
            for file in self.folder.glob("*.csv"):
                with file.open(newline="") as rows:
                    sum(1 for _ in csv.reader(rows))
            for file in self.folder.glob("*.json"):
                json.loads(file.read_bytes())
            sum(len(files) for _, _, files in os.walk(self.folder))
            return self.rows / 1000

        return call

    def from_disk(self) -> Callable[[int], float]:
        return lambda number: self.check(READERS[self.dataset].list_videos(self.folder))

    def given(self) -> Callable[[int], float]:
        return lambda number: self.check(list_given(self.dataset, self.folder, self.names))

    def subset(self) -> Callable[[int], float]:
        def call(number: int) -> int:
            taken = [video for video in choose(self.listing, self.size) if video.split == "train"]
            assert len(taken) == self.size
            return self.rows / 1000

        return call

    def check(self, listing: Listing) -> float:
        assert [video.id for video in listing.videos] == [video.id for video in self.listing.videos]
        return self.rows / 1000

    def everything(self) -> dict[str, Any]:
        """Time and memory of a process of its own."""
        (self.folder / "names.txt").write_text("")  # which says: from disk
        command = [sys.executable, "-m", "tests.data.at_scale", self.dataset, str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        (self.folder / "names.txt").unlink()
        return {"rows": self.rows, "files": len(self.names), **json.loads(done.stdout.splitlines()[-1])}


def main() -> int:
    options = parser(__doc__)
    options.set_defaults(iterations=5, warm_up=1)
    chosen: argparse.Namespace = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Job(dataset, Path(folder) / dataset, chosen.smoke) for dataset in READERS]
        gc.collect()
        gc.freeze()  # what the benchmark itself holds costs no prep anything

        def sizes(result: dict) -> None:
            result["sizes"] = {job.dataset: job.everything() for job in jobs}
            for row in result["rows"]:
                if not row["error"]:
                    rows = result["sizes"][row["name"].partition(":")[0]]["rows"]
                    row["seconds"] = round(row["wall_ms_per_krow"]["median"] * rows / 1e6, 2)
            result["show"] = ["seconds"]

        table = [candidate for job in jobs for candidate in job.table()]
        return run(chosen, "annotations", table, "krow", table[0].name, sizes)


if __name__ == "__main__":
    raise SystemExit(main())
