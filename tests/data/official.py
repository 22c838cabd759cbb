"""Small sources in the official form of UCF101 and HMDB51, and folders with tables of several splits."""

from __future__ import annotations

from pathlib import Path

from tests.media import moving_square, write_video
from vidssl.data.datasets import DATASETS
from vidssl.data.sources import Listing

# In the order of classInd.txt, which is not Python's: "HammerThrow" < "Hammering" there.
UCF_CLASSES = ["Hammering", "HammerThrow", "HandstandPushups"]
UCF_FILES = {name: name for name in UCF_CLASSES} | {"HandstandPushups": "HandStandPushups"}
# Group n is the test of split n, as in the official lists, where no group is in both parts.
UCF = {(name, group): f"{name}/v_{UCF_FILES[name]}_g0{group}_c01.avi" for name in UCF_CLASSES for group in (1, 2, 3)}

ODD = "#20_&TRASHED&_[a;b]_ 1_chew_h_nm_np1_fr_goo_0.avi"
HMDB_TAGS = {  # class -> file -> tag in splits 1, 2, 3
    "chew": {ODD: "120", "b_chew_1.avi": "211", "c_chew_2.avi": "012"},
    "brush_hair": {"d_brush_hair_0.avi": "112", "e_brush_hair_1.avi": "221", "f_brush_hair_2.avi": "000"},
}
PARTS = {"0": "", "1": "train", "2": "test"}


def write_ucf_lists(folder: Path, groups: dict[str, int] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = {"classInd.txt": [f"{n} {name}" for n, name in enumerate(UCF_CLASSES, 1)]}
    for split in (1, 2, 3):
        lines[f"trainlist0{split}.txt"] = [
            f"{path} {UCF_CLASSES.index(n) + 1}" for (n, g), path in UCF.items() if g != split
        ]
        lines[f"testlist0{split}.txt"] = [path for (_, g), path in UCF.items() if g == split]
    for name, rows in lines.items():
        (folder / name).write_bytes("".join(f"{row}\r\n" for row in rows).encode())


def write_hmdb_lists(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, tags in HMDB_TAGS.items():
        for split in range(3):
            text = "".join(f"{file} {tag[split]} \n" for file, tag in tags.items())
            (folder / f"{name}_test_split{split + 1}.txt").write_text(text)


def place_videos(source: Path, names: list[str]) -> None:
    """A video for each name, no two alike."""
    for number, name in enumerate(names):
        write_video(source / name, moving_square(9 + number, speed=1 + number % 3, phase=number))


def touch(source: Path, *names: str) -> Path:
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    return source


def read(dataset: str, source: Path) -> Listing:
    return DATASETS.get(dataset)(source)


def write_tables(source: Path, **tables: str) -> Path:
    """Names of tables -> lines "PATH CLASS"."""
    for name, text in tables.items():
        rows = [line.replace(" ", ",") for line in text.split("\n")]
        (source / f"{name}.csv").write_text("\n".join(["path,label", *rows, ""]))
    return source
