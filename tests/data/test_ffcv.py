"""Format and decoder `ffcv`. What is marked needs the package, which has to be built; the rest is what others see.

The decoder's contract (orders, repeats, epochs, frames that are not there) is in test_decoders.py, for ffcv as well.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import vidssl.data
from vidssl.data import ClipRequest, Store, open_decoder, open_store
from vidssl.data.decode.auto import choose_decoder
from vidssl.data.verify import verify
from vidssl.engine.progress import Reporter
from vidssl.errors import DataError, EnvironmentProblem

from ..media import moving_square, write_video
from .prepared import hashes, prep

FILE = "videos.beton"


def _all_frames(decoder: str, store: Store) -> list[torch.Tensor]:
    opened = open_decoder(decoder, store, threads=1)
    return [opened.decode([ClipRequest(v, np.arange(n))])[0].clone() for v, n in enumerate(store.frames.tolist())]


# ---- without ffcv


@pytest.fixture
def no_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vidssl.data.beton", "vidssl.data.ffcv_field"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(vidssl.data, name.rpartition(".")[2], raising=False)
    monkeypatch.setitem(sys.modules, "ffcv", None)


def test_without_the_package_format_and_decoder_say_what_to_install(no_ffcv, tiny_source, tiny_mjpeg_store, tmp_path):
    what_to_do = r"libturbojpeg0-dev.*pip install 'vidssl\[ffcv\]'.*--format mjpeg"
    with pytest.raises(EnvironmentProblem, match=f"^--format ffcv needs the package ffcv.*{what_to_do}"):
        prep(tiny_source, tmp_path / "new", format="ffcv")
    assert not (tmp_path / "new").exists()
    shutil.copytree(tiny_mjpeg_store, tmp_path / "store")
    meta = json.loads((tmp_path / "store/store.json").read_text())
    (tmp_path / "store/store.json").write_text(json.dumps({**meta, "format": "ffcv"}))
    store = open_store(tmp_path / "store")
    with pytest.raises(EnvironmentProblem, match=f"^decoder 'ffcv' needs the package ffcv.*{what_to_do}"):
        open_decoder("ffcv", store)
    figures = {m.name: m for m in choose_decoder(store, threads=1, seconds=0.1).measurements}
    assert "needs the package ffcv" in figures["ffcv"].error
    assert not figures["jpeg"].error


def test_stores_of_other_formats_are_no_matter_for_it(no_ffcv, tiny_store, tiny_mjpeg_store):
    with pytest.raises(DataError, match=r"'ffcv' reads mjpeg.*holds h264"):
        open_decoder("ffcv", open_store(tiny_store))
    with pytest.raises(DataError, match=r"reads stores of format ffcv.*has format 'mjpeg'.*--format ffcv"):
        open_decoder("ffcv", open_store(tiny_mjpeg_store))


# ---- with ffcv


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, train and test, of 40 frames to one."""
    source = tmp_path_factory.mktemp("ffcv") / "source"
    for number, length in enumerate((40, 31, 30, 5, 2, 1)):
        frames = moving_square(length, speed=number + 1, phase=number * 7)
        write_video(source / ("train" if number % 3 else "test") / "ab"[number % 2] / f"{number}.mp4", frames)
    return source


