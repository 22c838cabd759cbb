"""Subsets of a real prep: damaged and missing videos are stood in for, lists grow at their end, run takes the same."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.media import moving_square, write_video
from vidssl.cli import app
from vidssl.data import catalog, prep, prep_work, subset_lists
from vidssl.data.prep_plan import PrepPlan, choose
from vidssl.data.sources import Listing, Named, SourceFile, SourceVideo
from vidssl.data.store import open_store
from vidssl.data.subset_lists import read_list, subset_report, write_lists
from vidssl.data.work import Job
from vidssl.errors import ConfigError

from .official import write_k400
from .prepared import hashes, manifest
from .prepared import prep as prepared

CLASSES = {"a dance": 7, "b run": 2, "c swim": 6}
# numbers such that in the second round of 6 the damaged one comes first: breaking off after it must change nothing
FIRST = 30
ROWS = [
    (label, f"{label[0]}{FIRST + n:010d}", 0, 10, "train") for label, count in CLASSES.items() for n in range(count)
]
ROWS += [("a dance", f"t{0:010d}", 0, 10, "val")]
NAMES = {f"{video}_000000_000010": (label, split) for label, video, _, _, split in ROWS}


def splitmix(state: int) -> int:
    """The generator's output for a state after its increment, in Python's own integers."""
    z = state % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def expected_order(names: set[str]) -> list[str]:
    """Training videos in the order of the rule: in each class by the hash, then one of each class in turn."""
    ranked = []
    for number, label in enumerate(CLASSES):
        own = [name for name in names if NAMES[name] == (label, "train")]
        hashed = {
            n: splitmix(int.from_bytes(hashlib.sha256(n.encode()).digest()[:8], "little") + INCREMENT) for n in own
        }
        ranked += [(rank, number, name) for rank, name in enumerate(sorted(own, key=hashed.__getitem__))]
    return [name for _, _, name in sorted(ranked)]


INCREMENT = 0x9E3779B97F4A7C15
WHOLE = expected_order(set(NAMES))
MISSING = next(name for name in WHOLE if name.startswith("a"))  # the first of their classes: they would be taken
# the next of "a dance", and two of "c swim", of which the second stands in for the first
DAMAGED = [name for name in WHOLE if name.startswith("a")][1:2] + [name for name in WHOLE if name.startswith("c")][:3:2]
USABLE = expected_order({*NAMES} - {MISSING, *DAMAGED})


class OneByOne:
    """In place of the pool of processes, which takes longer to start than all this work takes."""

    def __init__(self, work: Callable[[Job], Any], workers: int) -> None:
        self._work = work

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *ended: object) -> None:
        pass

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        for job in jobs:
            yield job, self._work(job)


@pytest.fixture(scope="module", autouse=True)
def no_processes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prep_work, "WorkerPool", OneByOne)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen training videos, of which one is missing and three are damaged, and one test video. Read only."""
    source = write_k400(tmp_path_factory.mktemp("k400") / "source", ROWS)
    for number, name in enumerate(NAMES):
        if name in DAMAGED:
            (source / f"{name}.mp4").write_text("not found")
        elif name != MISSING:
            write_video(source / f"train/{name}.mp4", moving_square(9 + number, phase=number))
    write_video(source / "extra/nobody.mp4", moving_square(9))
    return source


