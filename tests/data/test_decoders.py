"""Every decoder against the plain truth: the stored member, decoded from its first to its last frame by PyAV.

    pyav            equal, bit for bit (h264, mjpeg, vp9)
    jpeg on mjpeg   another JPEG decoder: at most 8 grey levels apart anywhere, 1.3 on average (seen: 5 and 1.03)
    ffcv on ffcv    as jpeg, whose frames it gives (`-m ffcv` runs it, where the extra ffcv is installed)
    dali            at most 48 apart, 2.5 on average (seen: 38 and 1.96, on 85x64 pixels full of coloured edges; 16 and
                    0.2 against jpeg on real video): it interpolates chroma, where libav repeats it

DALI runs here on the processor, with the graphs it has on a GPU (`-m gpu` runs those). VP9 stores are made here,
because prep does not write them: DALI's CPU build has no H.264.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vidssl.data import ClipRequest, Plan, Store, open_decoder, open_store
from vidssl.data.datasets import embedded
from vidssl.data.decode import mp4
from vidssl.data.decode.auto import choose_decoder
from vidssl.data.prep import prepare
from vidssl.data.store import StoreMeta, video_key
from vidssl.errors import DataError, EnvironmentProblem

FFCV = ("ffcv",) if find_spec("ffcv") else ()
LENGTHS = (41, 30, 17, 9, 8, 2, 1)  # frames of the videos: a part of a group, whole groups, a single frame
CASES = {  # decoder and store -> largest and mean difference allowed
    ("pyav", "h264"): (0, 0.0),
    ("pyav", "mjpeg"): (0, 0.0),
    ("pyav", "vp9"): (0, 0.0),
    ("jpeg", "mjpeg"): (8, 1.3),
    ("ffcv", "ffcv"): (8, 1.3),
    ("dali", "mjpeg"): (48, 2.5),
    ("dali", "vp9"): (48, 2.5),
}


@dataclass
class Prepared:
    """A store and its truth: for each row, uint8 [frames, H, W, 3]."""

    store: Store
    truth: list[np.ndarray]


def _packets(frames: list[np.ndarray], encoder: str, options: dict[str, str], group: int) -> list[av.Packet]:
    context = av.CodecContext.create(encoder, "w")
    context.height, context.width = frames[0].shape[:2]
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 25), Fraction(25)
    context.options, context.gop_size, context.thread_count = options, group, 1
    out = []
    for number, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = number
        out += context.encode(frame)
    return out + context.encode(None)


def _write_vp9_store(path: Path, videos: dict[str, list[np.ndarray]]) -> None:
    """What prep would write, had it a format vp9."""
    options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0", "crf": "30"}
    meta = StoreMeta("vp9", format="h264", codec="vp9", short_side=64)
    rows, packets, offset = [], [], 0
    (path / "shards").mkdir(parents=True)
    with open(path / "shards/000000.tar", "wb") as shard:
        for name, frames in videos.items():
            mine = _packets(frames, "libvpx-vp9", options, meta.gop)
            assert len(mine) == len(frames)
            size = sum(packet.size for packet in mine)
            rows.append((name, video_key(name), 0, "train", len(mine), 25.0, 0, offset, len(packets), size, ""))
            for packet in mine:
                shard.write(bytes(packet))
            packets += mine
            offset += size
    names = ["id", "key", "label", "split", "frames", "fps", "shard", "offset", "first_packet", "bytes", "sha256"]
    types = {"key": pa.uint64(), "label": pa.int32()}
    columns = [pa.array(column, types.get(name)) for name, column in zip(names, zip(*rows, strict=True), strict=True)]
    pq.write_table(pa.table(columns, names), path / "index.parquet")
    np.save(path / "packet_sizes.npy", np.array([packet.size for packet in packets], np.uint32))
    np.save(path / "packet_keys.npy", np.array([packet.is_keyframe for packet in packets]))
    (path / "store.json").write_text(meta.to_json())


def _decode_all(data: bytes, size: tuple[int, int]) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)[:, : size[1], : size[0]]


def _truth_of_tar(store: Store) -> list[np.ndarray]:
    """Finds each video's member by its place in the shard, and decodes the whole of it."""
    out = []
    with tarfile.open(store.path / "shards/000000.tar") as tar:
        members = [m for m in tar.getmembers() if m.name.endswith(".mp4")]
        for row in range(len(store)):
            at = int(store._offset[row])
            member = next(m for m in members if m.offset_data <= at < m.offset_data + m.size)
            out.append(_decode_all(tar.extractfile(member).read(), store.meta.picture))
    return out


