"""`vidssl prep DATASET` without --source: the one used last, the usual place, or the three ways and a question."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.media import moving_square, write_video
from tests.test_cli import vidssl
from vidssl.data import parts
from vidssl.data.addresses import ORIGINS, check_mirror, rebased
from vidssl.data.datasets import DATASETS
from vidssl.data.discovery import estimate, find_source, parse_bytes, remember
from vidssl.data.download_checks import refusals
from vidssl.data.kept import folder_for
from vidssl.data.member_lists import list_of
from vidssl.data.prep_checks import meta_for
from vidssl.data.prep_summary import PrepSummary
from vidssl.data.verb import prep_verb
from vidssl.errors import ConfigError, DataError, EnvironmentProblem, VidsslError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# ---- where a source is


def test_nothing_known(home: Path) -> None:
    assert find_source("k400", None) == (None, "none was used before")
    assert find_source("k400", Path("x")) == (Path("x"), "")


def test_used_last_then_usual_place(home: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        remember("k400", folder)
    remember("ssv2", first)
    assert find_source("k400", None) == (second, "used last")
    assert find_source("ssv2", None) == (first, "used last")
    second.rmdir()
    found, why = find_source("k400", None)
    assert found is None
    assert str(second) in why
    usual = home / "sources" / "k400"
    usual.mkdir(parents=True)
    assert find_source("k400", None)[0] is None  # an empty folder is no source
    (usual / "train.csv").touch()
    found, why = find_source("k400", None)
    assert found == usual
    assert str(second) in why, "that another one was expected must not go unsaid"


def test_relative_source_is_found_from_elsewhere(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    remember("k400", Path("here"))
    monkeypatch.chdir("/")
    assert find_source("k400", None)[0] == tmp_path / "here"


def test_damaged_memory_is_told(home: Path) -> None:
    home.mkdir()
    (home / "sources.json").write_text("{")
    with pytest.raises(EnvironmentProblem, match=r"sources\.json.*cannot be read"):
        find_source("k400", None)


# ---- the verb


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        write_video(folder / name / "1.mp4", moving_square(12))
    return folder


def verb(dataset: str, **options: Any) -> None:
    """The verb with the command line's defaults, small pictures and one process."""
    fixed: dict[str, Any] = dict.fromkeys(("source", "name", "subset", "mirror"))
    fixed |= {"short_side": 48, "fit": "cover", "format": "h264", "workers": 1, "dry_run": False, "as_json": False}
    fixed |= {"download": False, "max_disk": "20GB", "yes": False}
    prep_verb(dataset, **{**fixed, **options})


def test_source_is_remembered_and_told(
    videos: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="nowhere"):
        verb("folder", name="mine", source=tmp_path / "nowhere")
    assert not (home / "sources.json").exists(), "what failed is not remembered"
    verb("folder", name="mine", source=videos, dry_run=True)
    assert not (home / "sources.json").exists()
    verb("folder", name="mine", source=videos)
    capsys.readouterr()
    verb("folder", name="mine", as_json=True)
    shown = capsys.readouterr()
    assert f"source: {videos} (used last)" in shown.err
    summary = json.loads(shown.out)
    assert (summary["ok"], summary["skipped"]) == (2, 2)
    with pytest.raises(ConfigError, match="no source for 'other'"):
        verb("folder", name="other")


def test_no_source_and_no_terminal(tmp_path: Path) -> None:
    done = vidssl("prep", "ucf101", "--subset", "5k", home=tmp_path / "home")
    assert done.returncode == 2
    for text in (
        "1. folder", "2. archives", "3. download  vidssl prep ucf101 --subset 5k --download", "--source DIR",
        "UCF101.rar", "6.5 GB", "--yes", "no terminal", str(tmp_path / "home" / "sources" / "ucf101"),
    ):  # fmt: skip
        assert text in done.stderr, text
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("dataset", [name for name, origin in ORIGINS.items() if origin.public is None])
def test_behind_a_form(dataset: str, home: Path) -> None:
    origin = ORIGINS[dataset]
    for options in ({}, {"download": True}, {"download": True, "dry_run": True}, {"yes": True}):
        with pytest.raises(ConfigError) as caught:
            verb(dataset, **options)
        for text in (origin.page, origin.files, origin.terms, "--source DIR"):
            assert text in str(caught.value)
        assert "--yes" not in str(caught.value)
    assert not home.exists()


