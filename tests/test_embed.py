"""Features of a prepared set: those of the evaluations, with their ids, the same bytes however the work was cut."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.engine.test_ranks import launch
from vidssl import create_backbone, embed, load_weights
from vidssl.data.decode import open_decoder
from vidssl.data.decode.base import ClipRequest
from vidssl.data.store import open_store
from vidssl.embed import Wanted, embed_verb
from vidssl.engine.progress import Reporter
from vidssl.errors import ConfigError, DataError, RunError
from vidssl.pretrained import open_run
from vidssl.transforms.geometry import centre_clip

from .finished import digest, make_run, small_net  # noqa: F401

QUIET = Reporter(quiet=True)


@pytest.fixture
def run(tmp_path, small_net, monkeypatch):  # noqa: F811
    """A finished run; features are kept every five videos."""
    monkeypatch.setattr(embed, "PIECE", 5)
    make_run(tmp_path / "run")
    return tmp_path / "run"


def make(run, store, out, decoder="pyav", **wanted):
    return embed.embed(open_run(run, {}), open_store(store), Wanted(**wanted), out, QUIET, decoder=decoder)


def one_clip(run, store, row, indices):
    """The feature of one clip, computed alone."""
    backbone = create_backbone("small-test-net").eval()
    load_weights(backbone, run / "model.safetensors")
    frames = open_decoder("pyav", open_store(store)).decode([ClipRequest(row, np.asarray(indices))])
    with torch.inference_mode():
        return backbone.pooled(centre_clip(frames, 16))[0].numpy()


def test_npz_holds_the_features_of_evenly_spaced_clips(run, tiny_store, tmp_path):
    out, store = tmp_path / "deep" / "f.npz", open_store(tiny_store)
    made = make(run, tiny_store, out, clips=3)
    assert (made["videos"], made["clips"], made["width"]) == (12, 3, 12)
    with np.load(out) as file:
        content = dict(file)
    assert set(content) == {"ids", "splits", "labels", "label_names", "features", "about"}
    assert content["ids"].tolist() == store.ids
    assert content["labels"].tolist() == store.labels.tolist()
    assert content["label_names"].tolist() == ["left", "right", "still"]
    assert content["features"].dtype == np.float32
    row = store.ids.index("right/1.mp4")
    room = int(store.frames[row]) - 4
    clips = [one_clip(run, tiny_store, row, np.arange(4) + start) for start in (0, room // 2, room)]
    np.testing.assert_allclose(content["features"][row], np.mean(clips, axis=0), rtol=1e-4, atol=1e-5)
    about = json.loads(str(content["about"]))
    assert about["run"] == "run"
    assert about["request"]["weights"] == digest(run / "model.safetensors")
    assert not (tmp_path / "deep" / "f.npz.pieces").exists()


def test_each_clip_with_its_frames_in_both_formats(run, tiny_store, tmp_path):
    store = open_store(tiny_store)
    make(run, tiny_store, tmp_path / "f.npz", clips=2, average=False)
    make(run, tiny_store, tmp_path / "f.parquet", clips=2, average=False)
    with np.load(tmp_path / "f.npz") as file:
        content = dict(file)
    assert content["features"].shape == (12, 2, 12)
    assert content["frame_indices"].shape == (12, 2, 4)
    assert content["frame_indices"][3, 1].tolist() == list(range(int(store.frames[3]) - 4, int(store.frames[3])))
    own = one_clip(run, tiny_store, 3, content["frame_indices"][3, 1])
    np.testing.assert_allclose(content["features"][3, 1], own, rtol=1e-4, atol=1e-5)
    rows = pq.read_table(tmp_path / "f.parquet").to_pylist()
    assert [(row["id"], row["clip"]) for row in rows] == [(video, clip) for video in store.ids for clip in (0, 1)]
    assert [row["label_name"] for row in rows[::2]] == [store.label_names[label] for label in store.labels]
    assert np.array_equal(np.array([row["feature"] for row in rows], np.float32), content["features"].reshape(24, 12))
    assert np.array_equal([row["frames"] for row in rows], content["frame_indices"].reshape(24, 4))


def test_videos_without_labels(run, tiny_store, tmp_path):
    store = open_store(tiny_store)
    store.labels, store.label_names = np.full(12, -1), []
    embed.embed(open_run(run, {}), store, Wanted(clips=1), tmp_path / "f.parquet", QUIET, decoder="pyav")
    table = pq.read_table(tmp_path / "f.parquet")
    assert table["label"].null_count == table["label_name"].null_count == 12
    assert table["feature"].null_count == 0


def count_pieces(monkeypatch, stop_before=None):
    """The names of the pieces that are computed, as they come; stops as a kill would, before one is kept."""
    seen, keep = [], embed._keep

    def counted(file, *rest):
        if len(seen) == stop_before:
            raise KeyboardInterrupt
        seen.append(file.name)
        keep(file, *rest)

    monkeypatch.setattr(embed, "_keep", counted)
    return seen


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_stopped_and_given_again_the_bytes_are_those_of_one_go(run, tiny_store, tmp_path, monkeypatch, suffix):
    make(run, tiny_store, tmp_path / f"whole.{suffix}", clips=2)
    out = tmp_path / f"cut.{suffix}"
    with monkeypatch.context() as patch:
        count_pieces(patch, stop_before=1)
        with pytest.raises(KeyboardInterrupt):
            make(run, tiny_store, out, clips=2)
    assert not out.exists()
    seen = count_pieces(monkeypatch)
    make(run, tiny_store, out, clips=2)
    assert seen == ["00000005.npy", "00000010.npy"], "the first was there"
    assert digest(out) == digest(tmp_path / f"whole.{suffix}")
    if suffix == "npz":  # nor does the clock stand in it
        assert {member.date_time[0] for member in zipfile.ZipFile(out).infolist()} == {1980}


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_what_is_finished_is_not_done_again_and_not_replaced(run, tiny_store, tmp_path, monkeypatch, suffix):
    out = tmp_path / f"f.{suffix}"
    make(run, tiny_store, out, clips=2)
    before, seen = (digest(out), out.stat().st_mtime_ns), count_pieces(monkeypatch)
    assert make(run, tiny_store, out, clips=2)["width"] == 12
    with pytest.raises(RunError, match="clips: 2 -> 3"):
        make(run, tiny_store, out, clips=3)
    make_run(tmp_path / "other", seed=1)
    with pytest.raises(RunError, match="weights: "):
        make(tmp_path / "other", tiny_store, out, clips=2)
    assert seen == []
    assert (digest(out), out.stat().st_mtime_ns) == before


def test_begun_pieces_of_another_request_are_kept(run, tiny_store, tmp_path, monkeypatch):
    out = tmp_path / "f.npz"
    with monkeypatch.context() as patch:
        count_pieces(patch, stop_before=1)
        with pytest.raises(KeyboardInterrupt):
            make(run, tiny_store, out, clips=2)
    kept = digest(tmp_path / "f.npz.pieces" / "00000000.npy")
    with pytest.raises(RunError, match="feature: 'pooled' -> 'map'"):
        make(run, tiny_store, out, clips=2, feature="map")
    assert digest(tmp_path / "f.npz.pieces" / "00000000.npy") == kept


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_a_file_of_somebody_else_is_left_as_it_is(run, tiny_store, tmp_path, suffix):
    out = tmp_path / f"f.{suffix}"
    out.write_text("mine")
    with pytest.raises(RunError, match="no file of features of vidssl"):
        make(run, tiny_store, out)
    assert out.read_text() == "mine"


def test_other_labels_of_the_same_videos_are_another_request(run, tiny_store, tmp_path):
    make(run, tiny_store, tmp_path / "f.npz", clips=1)
    store = open_store(tiny_store)
    store.labels = store.labels[::-1].copy()
    with pytest.raises(RunError, match=r"data\.labels"):
        embed.embed(open_run(run, {}), store, Wanted(clips=1), tmp_path / "f.npz", QUIET, decoder="pyav")


def test_one_split_alone(run, tiny_store, tmp_path):
    store = open_store(tiny_store)
    with pytest.raises(DataError, match=r"no video of split 'test' \(by split: none 12\)"):
        make(run, tiny_store, tmp_path / "f.npz", split="test")
    store.splits = np.array(["test" if row in (4, 9) else "train" for row in range(12)])
    embed.embed(open_run(run, {}), store, Wanted("test", 1), tmp_path / "f.npz", QUIET, decoder="pyav")
    with np.load(tmp_path / "f.npz") as file:
        assert file["ids"].tolist() == [store.ids[4], store.ids[9]]
        assert file["labels"].tolist() == store.labels[[4, 9]].tolist()


def test_map_features(run, tiny_store, tmp_path):
    assert make(run, tiny_store, tmp_path / "f.npz", clips=1, feature="map")["width"] == 12 * 2 * 2 * 2
    backbone = open_run(run, {}).backbone
    store = open_store(tiny_store)
    middle = np.arange(4) + (int(store.frames[0]) - 4) // 2
    frames = open_decoder("pyav", store).decode([ClipRequest(0, middle)])
    with torch.inference_mode():
        map_DTHW = backbone(centre_clip(frames, 16))[0].numpy()
    corner = map_DTHW[:, :, :2, :2].max(axis=(2, 3))
    with np.load(tmp_path / "f.npz") as file:
        kept_DTHW = file["features"][0].reshape(12, 2, 2, 2)
    np.testing.assert_allclose(kept_DTHW[:, :, 0, 0], corner, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(run, tiny_store, tmp_path):
    make(run, tiny_store, tmp_path / "one.npz", clips=2)
    (tmp_path / "request.json").write_text(json.dumps({"run": str(run), "store": str(tiny_store)}))
    launch("tests.embed_ranks", 2, tmp_path)
    assert digest(tmp_path / "two.npz") == digest(tmp_path / "one.npz")


def verb(tmp_path, *sets, run=None, weights=None, backbone=None, data="nowhere", out="f.npz", **wanted):
    embed_verb(run, weights, backbone, False, data, Wanted(**wanted), tmp_path / out, list(sets), True)


def test_a_file_of_weights_gives_what_its_run_gives(run, tiny_store, tmp_path, capsys):
    sets = ("data.frames=4", "data.size=16", "data.target_decoder=pyav", "eval.batch=7")
    weights = {"weights": run / "model.safetensors", "backbone": "small-test-net"}
    verb(tmp_path, *sets, data=str(tiny_store), clips=2, **weights)
    assert json.loads(capsys.readouterr().out)["videos"] == 12
    make(run, tiny_store, tmp_path / "run.npz", clips=2)
    with np.load(tmp_path / "f.npz") as ours, np.load(tmp_path / "run.npz") as theirs:
        np.testing.assert_allclose(ours["features"], theirs["features"], rtol=1e-4, atol=1e-5)


def test_mistakes(run, tiny_store, tmp_path):
    data = str(tiny_store)
    with pytest.raises(ConfigError, match=r"pretrain\.lr changes nothing here"):
        verb(tmp_path, "pretrain.lr=0.1", run=run)
    with pytest.raises(ConfigError, match=r"backbone\.input changes nothing here"):
        verb(tmp_path, "backbone.input=unit", run=run)
    with pytest.raises(ConfigError, match="takes a run"):
        verb(tmp_path)
    with pytest.raises(ConfigError, match="takes a run"):
        verb(tmp_path, weights=run / "model.safetensors")
    with pytest.raises(ConfigError, match=r"Available: \.npz, \.parquet"):
        verb(tmp_path, run=run, out="f.csv")
    with pytest.raises(ConfigError, match="unknown split 'val'"):
        Wanted(split="val")
    with pytest.raises(ConfigError, match="Did you mean 'pooled'"):
        Wanted(feature="pool")
    with pytest.raises(ConfigError, match="--clips 0"):
        Wanted(clips=0)
    with pytest.raises(RunError, match="vidssl list runs"):
        verb(tmp_path, run=tmp_path / "nowhere", data=data)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_weights_that_have_run_away(run, tiny_store, tmp_path):
    opened = open_run(run, {})
    torch.nn.init.constant_(opened.backbone.layers[0].bias, float("nan"))
    with pytest.raises(RunError, match="not finite"):
        embed.embed(opened, open_store(tiny_store), Wanted(clips=1), tmp_path / "f.npz", QUIET, decoder="pyav")