def _truth_of_packets(store: Store) -> list[np.ndarray]:
    out = []
    for row in range(len(store)):
        clip, at = store.read(row, 0, int(store.frames[row]) - 1), 0
        context, frames = av.CodecContext.create("vp9", "r"), []
        for size in clip.sizes.tolist():
            frames += context.decode(av.Packet(clip.data[at : at + size]))
            at += size
        frames += context.decode(None)
        width, height = store.meta.picture
        out.append(np.stack([f.to_ndarray(format="rgb24")[:height, :width] for f in frames]))
    return out


def _marked(case: tuple[str, str]) -> object:
    return pytest.param(case, id="-".join(case), marks=pytest.mark.ffcv if "ffcv" in case else ())


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    root = tmp_path_factory.mktemp("stores")
    (root / "source/c").mkdir(parents=True)
    videos = {}
    for number, length in enumerate(LENGTHS):
        frames = embedded.draw(embedded.scene("train", number), np.arange(length) * 3)
        (root / f"source/c/{number}.mp4").write_bytes(embedded._encode(frames))
        # the picture 85x64 in the coded frame 96x64, the rest grey: a crop that is off by one would show it
        padded = np.full((length, 64, 96, 3), 128, np.uint8)
        padded[:, :, :85] = frames[:, 20:84, 30:115]
        videos[f"c/{number}.mp4"] = list(padded)
    for name in ("h264", "mjpeg", *FFCV):
        prepare(source=root / "source", name=name, store_dir=root / name, short_side=64, format=name, workers=1)
    _write_vp9_store(root / "vp9", videos)
    out = {}
    for name in ("h264", "mjpeg", "vp9", *FFCV):
        store = open_store(root / name)
        out[name] = Prepared(store, _truth_of_packets(store) if name == "vp9" else _truth_of_tar(store))
        assert sorted(store.frames.tolist()) == sorted(LENGTHS)
        assert out[name].truth[0].shape[1:] == (64, 85, 3) != (*reversed(store.meta.coded), 3)
    return out


@pytest.fixture(params=[_marked(case) for case in CASES])
def case(request: pytest.FixtureRequest, stores: dict[str, Prepared]) -> tuple[str, Prepared, Callable]:
    name, form = request.param
    largest, mean = CASES[request.param]
    prepared = stores[form]

    def check(requests: list[ClipRequest], threads: int = 2) -> None:
        decoder = open_decoder(name, prepared.store, threads=threads)
        got = decoder.decode(requests)
        decoder.close()
        wanted = np.stack([prepared.truth[r.video][r.frame_indices] for r in requests])
        assert got.dtype == torch.uint8
        assert got.shape == wanted.shape
        gap = np.abs(got.numpy().astype(int) - wanted)
        assert gap.max() <= largest, f"frames differ by up to {gap.max()}"
        assert gap.mean() <= mean, f"frames differ by {gap.mean():.2f} on average"

    return name, prepared, check


def _row(store: Store, frames: int) -> int:
    return int(np.flatnonzero(store.frames == frames)[0])


def test_every_frame_of_every_video_is_the_stored_one(case):
    _, prepared, check = case
    for row, frames in enumerate(prepared.store.frames.tolist()):
        check([ClipRequest(row, np.arange(frames))])


def test_frames_come_in_any_order_and_repeated_and_from_the_last_ones(case):
    """Every request in one batch: reversed, repeated, across groups, strided to the end, one frame many times."""
    _, prepared, check = case
    long, middle, single, pair = (_row(prepared.store, frames) for frames in (41, 30, 1, 2))
    wanted = [(long, (40, 39, 24, 8, 7, 0)), (long, (3, 3, 3, 3, 3, 3)), (middle, (29, 0, 29, 0, 15, 16))]
    wanted += [(long, (15, 20, 25, 30, 35, 40)), (single, (0,) * 6), (pair, (1, 0) * 3)]
    check([ClipRequest(row, np.array(frames)) for row, frames in wanted])