def test_no_standard_input(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)  # as of `vidssl prep k400 <&-`
    with pytest.raises(ConfigError, match="no terminal to ask on"):
        verb("k400")


@pytest.mark.parametrize("options", [{"download": True}, {}])
def test_dry_run_of_a_download_as_json(
    options: dict[str, bool], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand as in `test_estimate_of_k400`."""
    verb("k400", subset="50k", short_side=128, workers=2, dry_run=True, as_json=True, **options)
    told = json.loads(capsys.readouterr().out)
    figures = told["download"]
    assert (told["dataset"], told["dry_run"], figures["archives"]) == ("k400", True, 263)
    assert (figures["videos"], figures["all_videos"]) == (69_881, 260_139)
    assert figures["kept_bytes"] == 69_881 * 10 * 28_043
    assert figures["transcode_seconds"] == pytest.approx(69_881 * 10 * 0.031 / 2)
    assert figures["transfer_seconds"] == pytest.approx(figures["fetched_bytes"] / 50e6)
    assert not home.exists()


def test_answers_on_a_terminal(home: Path) -> None:
    terminal, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-m", "vidssl", "prep", "ucf101"]
    running = subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE, env=environment, text=True)
    os.write(terminal, b"\n")
    _, err = running.communicate(timeout=60)
    os.close(terminal)
    os.close(theirs)
    assert running.returncode == 2
    assert "fetches 6.5 GB" in err
    assert "Download it now?" in err
    assert "nothing was downloaded" in err
    assert not home.exists()


@pytest.mark.parametrize("consent", [{"yes": True}, {"download": True}, {"tty": True}])
def test_consent_downloads(
    consent: dict[str, bool],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gigabytes: Callable[[float], None],
) -> None:
    gigabytes(40)
    fetched: list[dict[str, Any]] = []

    def prepare_downloaded(**options: Any) -> PrepSummary:
        fetched.append(options)
        return PrepSummary(dry_run=True)

    monkeypatch.setattr(parts, "prepare_downloaded", prepare_downloaded)
    if consent.pop("tty", False):
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    verb("k400", subset="50k", max_disk="200GB", **consent)
    (options,) = fetched
    assert (options["dataset"], options["name"], options["subset"]) == ("k400", "k400", 50_000)
    assert options["max_disk"] == 200 * 10**9
    fetched.clear()
    capsys.readouterr()
    verb("k400", dry_run=True, **consent)
    assert not fetched
    assert "fetches 411.2 GB in 263 archives" in capsys.readouterr().err


@pytest.fixture
def gigabytes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets what is free on every disk."""
    usage = shutil.disk_usage("/")
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=round(free * 1e9)))


@pytest.mark.parametrize(
    ("max_disk", "free", "says"),
    [
        # 260,139 videos of 10 s and 28,043 bytes a second: 72.95 GB, twice; the archive of replacements has 10.5 GB
        ("10GB", 200, r"--max-disk 10 GB is too little .*replacement.* takes 10\.5 GB\. Give at least --max-disk 11GB"),
        ("11GB", 145, r"145\.0 GB free, and about 145\.9 GB more are needed"),
    ],
)
def test_a_download_that_cannot_fit_is_refused_before_it_begins(
    max_disk: str, free: float, says: str, home: Path, gigabytes: Callable[[float], None], capsys: Any
) -> None:
    gigabytes(free)
    options: dict[str, Any] = {"download": True, "short_side": 128, "max_disk": max_disk}
    with pytest.raises(VidsslError, match=says):
        verb("k400", **options)
    assert not home.exists()
    verb("k400", dry_run=True, as_json=True, **options)
    told = capsys.readouterr()
    (refused,) = json.loads(told.out)["refused"]
    assert re.search(says, refused)
    assert f"it would be refused: {refused}" in told.err


