"""prep as a whole: odd files, stores that read back, growing and changing sources, labels, mistakes."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media import moving_square, read_rgb, write_video
from vidssl.data.files import replacing
from vidssl.data.lock import locked
from vidssl.data.store import Store, open_store, video_key
from vidssl.data.subset import nested_subsets
from vidssl.errors import ConfigError, DataError, VidsslError

from .prepared import hashes, manifest, prep


def expectations(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


# ---- every file ends as it must


def test_odd_files_end_as_they_must(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "odd"
    summary = prep(source, tmp_path / "odd", workers=2)
    rows = manifest(tmp_path / "odd")
    expected = expectations(source)
    assert set(rows) == set(expected)
    assert (summary.videos, summary.ok + summary.damaged + summary.rejected) == (28, 28)
    assert summary.ignored == 2  # README.md and MANIFEST.csv
    for path, row in expected.items():
        seen = rows[path]
        if row["expected"] == "decode":
            assert seen["status"] == "ok", (path, seen["reason"])
            assert str(seen["frames"]) in row["frames"].split("|"), path
        elif row["expected"] == "reject":
            assert seen["status"] == "rejected", path
            assert seen["reason"], path
        else:
            assert seen["status"] in ("damaged", "rejected"), path
            assert seen["reason"], path
    assert rows["cut_no_index.avi"]["frames"] == 62
    assert "Git LFS" in rows["lfs_pointer.mp4"]["reason"]
    store = open_store(tmp_path / "odd")
    assert sorted(store.ids) == sorted(path for path, row in rows.items() if row["status"] == "ok")
    assert set(store.labels) == {-1}
    assert rows["phone_rotated_90.mp4"]["height"] > rows["phone_rotated_90.mp4"]["width"]
    assert (rows["pixel_aspect_16_11.mp4"]["width"], rows["pixel_aspect_16_11.mp4"]["height"]) == (512, 288)


def test_real_files_are_all_taken(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "real"
    summary = prep(source, tmp_path / "real", workers=2)
    assert (summary.videos, summary.ok) == (22, 22), summary.reasons
    expected = expectations(source)
    store = open_store(tmp_path / "real")
    assert dict(zip(store.ids, store.frames, strict=True)) == {p: int(row["frames"]) for p, row in expected.items()}
    assert store.label_names == ["hmdb51", "kinetics400", "ssv2", "ucf101"]
    for name, fps in zip(store.ids, store.fps, strict=True):
        assert fps == pytest.approx(float(expected[name]["fps"]), abs=0.01)


# ---- a store reads back


def members(store: Path) -> dict[str, bytes]:
    """id -> MP4, read as any tar reader does: the description lies beside the video."""
    found = {}
    for shard in sorted((store / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            content = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
        for name, data in content.items():
            if name.endswith(".mp4"):
                found[json.loads(content[name.replace(".mp4", ".json")])["id"]] = data
    return found


def decode_slice(store: Store, video: int, first: int, last: int, extradata: bytes | None) -> np.ndarray:
    piece = store.read(video, first, last)
    context = av.CodecContext.create(store.meta.codec, "r")
    context.extradata = extradata
    frames, offset = [], 0
    for size in piece.sizes:
        frames += context.decode(av.Packet(piece.data[offset : offset + int(size)]))
        offset += int(size)
    frames += context.decode(None)
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])[first - piece.first_frame :]


@pytest.mark.parametrize("fixture", ["tiny_store", "tiny_mjpeg_store"])
def test_slices_are_the_frames_of_the_members(fixture: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(fixture)
    store, videos = open_store(path), members(path)
    assert sorted(videos) == sorted(store.ids)
    for video, name in enumerate(store.ids):
        whole = read_rgb(io.BytesIO(videos[name]))
        count = int(store.frames[video])
        assert len(whole) == count
        with av.open(io.BytesIO(videos[name])) as container:
            extradata = container.streams.video[0].codec_context.extradata
        for first, last in ((0, count - 1), (7, 8), (count - 1, count - 1), (9, 15)):
            piece = decode_slice(store, video, first, last, extradata)
            np.testing.assert_array_equal(piece, whole[first : last + 1])


def test_frames_are_those_of_the_source(tiny_source: Path, tiny_store: Path) -> None:
    """Content, not only counts: each stored picture looks like its source frame and not like its neighbours."""
    store, videos = open_store(tiny_store), members(tiny_store)
    name = "right/1.mp4"
    original, stored = read_rgb(tiny_source / name).astype(int), read_rgb(io.BytesIO(videos[name])).astype(int)
    assert len(original) == len(stored) == store.frames[store.ids.index(name)]
    distance = np.abs(stored[:, None, :, :64] - original[None]).mean((2, 3, 4))
    assert distance.argmin(1).tolist() == list(range(len(stored)))


def test_settings_lie_in_the_store(tiny_store: Path, tiny_mjpeg_store: Path) -> None:
    h264, mjpeg = open_store(tiny_store).meta, open_store(tiny_mjpeg_store).meta
    assert (h264.format, h264.codec, h264.gop, h264.coded) == ("h264", "h264", 8, (64, 48))
    assert (mjpeg.format, mjpeg.codec, mjpeg.gop) == ("mjpeg", "mjpeg", 1)


# ---- labels


def copy(source: Path, target: Path) -> Path:
    return shutil.copytree(source, target)


def write_table(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_class_folders(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    assert store.label_names == ["left", "right", "still"]
    assert [store.label_names[label] for label in store.labels] == [name.split("/")[0] for name in store.ids]
    assert set(store.splits) == {""}


def test_no_labels(tiny_source: Path, tmp_path: Path) -> None:
    source = tmp_path / "flat"
    source.mkdir()
    for number in range(2):
        shutil.copy(tiny_source / "left" / f"{number}.mp4", source / f"{number}.MP4")
    prep(source, tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert (sorted(store.ids), store.labels.tolist(), store.label_names) == (["0.MP4", "1.MP4"], [-1, -1], [])
    assert manifest(tmp_path / "store")["0.MP4"]["label"] is None


def test_tables_with_label_systems(tiny_source: Path, tmp_path: Path) -> None:
    source = copy(tiny_source, tmp_path / "source")
    odd_name = 'right/comma, "quote" & ünï.mp4'
    (source / "right/3.mp4").rename(source / odd_name)
    left = {"label": "go, left", "label:shape": "square", "label:speed": "slow"}
    train = [{"path": f"left/{n}.mp4", **left} for n in range(3)]
    train += [{"path": odd_name, "label": "rechts", "label:shape": "", "label:speed": "fast"}]
    test = [{"path": "left/3.mp4", **left, "label:shape": "disc"}]
    test += [{"path": "gone.mp4", "label": "rechts", "label:shape": "disc", "label:speed": "slow"}]
    write_table(source / "train.csv", train)
    write_table(source / "test.csv", test)
    summary = prep(source, tmp_path / "store")
    assert (summary.videos, summary.ok, summary.rejected) == (6, 5, 1)
    assert len(summary.unlisted) == 12 - 5
    rows = manifest(tmp_path / "store")
    assert rows["gone.mp4"]["status"] == "rejected"
    assert "missing" in rows["gone.mp4"]["reason"]
    assert "test.csv line 3" in rows["gone.mp4"]["reason"]
    store = open_store(tmp_path / "store")
    assert store.label_names == ["go, left", "rechts"]
    assert {store.ids[n] for n in store.indices("test")} == {"left/3.mp4"}
    assert store.labels[store.ids.index(odd_name)] == 1
    shape = open_store(tmp_path / "store", "shape")
    assert shape.label_names == ["disc", "square"]
    assert shape.labels[shape.ids.index(odd_name)] == -1
    assert shape.labels[shape.ids.index("left/3.mp4")] == 0
    # the file turns up later
    shutil.copy(source / "left/0.mp4", source / "gone.mp4")
    later = prep(source, tmp_path / "store")
    assert (later.ok, later.rejected, later.skipped) == (6, 0, 5)


# ---- going on


def test_growing_a_subset_only_adds(tiny_source: Path, tmp_path: Path) -> None:
    source, store = copy(tiny_source, tmp_path / "source"), tmp_path / "store"
    names = [f"{label}/{n}.mp4" for label in ("left", "right", "still") for n in range(4)]
    test = {"left/0.mp4", "still/3.mp4"}
    for split, chosen in (("train", set(names) - test), ("test", test)):
        write_table(source / f"{split}.csv", [{"path": n, "label": n.split("/")[0]} for n in sorted(chosen)])
    prep(source, store, subset=4, shard_videos=2)
    small = open_store(store)
    train = sorted(set(names) - test)
    labels = [["left", "right", "still"].index(name.split("/")[0]) for name in train]
    keys = np.array([video_key(name) for name in train], np.uint64)
    wanted = {train[row] for row in nested_subsets(labels, [4], keys=keys)[4]}
    assert set(small.ids) == wanted | test
    assert small.label_names == ["left", "right", "still"]
    before = hashes(store, "shards")
    for subset in (7, None):
        ids = set(open_store(store).ids)
        summary = prep(source, store, subset=subset, shard_videos=2)
        assert summary.skipped == len(ids)
        assert set(open_store(store).ids) > ids
        now = hashes(store, "shards")
        assert {name: now[name] for name in before} == before
        before = now
    assert set(open_store(store).ids) == set(names)
    again = hashes(store)
    assert prep(source, store, subset=4, shard_videos=2).skipped == 6
    assert hashes(store) == again  # a smaller subset takes nothing away


def test_second_run_does_nothing(tiny_source: Path, tmp_path: Path) -> None:
    source, store = copy(tiny_source, tmp_path / "source"), tmp_path / "store"
    first = prep(source, store)
    before = hashes(store)
    again = prep(source, store)
    assert (first.skipped, again.skipped, again.ok) == (0, 12, 12)
    os.utime(source / "left/0.mp4", (1, 1))  # another time, the same content
    assert prep(source, store).skipped == 12
    assert hashes(store) == before


def test_changed_file_and_changed_label_are_done_again(tiny_source: Path, tmp_path: Path) -> None:
    source, store = copy(tiny_source, tmp_path / "source"), tmp_path / "store"
    prep(source, store)
    before = hashes(store, "shards")
    write_video(source / "left/0.mp4", moving_square(13, speed=5))
    summary = prep(source, store)
    assert (summary.videos, summary.ok, summary.skipped) == (12, 12, 11)
    opened = open_store(store)
    assert len(opened) == len(set(opened.ids)) == 12
    assert opened.frames[opened.ids.index("left/0.mp4")] == 13
    assert len(members(store)) == 12
    extradata = b"\x01" + bytes(3) + b"\xff\xe0\x00"  # no parameter sets: those are in the packets
    assert decode_slice(opened, opened.ids.index("left/0.mp4"), 0, 12, extradata).shape == (13, 48, 64, 3)
    now = hashes(store, "shards")
    assert {name: now[name] for name in before} == before
    rows = [{"path": name, "label": "only"} for name in opened.ids]
    write_table(source / "train.csv", rows)
    assert prep(source, store).skipped == 0
    relabelled = open_store(store)
    assert {relabelled.label_names[label] for label in relabelled.labels} == {"only"}
    assert set(relabelled.splits) == {"train"}


WRITTEN = ("index.parquet", "manifest.parquet", "packet_sizes.npy", "packet_keys.npy")


@pytest.mark.parametrize("name", [*WRITTEN, "shards/000001.tar", "shards/000000.parquet"])
def test_cut_files_are_mended(tiny_source: Path, tmp_path: Path, name: str) -> None:
    store = tmp_path / "store"
    prep(tiny_source, store, shard_videos=5)
    before = hashes(store)
    data = (store / name).read_bytes()
    (store / name).write_bytes(data[: len(data) // 2])
    if name != "manifest.parquet" and not name.startswith("shards"):
        with pytest.raises(DataError, match="prep"):
            open_store(store)
    summary = prep(tiny_source, store, shard_videos=5)
    assert hashes(store) == before
    assert summary.skipped == (7 if name.startswith("shards") else 12)


# ---- mistakes


def test_one_prep_at_a_time(tiny_source: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with locked(store), pytest.raises(DataError, match=f"pid {os.getpid()}"):
        prep(tiny_source, store)
    assert prep(tiny_source, store).ok == 12


def test_other_settings_are_refused(tiny_source: Path, tiny_store: Path) -> None:
    before = hashes(tiny_store)
    for options in ({"format": "mjpeg"}, {"short_side": 64}, {"fit": "squash"}):
        with pytest.raises(DataError, match=next(iter(options))) as caught:
            prep(tiny_source, tiny_store, **options)
        assert "--name" in str(caught.value)
    assert hashes(tiny_store) == before


def test_a_foreign_folder_is_left_alone(tiny_source: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(DataError, match=r"letter\.txt"):
        prep(tiny_source, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def bad_source(kind: str, folder: Path) -> Path:
    if kind != "missing":
        folder.mkdir()
    if kind == "no videos":
        (folder / "notes.txt").write_text("nothing")
    if kind == "only bad":
        (folder / "a.mp4").write_bytes(b"")
        (folder / "b.mp4").write_text("no video")
    tables = {
        "no columns": b"file,class\na.mp4,x\n",
        "ragged": b"path,label\na,b.mp4,x\n",
        "latin1": b"path,label\n\xe4.mp4,x\n",
        "outside": b"path,label\n../a.mp4,x\n",
        "twice": b"path,label\na.mp4,x\na.mp4,y\n",
    }
    if kind in tables:
        (folder / "train.csv").write_bytes(tables[kind])
    return folder


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "does not exist"), ("empty", "holds no videos"), ("no videos", "holds no videos"),
        ("only bad", "none can be used"), ("no columns", "file, class"), ("ragged", "line 2"), ("latin1", "not UTF-8"),
        ("outside", "below"), ("twice", "line 3 and train.csv line 2"),
    ],
)  # fmt: skip
def test_bad_sources(tmp_path: Path, kind: str, words: str) -> None:
    source = bad_source(kind, tmp_path / "source")
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            prep(source, tmp_path / "store")
        assert words in str(caught.value)
        assert str(source) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"format": "h265"}, {"fit": "stretch"}, {"short_side": 3}, {"subset": 99}, {"workers": 0}, {"name": "a/b"}],
)
def test_bad_settings(tiny_source: Path, tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        prep(tiny_source, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_dry_run_writes_nothing(tiny_source: Path, tmp_path: Path) -> None:
    summary = prep(tiny_source, tmp_path / "store", dry_run=True)
    assert (summary.videos, summary.to_do, summary.skipped) == (12, 12, 0)
    assert summary.source_bytes == sum(path.stat().st_size for path in tiny_source.rglob("*.mp4"))
    real = prep(tiny_source, tmp_path / "real")
    assert 0.5 < summary.estimated_bytes / (real.bytes - 20480) < 2
    assert not (tmp_path / "store").exists()


def test_store_below_its_source_is_not_read(tiny_source: Path, tmp_path: Path) -> None:
    source = copy(tiny_source, tmp_path / "source")
    store = source / "prepared"
    (store / "staging").mkdir(parents=True)
    shutil.copy(source / "left/0.mp4", store / "staging" / "00000003.mp4")
    assert prep(source, store).videos == 12
    assert prep(source, store).videos == 12


def test_summary_is_json(tiny_source: Path, tmp_path: Path) -> None:
    line = json.loads(json.dumps(prep(tiny_source, tmp_path / "store").to_json()))
    assert {"videos", "ok", "damaged", "rejected", "store", "manifest", "seconds"} <= set(line)


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("old")

    def half_write() -> None:
        with replacing(file) as temporary:
            temporary.write_text("half")
            raise VidsslError("stop")

    with pytest.raises(VidsslError):
        half_write()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert file.read_text() == "old"
