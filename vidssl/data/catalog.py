"""From the name of a data set to an open store.

A name is a prepared set under `$VIDSSL_HOME/data`, or NAME-SYSTEM where that set has a further label system
(`embedded-motion`), or the folder of a store. `:2` after any of them opens the second official split of a set that has
several (`ucf101:2`); without it the first is meant. The embedded set is prepared on first use, which is announced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..engine.progress import Reporter
from ..errors import DataError
from ..home import stores_dir
from .datasets import DATASETS
from .manifest import shard_numbers
from .store import FIRST_SPLIT, Store, StoreMeta, official_splits, open_store, read_meta
from .subset import nested_subsets, parse_size
from .subset_lists import subset_hashes

if TYPE_CHECKING:
    from .prep_summary import PrepSummary

EMBEDDED = "embedded"
EMBEDDED_SHORT_SIDE = (
    80  # 107x80 in a 112x80 frame: the small preset's 64 px come from a 70 px crop, as 112 do from 128
)
_MARKS = ("index.parquet", "store.json")  # of a store; the first only of a finished one
_AGAIN = "run its `vidssl prep` again"
_UNLESS = f"unless prep is at work on it, {_AGAIN}"


def prepared() -> list[str]:
    """Names of the finished stores, sorted."""
    folder = stores_dir()
    return sorted(p.parent.name for p in folder.glob("*/index.parquet")) if folder.is_dir() else []


def listed() -> list[str]:
    """Names of all stores, those that are not finished too, sorted."""
    folder = stores_dir()
    return sorted({file.parent.name for name in _MARKS for file in folder.glob(f"*/{name}")})


def default_source() -> str:
    """Kinetics-400 where it is prepared (the benchmark's source), otherwise the embedded set."""
    return "k400" if "k400" in prepared() else EMBEDDED


def open_data(name: str, reporter: Reporter) -> Store:
    """Opens a data set by name. Raises DataError or ConfigError with the names there are."""
    name, split = split_of(name)
    if "/" in name:
        return open_store(Path(name).expanduser(), split=split)
    if name in prepared():
        return open_store(stores_dir() / name, split=split)
    base, dash, system = name.rpartition("-")
    if name.partition("-")[0] == EMBEDDED:
        if EMBEDDED not in prepared():
            reporter.say("data set 'embedded' is not prepared yet: rendering and encoding it (about a minute)")
            prepare_embedded(reporter)
        if name == EMBEDDED:
            return open_store(stores_dir() / EMBEDDED, split=split)
    if dash and base in prepared():
        return open_store(stores_dir() / base, system, split)
    folder = stores_dir() / name
    if folder.is_dir():
        read_meta(folder)
        raise DataError(f"data set {name!r} is not finished. Run its `vidssl prep` again: it goes on where it stopped.")
    if name in DATASETS.names() and name != "folder":
        advice = f"it with `vidssl prep {name} --source DIR`"
    else:
        advice = f"a folder of videos with `vidssl prep folder --source DIR --name {name}`"
    raise DataError(
        f"unknown data set {name!r}. Prepared here: {', '.join(prepared()) or '(none)'}; always there: {EMBEDDED}, "
        f"{EMBEDDED}-appearance, {EMBEDDED}-motion. Prepare {advice}."
    )


def split_of(name: str) -> tuple[str, str | None]:
    """A data set's name without its official split, and that split: "ucf101:2" -> ("ucf101", "2"); None where none."""
    base, colon, split = name.rpartition(":")
    if not colon or ("/" in name and ("/" in split or Path(name).expanduser().exists())):
        return name, None
    return base, split


def same_data(one: str, other: str) -> bool:
    """Whether two names open the same videos, labels and split: "ucf101" is "ucf101:1"."""
    (name, split), (other_name, other_split) = split_of(one), split_of(other)
    return name == other_name and (split or FIRST_SPLIT) == (other_split or FIRST_SPLIT)


def folder_name(name: str) -> str:
    """A data set's name as that of a folder: "ucf101:2" -> "ucf101_split2"; the path of a store in one piece."""
    base, split = split_of(name)
    return base.strip("/").replace("/", "_") + (f"_split{split}" if split else "")


def name_of(store: Store) -> str:
    """The name that `open_data` opens this store by, with its label system and its official split."""
    system = f"-{store.label_system}" if store.label_system else ""
    split = f":{store.official_split}" if store.official_split != FIRST_SPLIT else ""
    return f"{store.path.name}{system}{split}"


def prepare_embedded(
    reporter: Reporter,
    name: str = EMBEDDED,
    subset: int | None = None,
    short_side: int | None = None,
    fit: str = "cover",
    format: str = "h264",
    workers: int | None = None,
    dry_run: bool = False,
) -> PrepSummary:
    """Renders the embedded set (once) and prepares it like any other data."""
    from .datasets import embedded
    from .prep import prepare
    from .prep_checks import check_settings

    short_side = short_side or EMBEDDED_SHORT_SIDE
    check_settings(StoreMeta(name, format, fit, short_side), workers)  # before the rendering, which takes its time
    source = stores_dir().parent / "sources" / EMBEDDED
    with reporter.meter("render", embedded.NUM_TRAIN + embedded.NUM_TEST) as meter:
        embedded.render(source, workers, lambda done, total: meter.update(done))
    return prepare(
        source=source,
        name=name,
        subset=subset,
        short_side=short_side,
        fit=fit,
        format=format,
        workers=workers,
        dry_run=dry_run,
    )


def training_rows(store: Store, subset: str, seed: int = 0) -> np.ndarray:
    """Rows to train on: the train split (all videos where there is no split), or a class-balanced subset of it.

    A subset is the one that `vidssl prep --subset` of that size takes from the same source (`subset_lists.py`), unless
    another label system or a further official split was asked for: it is then balanced over those.

    Raises DataError for a subset that is too large, and where one of several official splits has nothing to train on.
    """
    rows = store.indices("train")
    if not len(rows) and len(store.official_splits) > 1:
        raise DataError(
            f"{store.path.name!r} holds no training video of official split {store.official_split}. Prepare it with a "
            f"larger --subset, or open another split: {', '.join(store.official_splits)}."
        )
    if not len(rows):
        rows = np.arange(len(store))
    if subset == "all":
        return rows
    size = parse_size(subset)
    if size > len(rows):
        raise DataError(
            f"subset {subset} of {store.path.name!r} is not possible: it has {len(rows)} training videos; legal: 1 to "
            f"{len(rows)}, "
            "or all."
        )
    return rows[nested_subsets(store.labels[rows], [size], seed, store.keys[rows])[size]]


def describe(name: str) -> dict[str, object]:
    """What `vidssl list data` shows of a set. "problem" says what is not as it should be, and stands only there."""
    folder = stores_dir() / name
    try:
        meta = read_meta(folder)
    except DataError as error:
        return {"name": name, "problem": str(error).removeprefix(f"{folder}/"), "store": str(folder)}
    picture = {"format": meta.format, "picture": "{}x{}".format(*meta.picture), "fit": meta.fit}
    try:
        table = pq.read_table(folder / "index.parquet")
    except FileNotFoundError:
        return {"name": name, **picture, "problem": _why_no_index(folder), "store": str(folder)}
    except (OSError, pa.ArrowException):
        return {"name": name, "problem": f"the index is damaged; {_AGAIN}", "store": str(folder)}
    splits = np.array(table["split"].to_pylist(), dtype=str)
    several = len(official_splits(table.column_names))
    frames, fps = table["frames"].to_numpy(), table["fps"].to_numpy()
    return {
        "name": name,
        "videos": table.num_rows,
        "train": int((splits == "train").sum()),
        "test": int((splits == "test").sum()),
        **({"splits": several} if several > 1 else {}),
        "classes": len(meta.label_names.get("", [])),
        "label_systems": [key for key in meta.label_names if key],
        "hours": round(float((frames / np.maximum(fps, 1e-6)).sum()) / 3600, 3),
        "frames": int(frames.sum()),
        **picture,
        "megabytes": round(sum(p.stat().st_size for p in (folder / "shards").glob("*.tar")) / 1e6, 1),
        "subsets": subset_hashes(folder),
        **({"problem": problem} if (problem := _problem(folder, table)) else {}),
        "store": str(folder),
    }


def _why_no_index(folder: Path) -> str:
    if (folder / "manifest.parquet").exists():
        return "none of its videos can be used: manifest.parquet has the reasons"
    return f"not finished, shards done: {len(shard_numbers(folder))}; {_UNLESS}"


def _problem(folder: Path, index: pa.Table) -> str:
    """What is wrong with a store that has an index, as far as the names of its files tell; "" where nothing is."""
    shards = index["shard"].unique().to_pylist()
    missing = sum(not (folder / "shards" / f"{shard:06d}.tar").exists() for shard in shards)
    if missing:
        return f"{missing} of {len(shards)} shards are missing; {_AGAIN}"
    return f"not all is done; {_UNLESS}" if (folder / "staging").exists() else ""
