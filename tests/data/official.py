"""Small sources in the official forms of the data sets, and folders with tables of several splits."""

from __future__ import annotations

import json
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


# ---- data sets of one official split

YOUTUBE = ["-3B32lodo2M", "0wR5jVB-WPk", "_dbcJuKJQNs", "_DBCJuKJQNs"]  # the last two differ by case alone
K400_ROWS = [  # label, YouTube id, start, end, split
    ("abseiling", YOUTUBE[0], 59, 69, "train"),
    ("air drumming", YOUTUBE[2], 40, 50, "train"),
    ("shooting goal (soccer)", YOUTUBE[3], 40, 50, "train"),
    ("abseiling", YOUTUBE[1], 417, 427, "val"),
]
K400 = [f"{video}_{start:06d}_{end:06d}" for _, video, start, end, _ in K400_ROWS]

SSV2_CLASSES = ["Holding [something]", "Attaching [something] to [something]", "[Something] falling like a feather"]
SSV2_ROWS = {"train": {"78687": 0, "42326": 1, "1": 2}, "validation": {"74225": 1}}

DIVES = [["Back", "15som", "05Twis", "FREE"], ["Forward", "Dive", "NoTwis", "STR"]]
DIVING_ROWS = {"train": {"-mmq0PT-u8k_00155": 1, "_8Vy3dlHg2w_00000": 0}, "test": {"2x00lRzlTVQ_00001": 1}}


def write_k400(folder: Path, rows: list[tuple[str, str, int, int, str]] | None = None, **names: str) -> Path:
    """The tables that the rows are of, as DeepMind quotes them; `names` by split, by default those of CVDF."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = K400_ROWS if rows is None else rows
    for split in dict.fromkeys(row[-1] for row in rows):
        lines = ["label,youtube_id,time_start,time_end,split,is_cc"]
        for label, video, start, end, of in rows:
            quoted = f'"{label}"' if " " in label else label
            lines += [f"{quoted},{video},{start},{end},{of},0"] if of == split else []
        (folder / names.get(split, f"{split}.csv")).write_text("".join(f"{line}\n" for line in lines))
    return folder


def write_ssv2(folder: Path, before: str = "something-something-v2-") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    plain = [name.replace("[", "").replace("]", "") for name in SSV2_CLASSES]
    tables: dict[str, object] = {"labels": {name: str(number) for number, name in enumerate(plain)}}
    for role, rows in SSV2_ROWS.items():
        tables[role] = [{"id": n, "label": "as said", "template": SSV2_CLASSES[c]} for n, c in rows.items()]
    for role, content in tables.items():
        (folder / f"{before}{role}.json").write_text(json.dumps(content, indent=1))
    return folder


def write_diving48(folder: Path, version: str = "V2_") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in DIVING_ROWS.items():
        content = [{"vid_name": n, "label": c, "start_frame": 0, "end_frame": 48} for n, c in rows.items()]
        (folder / f"Diving48_{version}{split}.json").write_text(json.dumps(content))
    (folder / "Diving48_vocab.json").write_text(json.dumps(DIVES))
    return folder


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_bytes().decode()
    assert old in text
    file.write_bytes(text.replace(old, new).encode())


def listed(listing: Listing) -> dict[str, tuple[str | None, str]]:
    """id -> (class, split) of the videos that are there."""
    return {video.id: (video.label, video.split) for video in listing.videos}