def test_strided_clips_in_one_thread_and_in_more_threads_than_clips(case):
    _, prepared, check = case
    long, middle = _row(prepared.store, 41), _row(prepared.store, 30)
    requests = [ClipRequest(long, np.arange(4) * 8 + 9), ClipRequest(middle, np.arange(4) * 2 + 23)]
    check(requests, threads=1)
    check(requests, threads=5)


def test_a_decoder_answers_call_after_call(case):
    """Contexts live on: what a clip leaves behind in one must not reach the next, nor an earlier answer change."""
    name, prepared, _ = case
    decoder = open_decoder(name, prepared.store, threads=1)
    long = _row(prepared.store, 41)
    first = decoder.decode([ClipRequest(long, np.array([5, 6]))])
    kept = first.clone()
    decoder.decode([ClipRequest(long, np.array([38, 40])), ClipRequest(_row(prepared.store, 2), np.array([0, 1]))])
    assert torch.equal(first, kept)
    assert torch.equal(decoder.decode([ClipRequest(long, np.array([5, 6]))]), kept)


@pytest.mark.parametrize("name", ["pyav", "jpeg", pytest.param("ffcv", marks=pytest.mark.ffcv)])
def test_memory_of_a_batch_is_used_again_only_when_no_view_of_it_is_left(name, stores):
    prepared = stores["ffcv" if name == "ffcv" else "mjpeg"]
    decoder = open_decoder(name, prepared.store, threads=1)
    long = _row(prepared.store, 41)

    def clip(frame: int) -> torch.Tensor:
        return decoder.decode([ClipRequest(long, np.array([frame, frame]))])

    view = clip(0)[:, 1:, 5:]  # its tensor is gone, its memory is not
    kept, array = view.clone(), clip(3).numpy()
    copied = array.copy()
    for frame in range(10, 20):
        clip(frame)
    assert torch.equal(view, kept)
    np.testing.assert_array_equal(array, copied)
    places = {clip(frame).data_ptr() for frame in range(10)}
    assert len(places) == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_epoch_gives_each_video_once_over_all_ranks(case, world):
    """The video is recognised in the picture, so a decoder that mixes up its clips fails too."""
    name, prepared, _ = case
    store = prepared.store
    seen = []
    for rank in range(world):
        decoder = open_decoder(name, store, threads=2)
        plan = Plan(np.arange(len(store)), store.keys, batch=3, epochs=2, seed=5, rank=rank, world=world)
        for number in range(plan.steps_per_epoch, plan.num_steps):
            samples = plan.step(number).samples
            pictures = decoder.decode([ClipRequest(int(s), np.zeros(1, np.int64)) for s in samples]).numpy()
            for sample, picture in zip(samples, pictures, strict=True):
                gaps = [np.abs(picture[0].astype(int) - truth[0]).mean() for truth in prepared.truth]
                assert int(np.argmin(gaps)) == sample
                seen.append(store.ids[int(np.argmin(gaps))])
        decoder.close()
    assert sorted(seen) == sorted(store.ids)


def _copy(prepared: Prepared, path: Path) -> Path:
    shutil.copytree(prepared.store.path, path)
    return path / "shards/000000.tar"


def test_a_cut_shard_is_one_clear_error(case, tmp_path):
    name, prepared, _ = case
    if name == "ffcv":
        pytest.skip("reads no shard; its own file is cut in test_ffcv.py")
    shard = _copy(prepared, tmp_path / "cut")
    row = int(np.argmax(prepared.store._offset))
    with open(shard, "r+b") as file:
        file.truncate(int(prepared.store._offset[row]) + 5)
    decoder = open_decoder(name, open_store(tmp_path / "cut"), threads=1)
    with pytest.raises(DataError, match=r"ends early.*`vidssl prep` again"):
        decoder.decode([ClipRequest(row, np.array([0]))])


@pytest.mark.parametrize(("name", "form"), [("pyav", "h264"), ("pyav", "mjpeg"), ("jpeg", "mjpeg")])
def test_overwritten_bytes_name_the_video_and_the_decoder_goes_on(name, form, stores, tmp_path):
    prepared = stores[form]
    shard = _copy(prepared, tmp_path / "bad")
    bad, good = _row(prepared.store, 41), _row(prepared.store, 30)
    with open(shard, "r+b") as file:
        file.seek(int(prepared.store._offset[bad]))
        file.write(b"\x55" * int(prepared.store.packet_sizes(bad)[:9].sum()))
    decoder = open_decoder(name, open_store(tmp_path / "bad"), threads=2)
    with pytest.raises(DataError, match=f"'{prepared.store.ids[bad]}'"):
        decoder.decode([ClipRequest(bad, np.array([0, 4])), ClipRequest(good, np.array([0, 4]))])
    healthy = open_decoder(name, prepared.store, threads=1).decode([ClipRequest(good, np.array([0, 4]))])
    assert torch.equal(decoder.decode([ClipRequest(good, np.array([0, 4]))]), healthy)


