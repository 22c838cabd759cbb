"""`vidssl prep DATASET` without --source: the one used last, the usual place, or the three ways and a question."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.media import moving_square, write_video
from tests.test_cli import vidssl
from vidssl.data.addresses import ORIGINS, check_mirror, rebased
from vidssl.data.datasets import DATASETS
from vidssl.data.discovery import estimate, find_source, parse_bytes, remember
from vidssl.errors import ConfigError, EnvironmentProblem


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


def test_source_is_remembered_and_told(videos: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ("prep", "folder", "--name", "mine", "--short-side", "48", "--workers", "1")
    refused = vidssl(*words, "--source", tmp_path / "nowhere", home=home)
    assert refused.returncode == 2
    assert not home.exists(), "what failed is not remembered"
    done = vidssl(*words, "--source", videos, "--dry-run", home=home)
    assert done.returncode == 0, done.stderr
    assert not home.exists()
    done = vidssl(*words, "--source", videos, home=home)
    assert done.returncode == 0, done.stderr
    again = vidssl(*words, "--json", home=home)
    assert again.returncode == 0, again.stderr
    assert f"source: {videos} (used last)" in again.stderr
    summary = json.loads(again.stdout)
    assert (summary["ok"], summary["skipped"]) == (2, 2)
    other = vidssl(*words[:2], "--name", "other", home=home)
    assert other.returncode == 2
    assert "no source for 'other'" in other.stderr


def test_no_source_and_no_terminal(tmp_path: Path) -> None:
    done = vidssl("prep", "ucf101", home=tmp_path / "home")
    assert done.returncode == 2
    for text in (
        "1. folder",
        "2. archives",
        "3. download",
        "--source DIR",
        "UCF101.rar",
        "6.5 GB",
        "--yes",
        "no terminal",
    ):
        assert text in done.stderr, text
    assert str(tmp_path / "home" / "sources" / "ucf101") in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


def test_behind_a_form(tmp_path: Path) -> None:
    done = vidssl("prep", "hmdb51", home=tmp_path / "home")
    assert done.returncode == 2
    assert "hmdb51_org.rar" in done.stderr
    assert ORIGINS["hmdb51"].page in done.stderr
    assert "--yes" not in done.stderr
    done = vidssl("prep", "hmdb51", "--download", home=tmp_path / "home")
    assert done.returncode == 2
    assert "cannot be downloaded" in done.stderr
    assert ORIGINS["hmdb51"].page in done.stderr


@pytest.mark.parametrize("answer", ["n", ""])
def test_asks_on_a_terminal(answer: str, tmp_path: Path) -> None:
    terminal, theirs = pty.openpty()
    environment = {**os.environ, "VIDSSL_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
    running = subprocess.Popen(
        [sys.executable, "-m", "vidssl", "prep", "ucf101"],
        stdin=theirs,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    os.write(terminal, f"{answer}\n".encode())
    _, err = running.communicate(timeout=60)
    os.close(terminal)
    os.close(theirs)
    assert running.returncode == 2
    assert "Download it now?" in err
    assert "nothing was downloaded" in err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("ucf101", "--mirror", "http://x"), "--download"),
        (("ucf101", "--download", "--source", "x"), "one of the two"),
        (("ucf101", "--download", "--mirror", "/mnt/x"), "http://"),
        (("ucf101", "--download", "--max-disk", "much"), "200GB"),
        (("embedded", "--download"), "rendered"),
        (("folder", "--download", "--name", "x"), "--source DIR"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = vidssl("prep", *words, home=tmp_path / "home")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


# ---- figures and addresses


def test_every_official_set_has_an_origin() -> None:
    assert set(ORIGINS) >= set(DATASETS.names()) - {"folder", "embedded"}


def test_estimate_of_k400() -> None:
    """By hand: 50,000 of 240,258 training videos and all 19,881 of the test split, 10 s each, 28,043 bytes a second;
    0.031 s of work a second in 2 processes; the sum of the bytes of all parts at 50 MB/s."""
    public = ORIGINS["k400"].public
    assert public is not None
    fetches, keeps, takes = estimate(public, 50_000, 128, "h264", 2, 20 * 10**9)
    assert fetches.split()[1:6] == ["411.2", "GB", "in", "263", "archives,"]
    assert "at most 20 GB" in fetches
    assert keeps == "keeps   about 69,881 of 260,139 videos, about 19.6 GB"
    assert takes.startswith("takes   2.3 h at 50 MB/s; meanwhile about 3.0 h ")
    assert "260,139 of 260,139" in estimate(public, None, 128, "h264", 2, 10**9)[1]


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
