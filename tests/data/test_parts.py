"""`prep k400 --download` as a whole, against a server on this machine that holds a tiny K400 in parts."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http_server import Fault, Server, serving
from tests.media import moving_square, write_video
from vidssl.data import download, parts, prep_work, rar
from vidssl.data.parts import prepare_downloaded
from vidssl.data.prep_summary import PrepSummary
from vidssl.data.verify import verify
from vidssl.data.work import Job, process
from vidssl.engine.progress import Reporter
from vidssl.errors import ConfigError, DataError, EnvironmentProblem

from .official import DIVING_ROWS, UCF, place_videos, write_diving48, write_ucf_lists
from .prepared import hashes, manifest
from .prepared import prep as run_prep
from .test_prep_kill import InProcess

BASE = "https://s3.amazonaws.com/kinetics/400/"
HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
CLASSES = ("air drumming", "zumba")
# Where the videos lie; of number 4 and 9 the parts hold nothing, number 7 is cut in the parts and replaced.
TRAIN = {"part_0.tar.gz": (0, 1, 2, 3), "part_1.tar.gz": (5, 6, 7), "part_2.tar.gz": (8, 10, 11)}
MISSING, REPLACED, TESTS = (4, 9), 7, (12, 13)


def clip(number: int) -> str:
    return f"video{number:06d}_000010_000020"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server holds, with the same files unpacked beside it in `unpacked`."""
    folder = tmp_path_factory.mktemp("k400")
    web, unpacked = folder / "served", folder / "unpacked"
    videos = {n: write_video(folder / f"{n}.mp4", moving_square(20 + n, speed=1 + n % 5, phase=n)) for n in range(14)}
    for role, numbers in (("train", range(12)), ("val", TESTS)):
        rows = [f"{CLASSES[n % 2]},video{n:06d},10,20,{role},0\n" for n in numbers]
        for place in (web / "annotations", unpacked):
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{role}.csv").write_text(HEADER + "".join(rows))
    for part, numbers in TRAIN.items():
        # one of the official parts was a plain tar under its name, with the folders of its maker
        mode, below = ("w", "home/maker/train/") if part == "part_1.tar.gz" else ("w:gz", "./")
        content = {f"{below}{clip(n)}.mp4": videos[n].read_bytes() for n in numbers}
        content[f"{below}notes"] = random.Random(part).randbytes(60_000)  # so that no two of them fit where one must
        _pack(web / "train" / part, mode, content)
    _pack(web / "val" / "part_0.tar.gz", "w:gz", {f"./{clip(n)}.mp4": videos[n].read_bytes() for n in TESTS})
    cut = videos[REPLACED].read_bytes()
    _pack(
        web / "replacement_for_corrupted_k400.tgz",
        "w:gz",
        {f"replacement_for_corrupted_k400/{clip(REPLACED)}.mp4": cut},
    )
    (web / "train" / "k400_train_path.txt").write_text("".join(f"{BASE}train/{part}\n" for part in TRAIN))
    (web / "val" / "k400_val_path.txt").write_text(f"{BASE}val/part_0.tar.gz\n")
    for archive in web.rglob("*.t*gz"):
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked / archive.parent.name, filter="data")
    return folder


