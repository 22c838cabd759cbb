"""`vidssl prep --verify STORE`: every byte of a store is read again and held against what its tables say.

1. Each shard against its own table (`verify_shard.py`).
2. What was merged from the tables: manifest, index, packet arrays. The tables themselves are held by the checksums of
   their pages (stores of earlier versions have none there: two tables that differ still show it).
3. The lists of subsets, against the index; a store's ffcv file against its shards, where those are good.

Nothing is changed. `repair` puts what is bad back among what is to be done, and the next prep does it again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..engine.progress import Reporter
from ..errors import ConfigError, DataError
from .lock import locked, unchanging
from .lost import lost_rows
from .manifest import PACKETS, current_rows, merged, packets_by_shard, read_table, shard_numbers
from .store import StoreMeta, read_meta
from .subset import parse_size
from .subset_lists import read_list, rows_in_order
from .verify_shard import check_shard, is_staged, put_back

_NAMED = 5  # problems of a file that are shown


@dataclass
class Verification:
    """What `verify` saw. `problems` are by file, relative to the store, in words; empty where all is well.

    `videos` and `bytes` are those that were read from the shards. After a repair `put_back` counts source files that
    the next prep does again: rows of shards that are not whole, less what lies in staging for it.
    """

    store: str
    videos: int = 0
    bytes: int = 0
    seconds: float = 0.0
    put_back: int = 0
    repaired: bool = False
    problems: dict[str, list[str]] = field(default_factory=dict)

    def add(self, file: str, problem: str) -> None:
        self.problems.setdefault(file, []).append(problem)

    def to_json(self) -> dict[str, Any]:
        """The one line of `--json`."""
        return {**self.__dict__, "seconds": round(self.seconds, 3), "good": not self.problems}

    def words(self) -> list[str]:
        """Lines for a person: what is wrong, file by file, and what to do."""
        count = f"{self.videos} videos, {self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s"
        if not self.problems:
            return [f"{count}: all of {self.store} is as it was written"]
        lines = [f"{count}: {len(self.problems)} files of {self.store} are not as they were written"]
        for file, problems in self.problems.items():
            lines += [f"  {file}: {problem}" for problem in problems[:_NAMED]]
            if len(problems) > _NAMED:
                lines.append(f"  {file}: and {len(problems) - _NAMED} more")
        again = "run the same `vidssl prep` again"
        if self.repaired:
            lines.append(f"{self.put_back} videos are to be done again: {again}, with their sources there.")
        elif any(file.endswith(".tar") for file in self.problems):
            lines.append(
                f"To mend it: `vidssl prep --verify {self.store} --repair` keeps the good videos of bad shards and "
                f"puts the others back among those to be done; then {again}, with their sources there."
            )
        else:
            lines.append(f"To mend it: {again}. What follows from the shards is made from them.")
        return lines


def verify(store: Path, progress: Reporter | None = None, repair: bool = False) -> Verification:
    """Reads a whole store.

    Args:
        store: its folder.
        repair: put what is bad back among what is to be done. Its sources have to be there for the next prep.

    Raises:
        DataError: it is no store, or prep is at work on it.
        EnvironmentProblem: it is a store of format ffcv, and ffcv is not installed.
        OSError: it cannot be read at all; with `repair`, it cannot be written.
    """
    begun = time.monotonic()
    store, progress = Path(store), progress or Reporter()
    meta = read_meta(store)
    found = Verification(str(store), repaired=repair)
    with locked(store) if repair else unchanging(store):
        numbers, rows = shard_numbers(store), current_rows(store)
        _check_leftovers(store, numbers, found)
        with progress.meter("verify", sum(_videos(store, shard) for shard in numbers)) as meter:

            def each() -> None:
                meter.update(meter.done + 1, f"{len(found.problems)} bad files" if found.problems else "")

            for shard in numbers:
                seen = check_shard(store, shard, meta.gop, each)
                found.videos += seen.videos
                found.bytes += seen.bytes
                found.problems |= seen.problems
        if rows.shards == set(numbers):  # else what follows from the tables must differ
            _check_merged(store, rows.table, meta, found)
        if meta.format == "ffcv" and not found.problems:
            from .decode.ffcv import import_beton  # torch comes with it, which nothing else here needs

            beton = import_beton("checking a store of format ffcv")
            for problem in beton.damage(store):
                found.add(beton.FILE, problem)
        if repair:
            for shard in numbers:
                if f"shards/{shard:06d}.tar" in found.problems:
                    put_back(store, shard, meta.gop)
            lost = lost_rows(store, current_rows(store)).values()
            found.put_back = sum(not is_staged(store, row) for row in lost)
    found.seconds = time.monotonic() - begun
    return found


def _videos(store: Path, shard: int) -> int:
    try:
        table, _ = read_table(store, shard)
    except DataError:
        return 0
    return pc.sum(pc.equal(table["status"], pa.scalar("ok"))).as_py() or 0


def _check_leftovers(store: Path, numbers: list[int], found: Verification) -> None:
    if (store / "staging").exists():
        found.add("staging", "prep did not come to its end, and this is what it goes on from")
    finished = {f"{number:06d}.tar" for number in numbers}
    for file in sorted((store / "shards").glob("*.tar")):
        if file.name not in finished:
            found.add(f"shards/{file.name}", "it has no table: the shard was not finished, or its table went away")


def _check_merged(store: Path, table: pa.Table | None, meta: StoreMeta, found: Verification) -> None:
    """Manifest, index, packet arrays and subset lists against the tables that they follow from."""
    if table is None:
        found.add("shards", "there is no finished shard")
        return
    try:
        manifest, index = merged(table, meta)
    except KeyError as error:
        found.add("store.json", f"it does not know the class {error}")
        return
    expected = {"manifest.parquet": manifest} | ({"index.parquet": index} if len(index) else {})
    for name, right in expected.items():
        try:
            problem = _difference(pq.read_table(store / name, page_checksum_verification=True), right)
        except FileNotFoundError:
            problem = "it is missing"
        except (pa.ArrowException, OSError, ValueError) as error:  # a column's name may be no UTF-8 any more
            problem = f"it cannot be read ({str(error).splitlines()[0]})"
        if problem:
            found.add(name, problem)
    if len(index):
        _check_packet_arrays(store, index, found)
        _check_lists(store, index, found)


def _difference(seen: pa.Table, right: pa.Table) -> str:
    if seen.num_rows != right.num_rows:
        return f"it has {seen.num_rows} rows, and the shards' tables {right.num_rows}"
    if set(right.schema.names) <= set(seen.schema.names):
        seen = seen.select(right.schema.names)  # further columns are another version's
    if not seen.schema.equals(right.schema, check_metadata=True):
        return f"its columns are {', '.join(seen.schema.names)}, and should be {', '.join(right.schema.names)}"
    columns = [name for name in seen.schema.names if not seen[name].equals(right[name])]
    return f"it differs from the shards' tables in {', '.join(columns)}" if columns else ""


def _check_packet_arrays(store: Path, index: pa.Table, found: Verification) -> None:
    arrays, total = {}, int(index["frames"].to_numpy().sum())
    for column, dtype in PACKETS.items():
        try:
            array = np.load(store / f"{column}.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            found.add(f"{column}.npy", f"it cannot be read ({error})")
            continue
        if array.dtype == dtype and array.shape == (total,):
            arrays[column] = array
        else:
            found.add(f"{column}.npy", f"it has {array.shape} {array.dtype}, and should have ({total},) {dtype}")
    first, bad = 0, set()
    for right in packets_by_shard(store, index):
        end = first + len(right["packet_sizes"])
        bad |= {name for name, array in arrays.items() if array[first:end].tobytes() != right[name].tobytes()}
        first = end
    for column in sorted(bad):
        found.add(f"{column}.npy", "it differs from the shards' tables")


def _check_lists(store: Path, index: pa.Table, found: Verification) -> None:
    order = rows_in_order(index)
    for file in sorted((store / "subsets").glob("*.txt")):
        try:
            size = parse_size(file.stem)
        except ConfigError:  # not one of ours
            continue
        try:
            same = read_list(file) == index["id"].take(pa.array(order[:size])).to_pylist()
        except (OSError, ValueError):
            same = False
        if not same or size > len(order):
            found.add(f"subsets/{file.name}", "it is not the subset of this size that follows from the index")
