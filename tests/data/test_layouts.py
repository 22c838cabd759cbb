"""How folders without tables are read, and what prep says of a store whose source has become another."""

from __future__ import annotations

import json
import random
import shutil
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vidssl.cli import app
from vidssl.data.datasets import ucf101
from vidssl.data.datasets.folder import list_videos
from vidssl.data.store import open_store
from vidssl.errors import ConfigError, DataError

from .prepared import prep


def lay(root: Path, names: str) -> Path:
    for name in names.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"0")
    return root


def read(root: Path) -> dict[str, tuple[str | None, str]]:
    return {video.id: (video.label, video.split) for video in list_videos(root).videos}


def test_a_folder_around_the_class_folders_is_no_class(tmp_path: Path) -> None:
    root = lay(tmp_path / "videos", "UCF-101/Archery/v1.mp4 UCF-101/Basketball/v2.mp4")
    expected = {"UCF-101/Archery/v1.mp4": ("Archery", ""), "UCF-101/Basketball/v2.mp4": ("Basketball", "")}
    assert read(root) == expected
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as tar:
        tar.add(root / "UCF-101", "UCF-101")
    assert read(tmp_path / "packed.tar.gz") == expected


def test_one_class_alone_stays_a_class(tmp_path: Path) -> None:
    assert read(lay(tmp_path, "jump/v1.mp4 jump/v2.mp4")) == {"jump/v1.mp4": ("jump", ""), "jump/v2.mp4": ("jump", "")}


def test_train_and_val_are_parts_and_not_classes(tmp_path: Path) -> None:
    root = lay(tmp_path, "train/run/v1.mp4 train/jump/v2.mp4 val/run/v3.mp4")
    assert read(root) == {
        "train/jump/v2.mp4": ("jump", "train"),
        "train/run/v1.mp4": ("run", "train"),
        "val/run/v3.mp4": ("run", "test"),
    }
    lay(root, "test/v4.mp4")  # as Kinetics' own, without classes
    listing = list_videos(root)
    assert [video.id for video in listing.videos if video.split == "test"] == ["val/run/v3.mp4"]
    assert listing.unused == {"in test/, where val/ is what is tested on": 1}


def test_classes_called_train_and_bus_are_classes(tmp_path: Path) -> None:
    root = lay(tmp_path, "train/v1.mp4 bus/v2.mp4")
    assert {label for label, _ in read(root).values()} == {"train", "bus"}


def test_a_cut_archive_is_named_where_the_lists_in_it_are_missing(tmp_path: Path) -> None:
    root = lay(tmp_path / "videos", "Archery/v_Archery_g01_c01.avi")
    (root / "Archery" / "v_Archery_g01_c02.avi").write_bytes(random.Random(0).randbytes(200_000))
    with tarfile.open(tmp_path / "ucf.tar.gz", "w:gz") as tar:
        tar.add(root, "UCF101")
    whole = (tmp_path / "ucf.tar.gz").read_bytes()
    (tmp_path / "ucf.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"holds no UCF101 lists.*On the archives: archive ucf\.tar\.gz"):
        ucf101.list_videos(tmp_path / "ucf.tar.gz")


@pytest.fixture(scope="module")
def moved(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store, and its source after one of the videos was moved to another class."""
    folder = tmp_path_factory.mktemp("moved")
    source, store = folder / "source", folder / "store"
    shutil.copytree(tiny_source, source)
    for table in source.glob("*.csv"):
        table.unlink()
    prep(source, store)
    video = min(source.rglob("*.mp4"))
    other = max(source.rglob("*.mp4")).parent
    assert other != video.parent
    video.rename(other / "moved.mp4")
    return source, store


def test_videos_that_the_source_lost_are_told(moved: tuple[Path, Path]) -> None:
    source, store = moved
    before = set(open_store(store).ids)
    summary = prep(source, store, dry_run=True)
    assert len(summary.strangers) == 1
    again = prep(source, store)
    assert again.strangers == summary.strangers
    assert set(again.strangers) < before
    told = [line for line in again.notes() if "also holds 1 videos that this source does not name" in line]
    assert len(told) == 1
    assert again.strangers[0] in told[0]
    assert json.loads(json.dumps(again.to_json()))["strangers"] == 1


def test_another_source_under_the_same_name_is_refused(moved: tuple[Path, Path], tmp_path: Path) -> None:
    _, store = moved
    before = {path.name: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="this source names none of them"):
        prep(lay(tmp_path, "other/v1.mp4"), store)
    assert {path.name: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["folder", "--name", "x", "--source", ""], "--source is empty"),
        (["folder", "--name", "x", "--source", "a", "--source", "b"], "given 2 times (a, b)"),
        (["--verify", "x", "--subset", "9", "--source", "a"], "none of --source, --subset"),
    ],
)
def test_options_that_would_be_passed_over_are_refused(words: list[str], expected: str) -> None:
    done = CliRunner().invoke(app, ["prep", *words])
    assert isinstance(done.exception, ConfigError)
    assert expected in str(done.exception)