def test_what_is_here_already_needs_no_room(home: Path, gigabytes: Callable[[float], None]) -> None:
    meta = meta_for("k400", "h264", "cover", 128)
    public = ORIGINS["k400"].public
    assert public is not None
    figures = estimate(public, 1_000, 128, "h264", 1, 10**9)  # and 19,881 tests, 280,430 bytes each
    downloads, shards = home / "downloads" / "k400", home / "data" / "k400" / "shards"
    seen, kept = downloads / "source" / "replacement", downloads / "kept" / folder_for(meta)
    for folder in (seen, kept, shards):
        folder.mkdir(parents=True)
    list_of(seen / "replacement_for_corrupted_k400.tgz").touch()
    for number in range(81):
        (kept / f"{number:08d}.json").touch()
    pq.write_table(pa.table({"path": range(20_000)}), shards / "000000.parquet")
    gigabytes(0.472)
    assert not refusals("k400", meta, figures, 2 * 10**9)
    gigabytes(0.471)
    (problem,) = refusals("k400", meta, figures, 2 * 10**9)  # 881 to be stored, 800 of them to be kept before
    assert "about 0.5 GB more" in str(problem)
    pq.write_table(pa.table({"path": range(20_881)}), shards / "000000.parquet")
    gigabytes(0)
    assert not refusals("k400", meta, figures, 2 * 10**9)


@pytest.mark.parametrize(
    ("dataset", "options", "says"),
    [
        ("ucf101", {"mirror": "http://x"}, "--download"),
        ("ucf101", {"download": True, "source": Path("x")}, "one of the two"),
        ("ucf101", {"download": True, "mirror": "/mnt/x"}, "http://"),
        ("ucf101", {"download": True, "max_disk": "much"}, "200GB"),
        ("ucf101", {"download": True, "format": "h265"}, "h264"),
        ("k400", {"format": "h265"}, "h264"),
        ("k400", {"short_side": -5}, "32 to 1080"),
        ("k400", {"short_side": 0}, "32 to 1080"),
        ("embedded", {"short_side": 0}, "32 to 1080"),
        ("k400", {"workers": -2}, "1 or more"),
        ("embedded", {"download": True}, "rendered"),
        ("folder", {"download": True, "name": "x"}, "--source DIR"),
        ("folder", {}, "--source DIR and --name NAME"),
    ],
)
def test_mistakes(dataset: str, options: dict[str, Any], says: str, home: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        verb(dataset, **options)
    assert not home.exists()


# ---- figures and addresses


def test_every_official_set_has_an_origin() -> None:
    assert set(ORIGINS) >= set(DATASETS.names()) - {"folder", "embedded"}


def test_estimate_of_k400() -> None:
    """By hand: 50,000 of 240,258 training videos and all 19,881 of the test split, 10 s each, 28,043 bytes a second;
    0.031 s of work a second in 2 processes; the sum of the bytes of all parts at 50 MB/s."""
    public = ORIGINS["k400"].public
    assert public is not None
    fetches, keeps, takes = estimate(public, 50_000, 128, "h264", 2, 20 * 10**9).lines()
    assert fetches.split()[1:6] == ["411.2", "GB", "in", "263", "archives,"]
    assert "at most 20 GB" in fetches
    assert keeps == "keeps   about 69,881 of 260,139 videos, about 19.6 GB (twice that while the store is written)"
    assert takes.startswith("takes   2.3 h at 50 MB/s; meanwhile about 3.0 h to transcode in 2 processes")
    assert "260,139 of 260,139" in estimate(public, None, 128, "h264", 2, 10**9).lines()[1]


def test_sizes_as_people_write_them() -> None:
    assert parse_bytes("200GB") == 200 * 10**9
    assert parse_bytes("1.5 tb") == 1_500 * 10**9
    assert parse_bytes("500M") == 500 * 10**6
    assert parse_bytes("42") == 42
    for wrong in ("", "GB", "-1GB", "0GB", "ten"):
        with pytest.raises(ConfigError, match="200GB"):
            parse_bytes(wrong)


def test_mirror_takes_the_place_of_the_base() -> None:
    public = ORIGINS["k400"].public
    assert public is not None
    original = "https://s3.amazonaws.com/kinetics/400/train/part_0.tar.gz"
    assert rebased("train/part_0.tar.gz", public, None) == original
    assert rebased(original, public, None) == original
    assert rebased(original, public, "http://mirror/k") == "http://mirror/k/train/part_0.tar.gz"
    assert (
        rebased(original.replace("https", "http"), public, "http://mirror/k/") == "http://mirror/k/train/part_0.tar.gz"
    )
    assert rebased("https://elsewhere/x.tar.gz", public, "http://mirror/k") == "https://elsewhere/x.tar.gz"
    with pytest.raises(ConfigError, match="--source"):
        check_mirror("file:///mnt/k400")