def _pack(file: Path, mode: str, members: dict[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as tar:
        for place, (name, data) in enumerate(members.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 1_600_000_000 + place, 0o644
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "PAUSES", (0.01, 0.01))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parts, prep_work):
        monkeypatch.setattr(module, "WorkerPool", InProcess)


@pytest.fixture
def server(served: Path, tmp_path: Path) -> Iterator[Server]:
    with serving(Path(shutil.copytree(served / "served", tmp_path / "web"))) as running:
        yield running


def fetch_all(server: Server, **options: Any) -> PrepSummary:
    fixed = {
        "dataset": "k400", "name": "k400", "mirror": server.url, "max_disk": 10**9, "subset": None, "workers": 1,
        "short_side": 48, "fit": "cover", "format": "h264", "progress": Reporter(quiet=True),
    }  # fmt: skip
    return prepare_downloaded(**{**fixed, **options})


@pytest.fixture(scope="module")
def from_folder(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Hashes of the store that the same files give, unpacked, by the options of `prepare`."""
    made: dict[str, dict[str, str]] = {}

    def store(**options: Any) -> dict[str, str]:
        key = repr(options)
        if key not in made:
            folder = tmp_path_factory.mktemp("unpacked") / "k400"
            run_prep(served / "unpacked", folder, name="k400", dataset="k400", **options)
            made[key] = hashes(folder)
        return made[key]

    return store


def bodies(server: Server) -> list[str]:
    return [path for method, path, _ in server.requests if method == "GET"]


def test_same_store_as_from_the_unpacked_files(server: Server, home: Path, from_folder: Any) -> None:
    summary = fetch_all(server)
    assert (summary.ok, summary.videos, summary.skipped) == (12, 12, 0)
    assert hashes(home / "data" / "k400") == from_folder()
    left = sorted(path.name for path in (home / "downloads" / "k400").iterdir())
    assert left == [".lock", "lists", "source"]
    assert len(bodies(server)) == len(set(bodies(server))) == 2 + 2 + 5  # tables, lists, archives: each once
    server.requests.clear()
    assert fetch_all(server).skipped == 12
    assert not server.requests, "what is done asks for nothing"


def test_a_repair_fetches_only_what_it_lacks(server: Server, home: Path) -> None:
    assert fetch_all(server).skipped == 0
    store = home / "data" / "k400"
    before, file = hashes(store), store / "shards" / "000000.tar"
    data = bytearray(file.read_bytes())
    data[700] ^= 1  # in the first video
    file.write_bytes(data)
    server.requests.clear()
    assert verify(store, Reporter(quiet=True), repair=True).put_back == 1
    assert fetch_all(server, subset=3).skipped == 11  # however little is chosen
    assert len(bodies(server)) == 1, "the archive of the bad one"
    after = hashes(store)
    assert {name: after[name] for name in before} == before


def test_subset_and_its_growth(server: Server, home: Path, from_folder: Any, served: Path, tmp_path: Path) -> None:
    """Missing videos are stood in for as from a folder, and growing fetches only what holds something new."""
    summary = fetch_all(server, subset=4)
    assert summary.ok == 4 + len(TESTS)
    assert hashes(home / "data" / "k400") == from_folder(subset=4)
    server.requests.clear()
    fetch_all(server, subset=8)
    assert "val/part_0.tar.gz" not in bodies(server)
    grown = tmp_path / "grown"
    for subset in (4, 8):
        run_prep(served / "unpacked", grown, name="k400", dataset="k400", subset=subset)
    assert hashes(home / "data" / "k400") == hashes(grown)


@pytest.mark.slow
def test_damaged_videos_are_stood_in_for(served: Path, server: Server, home: Path, tmp_path: Path) -> None:
    """Two rounds of choosing: the first takes videos that turn out to be no videos."""
    unpacked = shutil.copytree(served / "unpacked", tmp_path / "unpacked")
    part, numbers = "part_0.tar.gz", TRAIN["part_0.tar.gz"]
    content = {f"./{clip(n)}.mp4": (unpacked / "train" / f"{clip(n)}.mp4").read_bytes() for n in numbers}
    for n in numbers[:2]:
        content[f"./{clip(n)}.mp4"] = b"no video"
    _pack(server.folder / "train" / part, "w:gz", content)
    with tarfile.open(server.folder / "train" / part) as tar:
        tar.extractall(unpacked / "train", filter="data")
    for subset in (6, 8):
        store = tmp_path / f"store{subset}"
        run_prep(unpacked, store, name="k400", dataset="k400", subset=subset)
        fetch_all(server, subset=subset, store_dir=tmp_path / f"fetched{subset}")
        assert hashes(tmp_path / f"fetched{subset}") == hashes(store)
        statuses = [row["status"] for row in manifest(store).values()]
        assert statuses.count("ok") == subset + len(TESTS)
    assert "rejected" in statuses


def test_a_lost_shard_is_made_again_in_its_place(served: Path, server: Server, home: Path, tmp_path: Path) -> None:
    """One of its videos has come into a later one with another label: the others keep their numbers, as from files."""
    unpacked, expected = shutil.copytree(served / "unpacked", tmp_path / "unpacked"), tmp_path / "expected"
    stores = {unpacked: expected, home / "downloads/k400/source/annotations": home / "data/k400"}

    def prepare_both() -> None:
        run_prep(unpacked, expected, name="k400", dataset="k400", shard_videos=4)
        fetch_all(server, shard_videos=4)

    prepare_both()
    row = next(row for row in manifest(expected).values() if row["number"] == 1)
    (other,) = {*CLASSES} - {row["label"]}
    for tables in stores:
        table, youtube = tables / f"{'train' if row['split'] == 'train' else 'val'}.csv", row["id"].partition("_")[0]
        table.write_text(table.read_text().replace(f"{row['label']},{youtube}", f"{other},{youtube}"))
    prepare_both()
    for store in stores.values():
        (store / "shards/000000.tar").unlink()
    prepare_both()
    assert sorted(row["number"] for row in manifest(expected).values())[:4] == [0, 2, 3, 10_000]
    assert hashes(home / "data/k400") == hashes(expected)


@pytest.mark.parametrize("dataset", ["diving48", "ucf101"])
def test_other_sets(dataset: str, home: Path, tmp_path: Path) -> None:
    """One archive, other readers, a missing video. (What is in an archive is seen in its bytes, not in its name.)"""
    web = tmp_path / "web"
    if dataset == "diving48":
        write_diving48(web)
        names, archive = [f"rgb/{name}.mp4" for rows in DIVING_ROWS.values() for name in rows], "Diving48_rgb.tar.gz"
    else:
        write_ucf_lists(tmp_path / "lists")
        web.mkdir()
        with zipfile.ZipFile(web / "UCF101TrainTestSplits-RecognitionTask.zip", "w") as lists:
            for file in sorted((tmp_path / "lists").iterdir()):
                lists.write(file, f"ucfTrainTestlist/{file.name}")
        names, archive = [f"UCF-101/{name}" for name in UCF.values()], "UCF101.rar"
    place_videos(tmp_path / "videos", names[1:])
    _pack(web / archive, "w:gz", {name: (tmp_path / "videos" / name).read_bytes() for name in names[1:]})
    with serving(web) as server:
        summary = fetch_all(server, dataset=dataset, name="k400")
    assert summary.ok == len(names) - 1
    run_prep(web, tmp_path / "archives", name="k400", dataset=dataset)
    assert hashes(home / "data" / "k400") == hashes(tmp_path / "archives")


def test_unpacker_is_asked_for_before_the_download(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rar, "programs", list)
    (server.folder / "UCF101TrainTestSplits-RecognitionTask.zip").write_bytes(b"")
    with pytest.raises(EnvironmentProblem, match=r"UCF101\.rar.*unar"):
        fetch_all(server, dataset="ucf101")
    assert "UCF101.rar" not in bodies(server)


# ---- cut, killed, refused


def test_cut_transfers_go_on(server: Server, home: Path, from_folder: Any) -> None:
    for archive in server.folder.rglob("*.t*gz"):
        name = archive.relative_to(server.folder).as_posix()
        server.faults[name] = Fault(cut_after=archive.stat().st_size // 3, times=2)
    fetch_all(server)
    assert [first > 0 for first in server.bodies("train/part_0.tar.gz")] == [False, True, True]
    assert hashes(home / "data" / "k400") == from_folder()


def test_stopped_within_an_archive(
    server: Server, home: Path, from_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked_on: list[str] = []

    def counted(job: Job) -> dict[str, Any]:
        if len(worked_on) == 5:
            worked_on.append("")
            raise KeyboardInterrupt
        worked_on.append(job.video.id)
        return process(job)

    monkeypatch.setattr(parts, "process", counted)
    with pytest.raises(KeyboardInterrupt):
        fetch_all(server)
    fetch_all(server)
    worked_on.remove("")
    assert sorted(worked_on) == [clip(n) for n in range(14) if n not in MISSING], "each video is done once"
    for archive in ("replacement_for_corrupted_k400.tgz", "val/part_0.tar.gz", "train/part_0.tar.gz"):
        assert server.bodies(archive) == [0], "two archives were done, the third was there"
    assert hashes(home / "data" / "k400") == from_folder()


@pytest.mark.parametrize("subset", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_missing_part_is_told_and_the_rest_stays(
    subset: int | None, server: Server, home: Path, from_folder: Any
) -> None:
    part = server.folder / "train" / "part_1.tar.gz"
    part.rename(part.with_suffix(".away"))
    with pytest.raises(DataError, match=r"train/part_1\.tar\.gz: the server answers 404(.|\n)*--mirror"):
        fetch_all(server, subset=subset)
    assert not (home / "data" / "k400" / "index.parquet").exists()
    server.requests.clear()
    part.with_suffix(".away").rename(part)
    fetch_all(server, subset=subset)
    assert "train/part_0.tar.gz" not in bodies(server), "a part that is done never comes again"
    options = {} if subset is None else {"subset": subset}
    assert hashes(home / "data" / "k400") == from_folder(**options)


def test_wrong_size_is_told(server: Server, home: Path, from_folder: Any) -> None:
    size = (server.folder / "train" / "part_0.tar.gz").stat().st_size
    server.faults["train/part_0.tar.gz"] = Fault(announced=size + 100)
    with pytest.raises(
        EnvironmentProblem, match=rf"part_0\.tar\.gz(.|\n)*byte {size} of {size + 100}(.|\n)*same command"
    ):
        fetch_all(server)
    server.faults.clear()
    fetch_all(server)
    assert hashes(home / "data" / "k400") == from_folder()


def test_a_page_in_place_of_an_archive(server: Server, home: Path, from_folder: Any) -> None:
    part = server.folder / "train" / "part_0.tar.gz"
    whole = part.read_bytes()
    part.write_bytes(b"<html>Please log in</html>")
    with pytest.raises(DataError, match=r"part_0\.tar\.gz came whole and is no archive(.|\n)*<html>(.|\n)*--mirror"):
        fetch_all(server)
    part.write_bytes(whole)
    fetch_all(server)
    assert hashes(home / "data" / "k400") == from_folder()


@pytest.mark.parametrize(
    ("part", "what"), [pytest.param("part_1.tar.gz", "cut", marks=pytest.mark.slow), ("part_0.tar.gz", "flipped")]
)
def test_archive_that_is_damaged_on_its_way_comes_again(
    part: str, what: str, server: Server, home: Path, from_folder: Any
) -> None:
    """Cut, a plain tar; with one bit flipped, where a checksum alone can tell."""
    came = bytearray((server.folder / "train" / part).read_bytes())
    if what == "cut":
        del came[-63_000:]
    else:
        came[-30_000] ^= 1  # within the notes, which come last and do not shrink
    server.faults[f"train/{part}"] = Fault(content=bytes(came), times=1)
    fetch_all(server)
    assert server.bodies(f"train/{part}") == [0, 0]
    assert hashes(home / "data" / "k400") == from_folder()


def test_archive_that_is_damaged_on_the_server(server: Server, home: Path, tmp_path: Path) -> None:
    """What can be read of it is taken, as from a folder of archives, when it has come twice."""
    for part in ("part_0.tar.gz", "part_1.tar.gz"):  # the second is a plain tar
        file = server.folder / "train" / part
        file.write_bytes(file.read_bytes()[: -(60_000 + 3_000)])  # through a video
    fetch_all(server)
    twice = sorted(path for path in set(bodies(server)) if bodies(server).count(path) == 2)
    assert twice == ["train/part_0.tar.gz", "train/part_1.tar.gz"]
    assert len(bodies(server)) == len(set(bodies(server))) + 2
    run_prep(server.folder, tmp_path / "archives", name="k400", dataset="k400")
    assert hashes(home / "data" / "k400") == hashes(tmp_path / "archives")
    reasons = [row["reason"] for row in manifest(tmp_path / "archives").values() if row["status"] != "ok"]
    assert reasons
    assert all("part_" in reason for reason in reasons)


@pytest.mark.parametrize("file", ["annotations/train.csv", "train/k400_train_path.txt"])
def test_a_page_in_place_of_a_table_or_list(file: str, server: Server, home: Path, from_folder: Any) -> None:
    server.faults[file] = Fault(content=b"<html>\n<body>Please log in</body>\n</html>\n")
    with pytest.raises(DataError, match=rf"{server.url}/{file}(.|\n)*removed(.|\n)*--mirror"):
        fetch_all(server)
    server.faults.clear()
    fetch_all(server)
    assert hashes(home / "data" / "k400") == from_folder()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("file:///etc/x.tar.gz\n", "no address of an archive"),
        (f"{BASE}train/part_0.tar.gz\nhttp://elsewhere/part_0.tar.gz\n", "there twice"),
        ("\n", "empty"),
    ],
)
def test_lists_that_are_not_followed(lines: str, says: str, server: Server, home: Path) -> None:
    (server.folder / "val" / "k400_val_path.txt").write_text(lines)
    with pytest.raises(DataError, match=rf"k400_val_path\.txt is no list of archives: .*{says}"):
        fetch_all(server)
    assert not (home / "downloads" / "k400" / "lists" / "val" / "k400_val_path.txt").exists()


def test_other_settings_than_those_of_an_unfinished_download(
    server: Server, home: Path, from_folder: Any, tmp_path: Path
) -> None:
    server.faults["train/part_2.tar.gz"] = Fault(status=404)
    with pytest.raises(DataError):
        fetch_all(server, short_side=32)
    server.faults.clear()
    fetch_all(server)
    assert hashes(home / "data" / "k400") == from_folder()
    server.requests.clear()
    fetch_all(server, short_side=32, store_dir=tmp_path / "k400")
    assert hashes(tmp_path / "k400") == from_folder(short_side=32)
    assert bodies(server) == ["train/part_2.tar.gz"], "what was kept for these settings is still there"
    assert not (home / "downloads" / "k400" / "kept").exists()


def test_what_a_kill_left_is_removed(server: Server, home: Path) -> None:
    downloads = home / "downloads" / "k400"
    places = (downloads / "kept" / "h264-48-cover-8-h264", downloads / "source" / "train")
    left = [places[0] / name for name in (".copy-7", ".vidssl-x.tmp", ".00000001.json.77.tmp")]
    left.append(places[1] / ".part_0.tar.gz.members.json.77.tmp")
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (server.folder / "val" / "k400_val_path.txt").unlink()
    with pytest.raises(DataError, match="404"):
        fetch_all(server)
    assert not [file for file in left if file.exists()]


def test_sigterm_stops_a_download_as_ctrl_c_does(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(job: Job) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(parts, "process", terminated)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("SIGTERM was not handled"))
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch_all(server)
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- disk


def test_disk_is_bounded(
    served: Path, server: Server, home: Path, from_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [file.stat().st_size for file in server.folder.rglob("*.t*gz")]
    most = max(sizes) + 2 * max(file.stat().st_size for file in (served / "unpacked").rglob("*.mp4"))
    seen = [0]
    arriving = home / "downloads" / "k400" / "arriving"

    def watched(real: Any) -> Any:
        def chunk(out: Any, data: bytes, *more: Any) -> None:
            real(out, data, *more)
            seen.append(sum(file.stat().st_size for file in arriving.rglob("*") if file.is_file()))

        return chunk

    monkeypatch.setattr(download, "_write", watched(download._write))
    left = arriving / "train" / "part_2.tar.gz.part"  # of a run that was allowed more
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(most - 10))
    fetch_all(server, max_disk=most)
    assert max(sizes) <= max(seen) <= most
    assert hashes(home / "data" / "k400") == from_folder()


def test_too_little_disk_is_refused_with_what_is_needed(server: Server, home: Path) -> None:
    with pytest.raises(ConfigError, match=r"--max-disk 1e-06 GB is too little: .* Give at least --max-disk"):
        fetch_all(server, max_disk=1_000)
    assert not any("tgz" in path or "tar" in path for path in bodies(server))


def test_no_room_on_disk(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(home.parent)._replace(free=500)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EnvironmentProblem, match=r"free, and .*replacement.* takes .* more(.|\n)*Make space"):
        fetch_all(server)


# ---- the command itself


def command(server: Server, home: Path, *words: str) -> subprocess.Popen[str]:
    fixed = ("prep", "k400", "--download", "--mirror", server.url, "--short-side", "48", "--workers", "2", "--json")
    return subprocess.Popen(
        [sys.executable, "-m", "vidssl", *fixed, *words],
        env={**os.environ, "VIDSSL_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(seed: int, server: Server, home: Path, from_folder: Any) -> None:
    moments = random.Random(seed)
    for archive in server.folder.rglob("*.t*gz"):
        server.faults[archive.relative_to(server.folder).as_posix()] = Fault(pause=0.05)
    kills = 0
    for _ in range(3):
        before = _arrived_or_kept(home)
        running = command(server, home, "--subset", "6")
        while _arrived_or_kept(home) == before and running.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1.0))
        running.kill()
        kills += running.wait() == -signal.SIGKILL
        running.communicate()
    assert kills
    running = command(server, home, "--subset", "6")
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert hashes(home / "data" / "k400") == from_folder(subset=6)


def _arrived_or_kept(home: Path) -> dict[str, int]:
    """Bytes of archives that are coming, by name, and how many videos are kept."""
    found = {"kept": 0}
    for folder, _, files in os.walk(home / "downloads"):
        for file in files:
            if file.endswith(".part"):
                found[file] = download.size_on_disk(Path(folder, file))
            found["kept"] += "/kept/" in folder and file.endswith(".json")
    return found


def test_command_says_what_went_wrong(server: Server, home: Path) -> None:
    (server.folder / "val" / "k400_val_path.txt").unlink()
    running = command(server, home, "--subset", "6")
    out, err = running.communicate(timeout=60)
    assert running.returncode == 2
    assert not out
    assert err.count("error:") == 1
    assert "val/k400_val_path.txt: the server answers 404" in err
    assert "Traceback" not in err
