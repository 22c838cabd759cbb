"""`vidssl prep`: from a folder of videos to a store.

1. List the source (`datasets/`), choose (`--subset` takes a class-balanced part of the train split, tests stay whole).
2. Leave out what is done: same size and time, or same content. What is new or changed goes into new shards, in an order
   that depends on the videos' ids alone, so that classes are mixed and a killed prep goes on with the same plan.
3. A pool of processes transcodes (`work.py`); finished videos wait in staging; a full shard is assembled at once.
4. Manifest, index and packet arrays are merged from all shards.

Nothing that is finished is ever rewritten: a bigger subset adds shards, a changed file adds a row of a higher revision.
Nothing finished is lost to a smaller choice either: videos of damaged shards are made again beside it (`lost.py`).
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

from ..engine.progress import Reporter
from ..errors import DataError
from ..home import stores_dir
from .cluster import work_on_cluster
from .cluster_job import take_over
from .datasets import DATASETS
from .files import remove_temporaries
from .lock import locked
from .lost import lost_videos
from .manifest import merge, read_rows, write_meta
from .prep_checks import cannot_write, check_same_settings, check_settings, meta_for, strangers
from .prep_plan import PrepPlan, beside, choose, make_plan, rounds
from .prep_summary import PrepSummary, begin_summary, estimate, held, sum_up
from .prep_work import work
from .schedulers import check_cluster
from .shards import MAX_SHARD_VIDEOS
from .sources import Listing, split_sizes
from .subset_lists import write_lists
from .work import NotWritten


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
    cluster: str | None = None,
    jobs: int | None = None,
    slurm: Mapping[str, str] | None = None,
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
        format: "h264", "mjpeg", or "ffcv": "mjpeg" and an ffcv file of it (`beton.py`).
        workers: processes, by default one a processor.
        dry_run: count and estimate, write nothing.
        shard_videos: source files of a shard.
        dataset: how the source is laid out (`vidssl list data`).
        cluster: "slurm" or "local" (jobs in processes of this machine); by default no jobs, a pool of this process.
        jobs: how many of them at once.
        slurm: parameters of the jobs by submitit's names (`schedulers.SLURM_OPTIONS`).

    Raises:
        DataError, ConfigError: a wrong source, setting or store; what is on disk stays as it is.
        EnvironmentProblem: the store cannot be written; what is finished stays valid.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with all processes ended.
    """
    begun = time.monotonic()
    progress = progress or Reporter()
    meta = meta_for(name, format, fit, short_side)
    check_settings(meta, workers, shard_videos)
    check_cluster(cluster, jobs, slurm)
    beton = _ffcv_writer() if format == "ffcv" else None
    job_workers, workers = workers, workers or len(os.sched_getaffinity(0))
    source, store = Path(source), Path(store_dir) if store_dir else stores_dir() / name
    check_same_settings(store, meta)
    listing: Listing = DATASETS.get(dataset)(source, store)
    chosen = choose(listing, subset)
    summary = begin_summary(listing, chosen, subset, store)
    summary.strangers = strangers(store, listing)
    if dry_run:
        summary.dry_run = True
        wanted = [*chosen, *beside(chosen, lost_videos(store, listing))]
        plan = make_plan(store, meta, listing, wanted, threads=workers, shard_videos=shard_videos)
        summary.videos, summary.beside = len(wanted), len(wanted) - len(chosen)
        estimate(plan, summary, workers, progress)
        summary.seconds = time.monotonic() - begun
        return summary
    try:
        store.mkdir(parents=True, exist_ok=True)
        with locked(store), terminable():
            remove_temporaries(store)
            (store / "shards").mkdir(exist_ok=True)
            take_over(store)
            lost = lost_videos(store, listing)
            if lost:
                progress.say(f"{len(lost)} videos of damaged or lost shards are made again in their old places")
            (store / "staging").mkdir(exist_ok=True)
            for folder in ("shards", "staging"):
                remove_temporaries(store / folder)
            staged, found = _staged(store), 0
            plans: list[PrepPlan] = []
            for plan in rounds(store, meta, listing, subset, lost, threads=workers, shard_videos=shard_videos):
                if not (store / "store.json").exists():
                    write_meta(store, plan.meta)  # later class names come with the index that uses them, in the merge
                # A further round has few videos, in place of damaged ones: not worth another wait in the queue.
                if cluster is None or (plans and len(plan.jobs) <= 1):
                    found += work(store, plan, workers, progress)
                else:
                    found += work_on_cluster(store, plan, cluster, job_workers, progress, jobs=jobs, slurm=slurm)
                plans.append(plan)
            if staged > found:
                progress.say(
                    f"{staged - found} videos that an earlier prep had finished, or a repair kept, were not used: this "
                    "choice does not take them, or nothing tells that their sources are still the same"
                )
            # NFS keeps what a process still holds open; the next prep takes that away
            shutil.rmtree(store / "staging", ignore_errors=True)
            manifest = merge(store, plans[-1].meta)
            for gone in write_lists(store, listing, subset):
                progress.say(f"{gone} is gone: the store does not hold so many training videos any more")
            if beton is not None:
                beton.write(store, progress)
    except NotWritten as error:
        raise cannot_write(store, error) from error
    except OSError as error:
        raise cannot_write(store, error) from error
    except KeyboardInterrupt:
        progress.say("stopped. What is finished is kept: the same command goes on from here.")
        raise
    sum_up(summary, plans, found, manifest, store, listing, subset)
    summary.splits = split_sizes(listing.videos, held(manifest))
    summary.seconds = time.monotonic() - begun
    if not summary.ok:
        first = "; ".join(f"{count} x {reason}" for reason, count in summary.reasons.most_common(3))
        raise DataError(
            f"source {source} has {summary.videos} videos and none can be used ({first}). {store / 'manifest.parquet'} "
            "gives the reason for each. Check the download, or give another --source."
        )
    return summary


def _staged(store: Path) -> int:
    """How many finished videos lie in staging that no whole shard has."""
    numbers = [int(row.stem) for row in (store / "staging").glob("*.json")]
    shards = {number // MAX_SHARD_VIDEOS for number in numbers}
    whole = {shard for shard in shards if read_rows(store, shard) is not None}
    return sum(number // MAX_SHARD_VIDEOS not in whole for number in numbers)


def _ffcv_writer() -> ModuleType:
    from .decode.ffcv import import_beton  # torch comes with it, which nothing else here needs

    return import_beton("--format ffcv")


@contextmanager
def terminable() -> Iterator[None]:
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
