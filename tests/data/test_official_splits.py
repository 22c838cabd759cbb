"""Stores of several official splits: each opens with exactly its rows, however the store came about."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vidssl.data import catalog
from vidssl.data.store import Store, open_store, video_key
from vidssl.data.subset import nested_subsets
from vidssl.data.verb import prep_verb
from vidssl.engine.progress import Reporter
from vidssl.errors import ConfigError, DataError

from .official import (
    HMDB_TAGS,
    ODD,
    PARTS,
    UCF,
    UCF_CLASSES,
    place_videos,
    write_hmdb_lists,
    write_tables,
    write_ucf_lists,
)
from .prepared import hashes, manifest, prep


def opened_rows(path: Path, split: str | None) -> dict[str, tuple[str, int]]:
    store = open_store(path, split=split)
    return {name: (str(part), int(n)) for name, part, n in zip(store.ids, store.splits, store.labels, strict=True)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """$VIDSSL_HOME with ucf101 and hmdb51 prepared; their sources are beside it. Read only."""
    home = tmp_path_factory.mktemp("official") / "home"
    ucf, hmdb = home.parent / "ucf", home.parent / "hmdb"
    write_ucf_lists(ucf / "ucfTrainTestlist")
    place_videos(ucf / "UCF-101", list(UCF.values()))
    write_hmdb_lists(hmdb / "testTrainMulti_7030_splits")
    place_videos(hmdb, [f"{name}/{file}" for name, tags in HMDB_TAGS.items() for file in tags])
    for name, source in (("ucf101", ucf), ("hmdb51", hmdb)):
        prep(source, home / "data" / name, dataset=name, name=name)
    return home


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDSSL_HOME", str(home))
    return home


# ---- what a store holds


@pytest.mark.parametrize("split", [None, "1", "2", "3"])
def test_ucf101_splits_have_exactly_their_rows(home: Path, split: str | None) -> None:
    tested = int(split or "1")
    expected = {
        path: ("test" if group == tested else "train", UCF_CLASSES.index(name)) for (name, group), path in UCF.items()
    }
    assert opened_rows(home / "data/ucf101", split) == expected
    store = open_store(home / "data/ucf101", split=split)
    assert store.label_names == UCF_CLASSES  # classInd.txt's order, HandStand files in the class of their folder
    assert (store.official_split, store.official_splits) == (str(tested), ["1", "2", "3"])


@pytest.mark.parametrize("split", ["1", "2", "3"])
def test_hmdb51_splits_have_exactly_their_rows(home: Path, split: str) -> None:
    classes = ["brush_hair", "chew"]
    expected = {
        f"{name}/{file}": (PARTS[tag[int(split) - 1]], classes.index(name))
        for name, tags in HMDB_TAGS.items()
        for file, tag in tags.items()
    }
    assert opened_rows(home / "data/hmdb51", split) == expected
    assert open_store(home / "data/hmdb51").label_names == classes
    assert manifest(home / "data/hmdb51")[f"chew/{ODD}"]["split:2"] == "test"


def test_a_video_without_a_part_in_split_1_is_stored(home: Path) -> None:
    first, second = (open_store(home / "data/hmdb51", split=split) for split in ("1", "2"))
    row = first.ids.index("chew/c_chew_2.avi")
    assert (first.splits[row], second.splits[row]) == ("", "train")
    assert first.frames[row] == second.frames[row] > 0


@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51"])
def test_training_never_sees_a_test_video_of_its_split(at_home: Path, dataset: str) -> None:
    for split in ("1", "2", "3"):
        store = catalog.open_data(f"{dataset}:{split}", Reporter(quiet=True))
        test = {store.ids[row] for row in store.indices("test")}
        train = {store.ids[row] for row in catalog.training_rows(store, "all")}
        some = {store.ids[row] for row in catalog.training_rows(store, "1")}
        assert test
        assert some < train
        assert not train & test


def test_a_store_pickles_with_its_split(home: Path) -> None:
    store = open_store(home / "data/ucf101", split="2")
    copy = pickle.loads(pickle.dumps(store))
    assert isinstance(copy, Store)
    assert copy.official_split == "2"
    assert copy.splits.tolist() == store.splits.tolist() != open_store(home / "data/ucf101").splits.tolist()


def test_names_of_splits(at_home: Path, tiny_store: Path) -> None:
    quiet = Reporter(quiet=True)
    assert catalog.open_data("ucf101", quiet).official_split == "1"
    assert catalog.open_data("hmdb51:3", quiet).official_split == "3"
    assert catalog.open_data(f"{at_home}/data/ucf101:2", quiet).official_split == "2"
    for name in ("ucf101:4", "ucf101:", f"{at_home}/data/ucf101:4"):
        with pytest.raises(ConfigError, match=r"official split of ucf101 .*Available: 1, 2, 3"):
            catalog.open_data(name, quiet)
    with pytest.raises(DataError, match=r"unknown data set 'ucf102'"):
        catalog.open_data("ucf102:2", quiet)
    with pytest.raises(DataError, match=r"has one split of its videos, and split '2' was asked for"):
        catalog.open_data(f"{tiny_store}:2", quiet)
    assert catalog.open_data(f"{tiny_store}:1", quiet).official_splits == ["1"]


def test_an_unprepared_official_set_says_its_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path))
    with pytest.raises(DataError, match="vidssl prep hmdb51 --source DIR"):
        catalog.open_data("hmdb51:2", Reporter(quiet=True))


def test_list_data_counts_splits(home: Path, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path))
    for name, store in (("ucf101", home / "data/ucf101"), ("tiny", tiny_store)):
        shutil.copytree(store, tmp_path / "data" / name)
    row = catalog.describe("ucf101")
    assert (row["splits"], row["train"], row["test"], row["classes"]) == (3, 6, 3, 3)
    assert "splits" not in catalog.describe("tiny")


def test_a_store_of_one_split_has_no_further_columns(tiny_store: Path) -> None:
    for file in ("index.parquet", "manifest.parquet", "shards/000000.parquet"):
        assert not [name for name in pq.read_schema(tiny_store / file).names if name.startswith("split:")]
    store = open_store(tiny_store)
    assert (store.official_split, store.official_splits) == ("1", ["1"])


# ---- growing, subsets


def test_growing_a_subset_keeps_all_splits_right(home: Path, tmp_path: Path) -> None:
    source, store = home.parent / "ucf", tmp_path / "store"
    whole = {split: opened_rows(home / "data/ucf101", split) for split in ("1", "2", "3")}
    small = prep(source, store, dataset="ucf101", subset=3)
    train = sorted(name for name, (part, _) in whole["1"].items() if part == "train")
    keys = np.array([video_key(name) for name in train], np.uint64)
    labels = [UCF_CLASSES.index(name.split("/")[0]) for name in train]
    taken = {train[row] for row in nested_subsets(labels, [3], keys=keys)[3]}
    held = taken | (set(whole["1"]) - set(train))
    for split, rows in whole.items():
        assert opened_rows(store, split) == {name: rows[name] for name in held}
        parts = [rows[name][0] for name in held]
        assert small.splits[split] == {"train": [parts.count("train"), 6], "test": [parts.count("test"), 3]}
    assert small.splits["1"]["test"] == [3, 3]
    before = hashes(store, "shards")
    grown = prep(source, store, dataset="ucf101")
    assert (grown.skipped, grown.ok) == (6, 9)
    assert {name: digest for name, digest in hashes(store, "shards").items() if name in before} == before
    for split, rows in whole.items():
        assert opened_rows(store, split) == rows


def test_a_split_without_training_videos_is_not_trained_on_its_tests(home: Path) -> None:
    store = open_store(home / "data/ucf101", split="2")
    store.splits = np.where(store.splits == "train", "", store.splits)
    with pytest.raises(DataError, match="no training video of official split 2"):
        catalog.training_rows(store, "all")


# ---- missing videos, the verb


def test_missing_and_unlisted_videos_are_told(home: Path, tmp_path: Path) -> None:
    source = shutil.copytree(home.parent / "hmdb", tmp_path / "source")
    (source / "chew/b_chew_1.avi").unlink()
    shutil.copy(source / f"chew/{ODD}", source / "chew/new_chew_9.avi")
    # of the same name as a video that is missing, but in the folder of another class
    shutil.copy(source / f"chew/{ODD}", source / "brush_hair/b_chew_1.avi")
    summary = prep(source, tmp_path / "store", dataset="hmdb51")
    assert (summary.videos, summary.ok, summary.rejected) == (6, 5, 1)
    assert summary.unlisted == ["brush_hair/b_chew_1.avi", "chew/new_chew_9.avi"]
    assert summary.splits["1"] == {"train": [2, 2], "test": [1, 2]}
    row = manifest(tmp_path / "store")["chew/b_chew_1.avi"]
    assert (row["status"], row["reason"]) == ("rejected", "the file is missing (the official lists name it)")
    assert (row["split"], row["split:2"], row["split:3"], row["label"]) == ("test", "train", "train", "chew")


def test_the_verb_prepares_under_the_own_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path))
    prep_verb("hmdb51", home.parent / "hmdb", None, None, 48, "cover", "h264", 1, False, False)
    assert catalog.prepared() == ["hmdb51"]
    shown = capsys.readouterr().out
    assert "official split 1: 2 of 2 train, 2 of 2 test videos are stored\n" in shown
    assert "official split 3: 2 of 2 train, 2 of 2 test videos are stored\n" in shown


# ---- a folder with further tables


def test_a_folder_with_further_tables(tmp_path: Path) -> None:
    source = tmp_path / "source"
    place_videos(source, ["a.mp4", "b.mp4", "c.mp4"])
    write_tables(source, train="a.mp4 x", test="b.mp4 y", train2="b.mp4 y\nc.mp4 x", test2="a.mp4 x")
    prep(source, tmp_path / "store")
    assert opened_rows(tmp_path / "store", "1") == {"a.mp4": ("train", 0), "b.mp4": ("test", 1), "c.mp4": ("", 0)}
    assert opened_rows(tmp_path / "store", "2") == {"a.mp4": ("test", 0), "b.mp4": ("train", 1), "c.mp4": ("train", 0)}
    assert open_store(tmp_path / "store").official_splits == ["1", "2"]
    before = hashes(tmp_path / "store")
    assert prep(source, tmp_path / "store").skipped == 3
    assert hashes(tmp_path / "store") == before
    for name in ("train2.csv", "test2.csv"):
        (source / name).unlink()
    write_tables(source, train="a.mp4 x\nc.mp4 x")
    prep(source, tmp_path / "store")
    assert open_store(tmp_path / "store").official_splits == ["1"]


def test_splits_and_label_systems_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    place_videos(source, ["a.mp4", "b.mp4"])
    rows = {"a": "a.mp4,x,slow\n", "b": "b.mp4,y,fast\n"}
    for table, row in (("train", "a"), ("test", "b"), ("train2", "b"), ("test2", "a")):
        (source / f"{table}.csv").write_text(f"path,label,label:pace\n{rows[row]}")
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path))
    prep(source, tmp_path / "data/mine", name="mine")
    store = catalog.open_data("mine-pace:2", Reporter(quiet=True))
    assert store.label_names == ["fast", "slow"]
    assert {store.ids[row]: store.labels[row] for row in store.indices("train")} == {"b.mp4": 0}
    assert catalog.training_rows(pickle.loads(pickle.dumps(store)), "all").tolist() == [store.ids.index("b.mp4")]


# ---- real videos


def test_real_ucf101(shared_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    lists = source / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    shutil.copytree(shared_data / "real/ucf101", source / "videos")
    names = ["v_ApplyEyeMakeup_g01_c01", "v_SoccerJuggling_g23_c01", "v_SoccerJuggling_g24_c01"]
    paths = [f"{name.split('_')[1]}/{name}.avi" for name in names]
    numbers = [1, 2, 2]
    (lists / "classInd.txt").write_bytes(b"1 ApplyEyeMakeup\r\n2 SoccerJuggling\r\n")
    for split in range(3):
        train = [
            f"{path} {number}\r\n" for n, (path, number) in enumerate(zip(paths, numbers, strict=True)) if n != split
        ]
        (lists / f"trainlist0{split + 1}.txt").write_bytes("".join(train).encode())
        (lists / f"testlist0{split + 1}.txt").write_bytes(f"{paths[split]}\r\n".encode())
    summary = prep(source, tmp_path / "store", dataset="ucf101")
    assert (summary.ok, summary.unlisted) == (
        3,
        [f"videos/{n}_example.avi" for n in ("archery", "babycrawling", "wallpushups")],
    )
    frames = dict(zip(paths, (164, 240, 251), strict=True))  # ffmpeg's and PyAV's count, of the folder's MANIFEST.csv
    for split in range(3):
        store = open_store(tmp_path / "store", split=str(split + 1))
        assert dict(zip(store.ids, store.frames, strict=True)) == frames
        assert [store.ids[row] for row in store.indices("test")] == [paths[split]]
        assert {store.ids[row] for row in store.indices("train")} == set(paths) - {paths[split]}


def test_real_hmdb51(shared_data: Path, tmp_path: Path) -> None:
    source = shutil.copytree(shared_data / "real/hmdb51", tmp_path / "source")
    files = {
        "cartwheel": ["hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"],
        "wave": sorted(path.name for path in source.glob("*_wave_*.avi")),
    }
    tags = {"cartwheel": ["0", "1", "2"], "wave": ["121", "210", "102"]}
    for name, videos in files.items():
        for split in range(3):
            rows = [
                f"{video} {tags[name][n][split] if name == 'wave' else tags[name][split]} \n"
                for n, video in enumerate(videos)
            ]
            (source / f"{name}_test_split{split + 1}.txt").write_text("".join(rows))
    prep(source, tmp_path / "store", dataset="hmdb51")
    seen = {split: opened_rows(tmp_path / "store", split) for split in ("1", "2", "3")}
    cartwheel, waves = f"cartwheel/{files['cartwheel'][0]}", [f"wave/{name}" for name in files["wave"]]
    assert [seen[split][cartwheel] for split in seen] == [("", 0), ("train", 0), ("test", 0)]
    assert [seen["2"][wave] for wave in waves] == [("test", 1), ("train", 1), ("", 1)]
    assert [seen["3"][wave] for wave in waves] == [("train", 1), ("", 1), ("test", 1)]