def test_frames_the_video_does_not_have_are_refused(case):
    name, prepared, _ = case
    decoder = open_decoder(name, prepared.store, threads=1)
    row = _row(prepared.store, 9)
    for wrong in ([8, 9], [-1, 0]):
        with pytest.raises(IndexError, match="which has 9"):
            decoder.decode([ClipRequest(row, np.array(wrong))])


def test_a_decoder_that_cannot_read_the_store_says_which_can(stores):
    with pytest.raises(DataError, match=r"'jpeg' reads mjpeg.*holds h264.*pyav"):
        open_decoder("jpeg", stores["h264"].store)
    with pytest.raises(EnvironmentProblem, match=r"no H\.264 without a GPU.*pyav.*mjpeg"):
        open_decoder("dali", stores["h264"].store)


@pytest.mark.parametrize("form", ["h264", "mjpeg"])
def test_auto_takes_the_fastest_that_can_read_the_store_and_keeps_the_figures(form, stores):
    choice = choose_decoder(stores[form].store, "cpu", threads=1, seconds=0.2)
    figures = {m["name"]: m for m in json.loads(json.dumps(choice.to_dict()))["measurements"]}
    assert set(figures) >= {"pyav", "jpeg", "dali"}
    working = {name: m for name, m in figures.items() if not m["error"]}
    assert set(working) == ({"pyav"} if form == "h264" else {"pyav", "jpeg"})
    assert all(m["clips_per_second"] > 0 and m["cpu_ms_per_clip"] > 0 for m in working.values())
    assert choice.name == max(working, key=lambda name: working[name]["clips_per_second"])
    assert "GPU" in figures["dali"]["error"]
    assert all(name in choice.summary() for name in figures)
    open_decoder(choice.name, stores[form].store)


def test_auto_says_why_when_nothing_works(stores, tmp_path):
    shard = _copy(stores["mjpeg"], tmp_path / "cut")
    shard.write_bytes(b"")
    with pytest.raises(EnvironmentProblem, match=r"no decoder can read.*jpeg: .*ends early.*pyav: .*ends early"):
        choose_decoder(open_store(tmp_path / "cut"), seconds=0.1)


@pytest.mark.parametrize("form", ["h264", "vp9"])
def test_the_small_mp4_made_for_dali_plays_anywhere_and_gives_the_same_frames(form, stores):
    """H.264 cannot be decoded by DALI here, but libav can read the file it gets: every frame, every key flag."""
    prepared = stores[form]
    store, row = prepared.store, _row(prepared.store, 41)
    clip = store.read(row, 13, 30)
    assert clip.first_frame == 8
    keys = store.key_flags(row)[8:31]
    data = mp4.wrap(clip.data, clip.sizes, keys, form, store.meta.coded).tobytes()
    np.testing.assert_array_equal(_decode_all(data, store.meta.picture), prepared.truth[row][8:31])
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (*store.meta.coded, 23)
        assert [p.is_keyframe for p in container.demux(stream) if p.size] == keys.tolist()
    if form == "h264":
        with pytest.raises(ValueError, match=r"no H\.264 parameter sets"):
            mp4.wrap(clip.data[int(clip.sizes[0]) :], clip.sizes[1:], keys[1:], form, store.meta.coded)


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["h264", "mjpeg"])
def test_dali_on_a_gpu_agrees_with_the_reference(form, stores):
    prepared = stores[form]
    decoder = open_decoder("dali", prepared.store, "cuda")
    long = _row(prepared.store, 41)
    requests = [ClipRequest(long, np.arange(6) * 5 + 9), ClipRequest(long, np.array([40, 3, 3, 8, 7, 0]))]
    got = decoder.decode(requests).cpu().numpy().astype(int)
    gap = np.abs(got - np.stack([prepared.truth[r.video][r.frame_indices] for r in requests]))
    assert gap.mean() < 3
