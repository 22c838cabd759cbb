"""`vidssl prep`: from a folder of videos to a store.

1. List the source (`datasets/`), choose (`--subset` takes a class-balanced part of the train split, tests stay whole).
2. Leave out what is done: same size and time, or same content. What is new or changed goes into new shards, in an order
   that depends on the videos' ids alone, so that classes are mixed and a killed prep goes on with the same plan.
3. A pool of processes transcodes (`work.py`); finished videos wait in staging; a full shard is assembled at once.
4. Manifest, index and packet arrays are merged from all shards.

Nothing that is finished is ever rewritten: a bigger subset adds shards, a changed file adds a row of a higher revision.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa

from ..engine.progress import Reporter
from ..errors import ConfigError, DataError, EnvironmentProblem, unknown_name
from ..home import stores_dir
from .datasets import DATASETS
from .files import remove_temporaries
from .lock import locked
from .manifest import merge, settings, write_meta
from .pool import Died, WorkerPool
from .prep_plan import PrepPlan, choose, make_plan
from .shards import MAX_SHARD_VIDEOS, assemble, stage, staged_row, unstage
from .sources import Listing, split_sizes
from .store import FITS, FORMATS, StoreMeta, read_meta
from .transcode import Transcoded
from .work import Job, NotWritten, finished, new_row, process, readable_sha256, transcode_job

SHORT_SIDES = (32, 1080)
_OWN_NAMES = {".lock", "store.json", "shards", "staging"}
_ESTIMATE_FILES, _ESTIMATE_SECONDS = 8, 10.0


@dataclass
class PrepSummary:
    """What prep did. `videos` are the chosen source files; ok, damaged and rejected add up to it.

    `skipped` of them were done before. `ignored` files are no videos by name, `unlisted` ones are in no table. `bytes`
    are those of the shards on disk. Where the source has several official splits, `splits` says of each how many videos
    of its parts the store holds and the source names: {"2": {"train": [held, named], "test": [held, named]}}. A dry run
    has the counts of what would be done and its estimates instead.
    """

    videos: int = 0
    ok: int = 0
    damaged: int = 0
    rejected: int = 0
    skipped: int = 0
    ignored: int = 0
    unlisted: list[str] = field(default_factory=list)
    frames: int = 0
    store: str = ""
    manifest: str = ""
    seconds: float = 0.0
    bytes: int = 0
    splits: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    dry_run: bool = False
    to_do: int = 0
    source_bytes: int = 0
    estimated_seconds: float = 0.0
    estimated_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """The one line of `--json`; `unlisted` is a number there, with the first names beside it."""
        unlisted = {"unlisted": len(self.unlisted), "unlisted_first": self.unlisted[:20]}
        reasons = dict(sorted(self.reasons.items()))
        return {**self.__dict__, **unlisted, "reasons": reasons, "seconds": round(self.seconds, 3)}


def prepare(
    *,
    source: Path,
    name: str,
    store_dir: Path | None = None,
    subset: int | None = None,
    short_side: int = 128,
    fit: str = "cover",
    format: str = "h264",
    workers: int | None = None,
    dry_run: bool = False,
    progress: Reporter | None = None,
    shard_videos: int = 512,
    dataset: str = "folder",
) -> PrepSummary:
    """Prepares a source, or goes on with it.

    Args:
        source: folder of videos, and of the official lists where the data set has them.
        name: of the prepared set.
        store_dir: where it goes, by default `$VIDSSL_HOME/data/NAME`.
        subset: number of training videos, class-balanced; growing it only adds. Tests stay whole. Of several
            official splits the first decides, and of the others both parts are thinned out (the summary's `splits`
            says how much is there): to measure on all of them, prepare everything.
        short_side: height of the stored picture in pixels; its width is 4/3 of it.
        fit: "cover" (cut to shape) or "squash".
        format: "h264" or "mjpeg".
        workers: processes, by default one a processor.
        dry_run: count and estimate, write nothing.
        shard_videos: source files of a shard.
        dataset: how the source is laid out (`vidssl list data`).

    Raises:
        DataError, ConfigError: a wrong source, setting or store; what is on disk stays as it is.
        EnvironmentProblem: the store cannot be written; what is finished stays valid.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with all processes ended.
    """
    begun = time.monotonic()
    progress = progress or Reporter()
    gop, codec = (8, "h264") if format == "h264" else (1, format)
    meta = StoreMeta(name, format, fit, short_side, gop, codec)
    check_settings(meta, workers, shard_videos)
    workers = workers or len(os.sched_getaffinity(0))
    source, store = Path(source), Path(store_dir) if store_dir else stores_dir() / name
    _check_same_settings(store, meta)
    listing: Listing = DATASETS.get(dataset)(source, store)
    chosen = choose(listing.videos, subset)
    summary = PrepSummary(
        videos=len(chosen), ignored=listing.ignored, unlisted=listing.unlisted, dry_run=dry_run,
        store=str(store), manifest=str(store / "manifest.parquet"),
    )  # fmt: skip
    if dry_run:
        plan = make_plan(store, meta, listing, chosen, threads=workers, shard_videos=shard_videos)
        _estimate(plan, summary, workers, progress)
        summary.seconds = time.monotonic() - begun
        return summary
    try:
        store.mkdir(parents=True, exist_ok=True)
        with locked(store), _terminable():
            remove_temporaries(store)
            for folder in ("shards", "staging"):
                (store / folder).mkdir(exist_ok=True)
                remove_temporaries(store / folder)
            plan = make_plan(store, meta, listing, chosen, threads=workers, shard_videos=shard_videos)
            if not (store / "store.json").exists():
                write_meta(store, plan.meta)  # later class names come with the index that uses them, in the merge
            _work(store, plan, workers, progress)
            shutil.rmtree(store / "staging")
            manifest = merge(store, plan.meta)
    except NotWritten as error:
        raise _cannot_write(store, error) from error
    except OSError as error:
        raise _cannot_write(store, error) from error
    except KeyboardInterrupt:
        progress.say("stopped. What is finished is kept: the same command goes on from here.")
        raise
    _sum_up(summary, plan, manifest, store)
    summary.splits = split_sizes(listing.videos, _held(manifest))
    summary.seconds = time.monotonic() - begun
    if not summary.ok:
        first = "; ".join(f"{count} x {reason}" for reason, count in summary.reasons.most_common(3))
        raise DataError(
            f"source {source} has {summary.videos} videos and none can be used ({first}). {store / 'manifest.parquet'} "
            "gives the reason for each. Check the download, or give another --source."
        )
    return summary


def check_settings(meta: StoreMeta, workers: int | None, shard_videos: int = 1) -> None:
    """Raises ConfigError for a setting that is not possible, with the legal ones."""
    name, format, fit, short_side = meta.name, meta.format, meta.fit, meta.short_side
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f"name {name!r} is not possible. Legal: letters, digits, and . _ + - after the first.")
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if fit not in FITS:
        raise unknown_name("fit", fit, FITS)
    low, high = SHORT_SIDES
    if not low <= short_side <= high:
        raise ConfigError(f"short side {short_side} is not possible. Legal: {low} to {high} pixels; usual: 128, 240.")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers {workers} is not possible. Legal: 1 or more; leave it out for one a processor.")
    if not 1 <= shard_videos <= MAX_SHARD_VIDEOS:
        raise ConfigError(f"{shard_videos} videos a shard are not possible. Legal: 1 to {MAX_SHARD_VIDEOS}.")


def _check_same_settings(store: Path, meta: StoreMeta) -> None:
    if not (store / "store.json").exists():
        try:
            foreign = [p.name for p in store.iterdir() if p.name not in _OWN_NAMES and not p.name.endswith(".tmp")]
        except FileNotFoundError:
            return
        except OSError as error:
            raise _cannot_write(store, error) from error
        if foreign:
            raise DataError(
                f"{store} is there and no prepared data set (it holds {sorted(foreign)[0]!r} and no store.json). "
                "Nothing was written. Take another --name, or an empty folder."
            )
        return
    old, new = settings(read_meta(store)), settings(meta)
    differing = [f"{key} {old[key]!r}, now asked for {new[key]!r}" for key in new if old[key] != new[key]]
    if differing:
        raise DataError(
            f"{store} was prepared with other settings: {'; '.join(differing)}. Nothing was changed. Take another "
            "--name, or the settings of then."
        )


def _work(store: Path, plan: PrepPlan, workers: int, progress: Reporter) -> None:
    """Does the jobs; shards are assembled in order, each as soon as all of its videos are there."""
    total = len(plan.chosen)
    rows: dict[int, dict[int, dict[str, Any]]] = {part[0].shard: {} for part in plan.jobs}
    unfinished = deque(plan.jobs)
    counts: Counter[str] = Counter()

    def left() -> Iterator[Job]:
        """Jobs not found in staging; those that are found count at once."""
        for part in plan.jobs:
            for job in part:
                row = staged_row(Path(job.staging), job.number)
                expected = new_row(job.number, job.video, job.revision)
                if row is not None and {key: row.get(key) for key in expected} == expected:
                    rows[job.shard][job.number] = row
                else:
                    unstage(Path(job.staging), job.number)
                    yield job

    def assemble_finished() -> None:
        while unfinished and len(rows[unfinished[0][0].shard]) == len(unfinished[0]):
            shard = unfinished.popleft()[0].shard
            done = rows.pop(shard)
            assemble(store, shard, [done[number] for number in sorted(done)])

    with progress.meter("prep", total, plan.skipped) as meter, WorkerPool(process, workers) as pool:
        finished_before = plan.skipped
        for job, result in pool.run(left()):
            row = _row_of_killer(job, result) if isinstance(result, Died) else result
            counts[row["status"]] += 1
            rows[job.shard][job.number] = row
            assemble_finished()
            in_work = sum(len(part) for part in unfinished) - sum(len(part) for part in rows.values())
            bad = ", ".join(f"{counts[status]} {status}" for status in ("damaged", "rejected") if counts[status])
            meter.update(max(finished_before, total - in_work), bad)
        assemble_finished()


def _row_of_killer(job: Job, death: Died) -> dict[str, Any]:
    """The row of a video whose worker died of it, staged like that of any other."""
    row = new_row(job.number, job.video, job.revision)
    row |= finished(Transcoded("rejected", death.reason), readable_sha256(job.video.file))
    stage(Path(job.staging), row, None)
    return row


def _estimate(plan: PrepPlan, summary: PrepSummary, workers: int, progress: Reporter) -> None:
    """Time and size of what is to be done, from a few of its files transcoded here into memory.

    The files are spread evenly over the order of work, which is random in the sources; time and size are scaled by the
    bytes of the sources, and the time is shared among the workers.
    """
    jobs = [job for part in plan.jobs for job in part]
    summary.skipped, summary.to_do = plan.skipped, len(jobs)
    sizes = [new_row(0, job.video, 0)["bytes"] for job in jobs]
    summary.source_bytes = sum(sizes)
    step = max(1, len(jobs) // _ESTIMATE_FILES)
    begun, read, written = time.monotonic(), 0, 0
    with progress.meter("measure", len(jobs[::step])) as meter:
        for number, (job, size) in enumerate(zip(jobs[::step], sizes[::step], strict=True), 1):
            made, _ = transcode_job(job)
            read, written = read + size, written + len(made.data or b"")
            meter.update(number)
            if time.monotonic() - begun > _ESTIMATE_SECONDS:
                break
    scale = summary.source_bytes / read if read else 0.0
    summary.estimated_seconds = round((time.monotonic() - begun) * scale / workers, 1)
    summary.estimated_bytes = round(written * scale)


def _sum_up(summary: PrepSummary, plan: PrepPlan, manifest: pa.Table, store: Path) -> None:
    chosen = {video.id for video in plan.chosen}
    columns = (manifest[name].to_pylist() for name in ("path", "status", "reason", "frames"))
    for path, status, reason, frames in zip(*columns, strict=True):
        if path in chosen:
            setattr(summary, status, getattr(summary, status) + 1)
            if status == "ok":
                summary.frames += frames
            else:
                summary.reasons[re.sub(r"\d+(\.\d+)?", "N", reason)] += 1
    summary.skipped = plan.skipped
    summary.bytes = sum(file.stat().st_size for file in (store / "shards").glob("*.tar"))


def _held(manifest: pa.Table) -> set[str]:
    columns = (manifest[name].to_pylist() for name in ("path", "status"))
    return {path for path, status in zip(*columns, strict=True) if status == "ok"}


def _cannot_write(store: Path, error: OSError | NotWritten) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{store} cannot be written: {error.strerror or error} ({error.filename or store}). What is finished is kept "
        "and valid. Make space or give the permission and run the same command again, or set VIDSSL_HOME to another "
        "place."
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends prep as Ctrl-C does. Only the main thread can ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