@pytest.fixture(scope="module")
def stores(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The home of stores grown 6 -> 9 -> all, a copy of each stage, and what each prep said."""
    home = tmp_path_factory.mktemp("home")
    for size in (6, 9, None):
        summary = prepared(source, home / "data/k400", name="k400", dataset="k400", subset=size, shard_videos=4)
        shutil.copytree(home / "data/k400", home / f"stage{size}")
        (home / f"stage{size}.json").write_text(json.dumps(summary.to_json()))
    return {"home": home, **{str(size): home / f"stage{size}" for size in (6, 9, None)}}


def said(stores: dict[str, Path], size: int | None) -> dict[str, Any]:
    return json.loads((stores["home"] / f"stage{size}.json").read_text())


def test_the_next_of_their_class_stand_in_for_missing_and_damaged(stores: dict[str, Path]) -> None:
    assert read_list(stores["6"] / "subsets/6.txt") == USABLE[:6]
    store = open_store(stores["6"])
    assert set(store.ids) == {*USABLE[:6], f"t{0:010d}_000000_000010"}
    rows = manifest(stores["6"])
    assert set(rows) == {*store.ids, *DAMAGED}  # what is missing has no row
    report = said(stores, 6)
    assert (report["videos"], report["ok"], report["rejected"], report["skipped"]) == (10, 7, 3, 0)
    assert report["missing"] == 1
    assert report["subset"] == {
        "size": 6, "videos": 6, "classes": 3, "short": {}, "from_others": 0, "text": "3 classes 2", "missing": 1,
    }  # fmt: skip


def test_growing_only_adds_and_leaves_smaller_lists(stores: dict[str, Path]) -> None:
    lists = {size: stores[size] / "subsets" for size in ("6", "9", "None")}
    assert [sorted(path.name for path in lists[size].iterdir()) for size in lists] == [
        ["6.txt"], ["6.txt", "9.txt"], ["6.txt", "9.txt"],
    ]  # fmt: skip
    assert read_list(lists["9"] / "9.txt") == USABLE[:9]
    for size in ("9", "None"):
        assert (lists[size] / "6.txt").read_bytes() == (lists["6"] / "6.txt").read_bytes()
    assert (lists["9"] / "9.txt").read_bytes().startswith((lists["9"] / "6.txt").read_bytes())
    assert [said(stores, size)["skipped"] for size in (9, None)] == [10, 13]
    small, grown = hashes(stores["6"], "shards"), hashes(stores["9"], "shards")
    assert {name: grown[name] for name in small} == small
    # three of each are due, and "b run" has two
    assert said(stores, 9)["subset"]["short"] == {"b run": [2, 3]}
    assert said(stores, 9)["subset"]["text"] == "2 classes 3 to 4, 1 class 2; 1 taken from other classes"


def test_run_takes_what_prep_takes(stores: dict[str, Path]) -> None:
    for size in ("6", "9", "None"):
        store = open_store(stores[size])
        assert {store.ids[row] for row in catalog.training_rows(store, "6")} == set(USABLE[:6])


def test_lists_of_the_source(stores: dict[str, Path]) -> None:
    for size in ("6", "9", "None"):
        assert (stores[size] / "missing.txt").read_text() == f"{MISSING}\n"
        assert (stores[size] / "unlisted.txt").read_text() == "extra/nobody.mp4\n"


def test_a_video_that_turns_up_takes_its_place(source: Path, stores: dict[str, Path], tmp_path: Path) -> None:
    complete, store = shutil.copytree(source, tmp_path / "source"), shutil.copytree(stores["6"], tmp_path / "store")
    write_video(complete / f"{MISSING}.mp4", moving_square(9))
    shutil.rmtree(complete / "extra")
    summary = prepared(complete, store, name="k400", dataset="k400", subset=6, shard_videos=4)
    assert read_list(store / "subsets/6.txt") == expected_order({*NAMES} - {*DAMAGED})[:6]
    assert summary.missing == 0
    assert not (store / "missing.txt").exists()
    assert not (store / "unlisted.txt").exists()


def test_what_the_source_lost_and_the_store_holds_is_not_missing(
    source: Path, stores: dict[str, Path], tmp_path: Path
) -> None:
    poorer, store = shutil.copytree(source, tmp_path / "source"), shutil.copytree(stores["6"], tmp_path / "store")
    (poorer / f"train/{USABLE[0]}.mp4").unlink()
    summary = prepared(poorer, store, name="k400", dataset="k400", subset=6, shard_videos=4)
    assert summary.missing == 2
    assert (store / "missing.txt").read_text() == f"{MISSING}\n"
    assert read_list(store / "subsets/6.txt") == USABLE[:6]


def test_broken_off_after_every_shard_it_ends_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, store = tmp_path / "whole", tmp_path / "store"
    settings: dict[str, Any] = {"name": "k400", "dataset": "k400", "subset": 6, "shard_videos": 1}
    prepared(source, whole, **settings)
    work = prep.work

    def one_shard(store: Path, plan: PrepPlan, *arguments: Any, **options: Any) -> int:
        if plan.jobs:
            work(store, replace(plan, jobs=plan.jobs[:1]), *arguments, **options)
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(prep, "work", one_shard)
    breaks = len(list((whole / "shards").glob("*.tar")))
    for _ in range(breaks):
        with pytest.raises(KeyboardInterrupt):
            prepared(source, store, **settings)
    prepared(source, store, **settings)
    assert breaks > 7  # in three rounds
    assert hashes(store) == hashes(whole)


def test_a_subset_that_cannot_be_full(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 14 training videos \(1 more are named by its tables and missing\)"):
        prepared(source, tmp_path / "store", dataset="k400", subset=15)
    summary = prepared(source, tmp_path / "store", dataset="k400", subset=14)
    assert not (tmp_path / "store/subsets").exists()
    assert "subset 14 is not full: only 11 of its videos can be used" in summary.notes()


def test_standard_sizes_that_fit_have_lists(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset_lists, "STANDARD_SIZES", (2, 11, 12))
    store = shutil.copytree(stores["None"], tmp_path / "store")
    write_lists(store, Listing([]), None)
    assert sorted(path.name for path in (store / "subsets").iterdir()) == ["11.txt", "2.txt", "6.txt", "9.txt"]
    assert read_list(store / "subsets/11.txt") == USABLE
    before = {path: path.stat().st_mtime_ns for path in (store / "subsets").iterdir()}
    write_lists(store, Listing([]), None)
    assert {path: path.stat().st_mtime_ns for path in (store / "subsets").iterdir()} == before


def test_list_data_shows_the_hashes(stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDSSL_HOME", str(stores["home"]))
    digests = {n: hashlib.sha256((stores["None"] / f"subsets/{n}.txt").read_bytes()).hexdigest() for n in ("6", "9")}
    row = json.loads(CliRunner().invoke(app, ["list", "data", "--json"]).stdout)[0]
    assert row["subsets"] == {n: {"videos": int(n), "sha256": digest} for n, digest in digests.items()}
    shown = CliRunner().invoke(app, ["list", "data"]).stdout
    assert f"6 {digests['6'][:8]}, 9 {digests['9'][:8]}" in shown


def test_names_with_line_ends_stay_one_line(tmp_path: Path) -> None:
    odd = ["a\nb.mp4", "a\\nb.mp4", "c\r.mp4"]
    videos = [SourceVideo(n, SourceFile(n, tmp_path / n), problem="the file is missing") for n in odd]
    write_lists(tmp_path, Listing(videos), None)
    assert read_list(tmp_path / "missing.txt") == sorted(odd)


def test_a_report_counts_missing_classes(tmp_path: Path) -> None:
    """Class "y" is named by the tables, and not one of its videos is there."""
    videos = [SourceVideo(f"x{n}", SourceFile("", tmp_path), "x", "train") for n in range(4)]
    listing = Listing(videos, classes=["x", "y"], missing=[Named(f"y{n}", "y", "train") for n in range(4)])
    report = subset_report(listing, {"x0", "x1", "x2", "x3"}, 4)
    assert report["text"] == "1 class 4, 1 class 0; 2 taken from other classes"
    assert (report["short"], report["missing"]) == ({"y": [0, 2]}, 2)


def test_videos_with_a_problem_are_no_candidates(tmp_path: Path) -> None:
    """Those of UCF101, HMDB51 and one's own tables are in the listing, and have rows where everything is prepared."""
    videos = [SourceVideo(f"x{n}", SourceFile("", tmp_path), "x", "train") for n in range(6)]
    first, *_ = choose(Listing(videos), 1)
    lacking = Listing([replace(v, problem="missing") if v is first else v for v in videos])
    assert len(choose(lacking, 5)) == 5
    assert first.id not in {video.id for video in choose(lacking, 5)}
    assert len(choose(lacking, None)) == 6
    with pytest.raises(ConfigError, match=r"5 training videos \(1 more"):
        choose(lacking, 6)
