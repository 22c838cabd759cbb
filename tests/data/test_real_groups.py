"""The real clips of four data sets, each prepared under its own name from official tables that name them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vidssl.data.store import open_store

from .prepared import manifest, prep

CARTWHEEL = "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"


def kinetics(source: Path, files: dict[str, dict[str, str]]) -> dict[str, str]:
    """Half of the clips under their full names, half under YouTube ids alone, as they lie here. One is an .mkv."""
    ids = {}
    lines = {"train": ["label,youtube_id,time_start,time_end,split,is_cc"]}
    lines["val"] = list(lines["train"])
    for number, (name, row) in enumerate(sorted(files.items())):
        file = source / name
        start, split = 7 * number, "val" if number % 4 == 3 else "train"
        lines[split].append(f'"{row["label"]}",{file.stem},{start},{start + 10},{split},0')
        ids[f"{file.stem}_{start:06d}_{start + 10:06d}"] = name
        if number % 2:
            folder = source / split / row["label"].replace(" ", "_")
            folder.mkdir(parents=True)
            file.rename(folder / f"{file.stem}_{start:06d}_{start + 10:06d}{file.suffix}")
    for split, text in lines.items():
        (source / f"{split}.csv").write_text("".join(f"{line}\n" for line in text))
    return ids


def ssv2(source: Path, files: dict[str, dict[str, str]]) -> dict[str, str]:
    (name, row), = files.items()  # fmt: skip
    template = row["label"].replace("something", "[something]", 1)
    (source / "labels.json").write_text(json.dumps({"Holding something": "1", row["label"]: "0"}))
    (source / "train.json").write_text(json.dumps([{"id": Path(name).stem, "template": template, "label": "as said"}]))
    (source / "validation.json").write_text(json.dumps([{"id": "1", "template": "Holding [something]"}]))
    (source / "test.json").write_text(json.dumps([{"id": "2"}]))
    return {Path(name).stem: name}


def ucf(source: Path, files: dict[str, dict[str, str]]) -> dict[str, str]:
    classes = sorted({row["label"] for row in files.values()})
    (source / "classInd.txt").write_bytes("".join(f"{n} {c}\r\n" for n, c in enumerate(classes, 1)).encode())
    ids = {f"{row['label']}/{name}": name for name, row in files.items()}
    for split in (1, 2, 3):
        test = [name for n, name in enumerate(sorted(ids)) if n % 3 == split - 1]
        train = [f"{name} {classes.index(name.split('/')[0]) + 1}" for name in ids if name not in test]
        for role, lines in (("train", train), ("test", test)):
            (source / f"{role}list0{split}.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return ids


def hmdb(source: Path, files: dict[str, dict[str, str]]) -> dict[str, str]:
    for label in ("cartwheel", "wave"):
        own = [name for name, row in files.items() if row["label"] == label]
        for split in (1, 2, 3):
            lines = [f"{name} {2 if n == split - 1 else 1} \n" for n, name in enumerate(own)]
            (source / f"{label}_test_split{split}.txt").write_text("".join(lines))
    assert CARTWHEEL in files
    return {f"{row['label']}/{name}": name for name, row in files.items()}


@pytest.mark.parametrize(
    ("dataset", "folder", "write", "classes"),
    [
        pytest.param("k400", "kinetics400", kinetics, 8, marks=pytest.mark.slow),
        ("ssv2", "ssv2", ssv2, 2),
        ("ucf101", "ucf101", ucf, 5),
        ("hmdb51", "hmdb51", hmdb, 2),
    ],
)
def test_a_real_group_under_its_own_name(
    shared_data: Path,
    tmp_path: Path,
    dataset: str,
    folder: str,
    write: Callable[[Path, dict[str, dict[str, str]]], dict[str, str]],
    classes: int,
) -> None:
    with (shared_data / "real/MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    files = {Path(path).name: row for path, row in rows.items() if path.startswith(f"{folder}/")}
    source = tmp_path / "source"
    source.mkdir()
    for name in files:
        (source / name).symlink_to(shared_data / "real" / folder / name)
    ids = write(source, files)
    summary = prep(source, tmp_path / "store", dataset=dataset, name=dataset)
    assert (summary.videos, summary.ok, summary.unlisted, summary.ignored) == (len(files), len(files), [], 0)
    store = open_store(tmp_path / "store")
    assert len(store.label_names) == classes
    seen = {n: (store.label_names[c], f) for n, c, f in zip(store.ids, store.labels, store.frames, strict=True)}
    assert seen == {video: (files[name]["label"], int(files[name]["frames"])) for video, name in ids.items()}
    made = manifest(tmp_path / "store")
    assert {ids[video]: row["sha256"] for video, row in made.items()} == {n: row["sha256"] for n, row in files.items()}
    assert summary.missing == (1 if dataset == "ssv2" else 0)  # the only clip is of the train part
    assert len(store.indices("train")) >= 1