@pytest.fixture(scope="module")
def store(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("ffcv") / "store"
    prep(source, path, format="ffcv")
    return open_store(path)


@pytest.fixture(scope="module")
def beton() -> ModuleType:
    from vidssl.data import beton

    return beton


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Path:
    shutil.copytree(store.path, tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.ffcv
def test_it_holds_the_shards_of_an_mjpeg_store_and_gives_the_frames_of_decoder_jpeg(store, source, tmp_path):
    prep(source, tmp_path / "mjpeg", format="mjpeg")
    mine, other = hashes(store.path), hashes(tmp_path / "mjpeg")
    assert {name for name in mine if mine[name] != other.get(name)} == {FILE, "store.json"}
    for got, wanted in zip(_all_frames("ffcv", store), _all_frames("jpeg", store), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.ffcv
@pytest.mark.parametrize("os_cache", [True, False])
def test_a_loader_of_ffcv_reads_the_file_in_a_pipeline_of_its_user(os_cache, store):
    from ffcv.fields.basics import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import Squeeze, ToTensor

    from vidssl.data.ffcv_field import ClipDecoder, VideoField

    chosen = np.array([5, 0, 3, 2])
    pipelines = {
        "video": [ClipDecoder(frames=6, stride=3, start="middle"), ToTensor()],
        "label": [IntDecoder(), ToTensor(), Squeeze()],
    }
    loader = Loader(
        str(store.path / FILE), batch_size=2, num_workers=2, os_cache=os_cache, order=OrderOption.SEQUENTIAL,
        indices=chosen, custom_fields={"video": VideoField}, pipelines=pipelines,
    )  # fmt: skip
    frames = _all_frames("jpeg", store)
    for _ in range(2):  # epochs
        clips, labels = (torch.cat(part) for part in zip(*((v.clone(), n.clone()) for v, n in loader), strict=True))
        assert labels.tolist() == store.labels[chosen].tolist()
        for clip, row in zip(clips, chosen.tolist(), strict=True):
            first = max(len(frames[row]) - 16, 0) // 2  # 6 frames, stride 3: a span of 16
            wanted = np.minimum(first + np.arange(6) * 3, len(frames[row]) - 1)
            assert torch.equal(clip, frames[row][wanted])


@pytest.mark.ffcv
def test_random_clips_begin_anywhere_in_the_video_and_stay_in_it(store):
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    from vidssl.data.ffcv_field import ClipDecoder, VideoField

    frames, (row,) = _all_frames("jpeg", store), np.flatnonzero(store.frames == 40)
    loader = Loader(
        str(store.path / FILE), batch_size=1, num_workers=1, order=OrderOption.RANDOM, indices=[row],
        custom_fields={"video": VideoField}, pipelines={"video": [ClipDecoder(), ToTensor()], "label": None},
    )  # fmt: skip
    starts = set()
    for _ in range(40):
        ((clip,),) = ((video[0].clone(),) for (video,) in loader)
        found = [s for s in range(10) if torch.equal(clip, frames[row][s : s + 31 : 2])]  # 40 frames, a span of 31
        assert len(found) == 1
        starts.update(found)
    assert len(starts) >= 6
    with pytest.raises(ValueError, match="Legal: random, middle"):
        ClipDecoder(start="end")


@pytest.mark.ffcv
def test_the_file_has_the_same_bytes_whenever_it_is_made_and_is_made_only_when_needed(source, tmp_path, store):
    path = tmp_path / "store"
    prep(source, path, format="ffcv", subset=2)
    small = (path / FILE).read_bytes()
    prep(source, path, format="ffcv", subset=2)
    made = (path / FILE).stat()
    prep(source, path, format="ffcv", subset=2)
    assert (path / FILE).stat().st_ino == made.st_ino
    (path / FILE).unlink()
    prep(source, path, format="ffcv", subset=2)
    assert (path / FILE).read_bytes() == small
    prep(source, path, format="ffcv")
    assert open_store(path).ids != open_store(store.path).ids  # grown: other shards, so another order
    for got, wanted in zip(_all_frames("ffcv", open_store(path)), _all_frames("jpeg", open_store(path)), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.ffcv
def test_two_preps_of_one_source_make_the_same_file(source, store, tmp_path):
    prep(source, tmp_path / "again", format="ffcv", workers=2)
    assert (tmp_path / "again" / FILE).read_bytes() == (store.path / FILE).read_bytes()


@pytest.mark.ffcv
@pytest.mark.parametrize("cut", [0, 10, 4000, -1])
def test_a_file_that_is_cut_is_refused_when_opened_and_made_again(cut, copy, source, store):
    with open(copy / FILE, "r+b") as file:
        file.truncate(cut if cut >= 0 else (copy / FILE).stat().st_size + cut)
    with pytest.raises(DataError, match=r"videos\.beton is missing, damaged.*same `vidssl prep`"):
        open_decoder("ffcv", open_store(copy))
    prep(source, copy, format="ffcv")
    assert hashes(copy) == hashes(store.path)


@pytest.mark.ffcv
def test_a_file_of_another_index_is_refused(copy, source, store):
    prep(source, copy.parent / "smaller", format="ffcv", subset=2)
    shutil.copy(copy.parent / "smaller" / FILE, copy / FILE)
    with pytest.raises(DataError, match="not of the index beside it"):
        open_decoder("ffcv", open_store(copy))


@pytest.mark.ffcv
@pytest.mark.parametrize("where", ["table", "jpeg"])
def test_damaged_bytes_name_video_and_frame_and_the_decoder_goes_on(where, copy, store, beton):
    bad, good = np.flatnonzero(store.frames >= 5)[:2].tolist()
    start, sizes = beton.open_beton(copy).metadata["f0"]["data_ptr"].astype(int), store.packet_sizes(good)
    with open(copy / FILE, "r+b") as file:
        if where == "table":  # frame 0 is where the next sample has its own
            first = start[good] - start[bad] + 4 * (len(sizes) + 1)
            file.seek(start[bad])
            file.write(np.array([first, first + sizes[0]], "<u4").tobytes())
        else:
            file.seek(start[bad] + 4 * (store.frames[bad] + 1) + int(store.packet_sizes(bad)[:3].sum()))
            file.write(b"\xff" * 40)
    decoder = open_decoder("ffcv", open_store(copy), threads=2)
    frame = 0 if where == "table" else 3
    with pytest.raises(DataError, match=rf"^frame {frame} of '{store.ids[bad]}' .*Delete that file"):
        decoder.decode([ClipRequest(bad, np.array([0, 3])), ClipRequest(good, np.array([0, 4]))])
    wanted = open_decoder("jpeg", store).decode([ClipRequest(good, np.array([0, 4]))])
    assert torch.equal(decoder.decode([ClipRequest(good, np.array([0, 4]))]), wanted)


@pytest.mark.ffcv
def test_verify_reads_it_too(copy, store, beton):
    assert not verify(copy).problems
    at = int(beton.open_beton(copy).metadata["f0"]["data_ptr"][2])
    with open(copy / FILE, "r+b") as file:
        file.seek(at + 600)
        byte = file.read(1)[0]
        file.seek(at + 600)
        file.write(bytes([byte ^ 1]))
    (problem,) = verify(copy).problems[FILE]
    assert problem.startswith(f"sample 2, {store.ids[2]}, is not what the shards hold")
    (copy / FILE).unlink()
    assert verify(copy).problems == {FILE: ["it is missing or cut, or holds what is not in the index"]}


@pytest.mark.ffcv
def test_pages_grow_with_the_largest_sample_and_no_sample_crosses_one(copy, store, beton, monkeypatch):
    largest = max(int(store.packet_sizes(v).sum()) + 4 * (n + 1) for v, n in enumerate(store.frames.tolist()))
    monkeypatch.setattr(beton, "MIN_PAGE", 1 << 12)
    (copy / FILE).unlink()
    assert beton.write(copy, Reporter(quiet=True))
    reader = beton.open_beton(copy)
    page = int(reader.page_size)
    assert largest <= page < 2 * (largest + 8)
    start, size = reader.alloc_table["ptr"].astype(int), reader.alloc_table["size"].astype(int)
    assert (start // page == (start + size - 1) // page).all()
    assert len(set(start // page)) > 1
    for got, wanted in zip(_all_frames("ffcv", open_store(copy)), _all_frames("jpeg", store), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.ffcv
def test_a_video_that_is_larger_than_a_page_may_be_is_named_and_the_shards_stay(
    copy, source, store, beton, monkeypatch
):
    (copy / FILE).unlink()
    monkeypatch.setattr(beton, "MIN_PAGE", 1 << 11)
    monkeypatch.setattr(beton, "MAX_PAGE", 1 << 12)
    longest = store.ids[int(np.argmax(store.frames))]
    with pytest.raises(DataError, match=rf"'{longest}' has \d+ bytes.*may have 4096.*--format mjpeg"):
        prep(source, copy, format="ffcv")
    assert set(hashes(store.path)) - set(hashes(copy)) == {FILE}


@pytest.mark.ffcv
def test_a_full_disk_leaves_the_file_of_before(copy, source, store, beton, monkeypatch):
    def full(file: object, *_: object) -> None:
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(beton, "open_beton", lambda store: None)  # as if videos had changed
    monkeypatch.setattr(beton, "_write", full)
    with pytest.raises(EnvironmentProblem, match=r"No space left.*same command again"):
        prep(source, copy, format="ffcv")
    assert hashes(copy) == hashes(store.path)


@pytest.mark.ffcv
def test_auto_measures_it_where_the_store_has_the_file(store):
    figures = {m.name: m for m in choose_decoder(store, threads=1, seconds=0.3).measurements}
    assert not figures["ffcv"].error
    assert figures["ffcv"].clips_per_second > 0


@pytest.mark.ffcv
def test_opening_it_leaves_the_threads_of_torch_and_numba_alone():
    """Importing ffcv sets both to one, for all that the process does afterwards."""
    code = (
        "import numba, torch; torch.set_num_threads(3); before = numba.get_num_threads()\n"
        "from vidssl.data.decode.ffcv import import_beton; import_beton('this test')\n"
        "assert torch.get_num_threads() == 3 and numba.get_num_threads() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
