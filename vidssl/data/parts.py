"""`prep --download`: archive after archive, each fetched, its chosen videos transcoded, and deleted.

Which videos a subset takes depends on which are there (a missing one is no candidate, the next of its class stands in
for it), and what is there is known only when the last archive has been seen. Therefore:

1. While archives are unseen, every named video counts as there, and 5 % more than the subset are transcoded: those
   stand in where videos turn out to be missing (of K400's 246,534 training videos CVDF holds 240,258).
2. When all have been seen, the choice is made as for any source. Where it takes videos that were not kept, the archives
   that hold them, and only those, come again. This is also how a subset grows.
3. What is transcoded is laid into the store's staging folder under its final numbers, and `prepare` does the rest. The
   store is that of `prepare --source` on the same archives.

Below `$VIDSSL_HOME/downloads/NAME` lie `source` (tables, and the members of every archive that was seen,
`member_lists.py`), `lists` (of addresses), `kept` (transcoded videos, a folder for each choice of settings), `look`
(what one archive shows to a reader) and `arriving` (archives: the one in work and the one after it, together at most
--max-disk). An archive is done when its members are known and it is deleted.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.progress import Meter, Reporter
from ..errors import DataError
from ..home import home, stores_dir
from .addresses import AGAIN, Public, check_mirror, listed_addresses, public_of, rebased
from .archives import Contents, read_contents
from .arrivals import Archive, Arrivals, Coming
from .datasets import DATASETS
from .download import fetch, forget
from .feeder import Feeder, remove_copies
from .files import remove_temporaries
from .kept import Kept, as_if_there, folder_for
from .lock import locked
from .member_lists import list_of, write_members
from .pool import Died, WorkerPool
from .prep import prepare, terminable
from .prep_checks import cannot_write, check_same_settings, check_settings, meta_for
from .prep_plan import choose
from .prep_summary import PrepSummary
from .rar import need_program
from .sources import Listing
from .subset_lists import training_part
from .work import NotWritten, process

_RESERVE = 1.05


def prepare_downloaded(
    *,
    dataset: str,
    name: str,
    mirror: str | None,
    max_disk: int,
    subset: int | None,
    workers: int | None,
    progress: Reporter,
    store_dir: Path | None = None,
    shard_videos: int = 512,
    **settings: Any,
) -> PrepSummary:
    """Prepares a data set from its public archives, or goes on with it. Arguments as of `prepare`, and

    Args:
        mirror: address in place of the official one.
        max_disk: bytes that archives, and videos on their way out of them, take on disk at once.

    Raises:
        ConfigError: the data set cannot be downloaded.
        DataError, EnvironmentProblem: of the transfer, of an archive, or as of `prepare`. What is done stays.
    """
    public = public_of(dataset)
    if mirror is not None:
        check_mirror(mirror)
    store = store_dir or stores_dir() / name
    meta = meta_for(name, settings["format"], settings["fit"], settings["short_side"])
    check_settings(meta, workers, shard_videos)
    check_same_settings(store, meta)
    workers = workers or len(os.sched_getaffinity(0))
    folder = home() / "downloads" / dataset
    kept, arrivals = folder / "kept" / folder_for(meta), folder / "arriving"
    try:
        for place in (folder / "source", folder / "lists", kept, arrivals):
            place.mkdir(parents=True, exist_ok=True)
        with locked(folder), terminable():
            remove_copies(kept)
            for below, _, _ in os.walk(folder):
                remove_temporaries(Path(below))
            flow = _Flow(folder, dataset, public, mirror, subset, workers, progress)
            flow.run(Kept(kept, store, meta, workers, shard_videos), Arrivals(arrivals, max_disk))
            summary = prepare(
                source=folder / "source", name=name, dataset=dataset, subset=subset, workers=workers,
                progress=progress, store_dir=store_dir, shard_videos=shard_videos, **settings,
            )  # fmt: skip
            summary.skipped -= len(flow.made)  # `prepare` found them in staging, and they were made here
            shutil.rmtree(kept)
            with suppress(OSError):  # videos of other settings are still there
                kept.parent.rmdir()
            shutil.rmtree(arrivals)
    except (OSError, NotWritten) as error:
        raise cannot_write(folder, error) from error
    except KeyboardInterrupt:
        progress.say("stopped. What is finished is kept: the same command goes on from here.")
        raise
    return summary


class _Flow:
    """The archives of one data set for one store."""

    def __init__(
        self,
        folder: Path,
        dataset: str,
        public: Public,
        mirror: str | None,
        subset: int | None,
        workers: int,
        progress: Reporter,
    ) -> None:
        self._source, self._lists, self._look = folder / "source", folder / "lists", folder / "look"
        self._read = DATASETS.get(dataset)
        self._public, self._mirror = public, mirror
        self._subset, self._workers, self._progress = subset, workers, progress
        self.made: set[str] = set()

    def run(self, kept: Kept, arrivals: Arrivals) -> None:
        """Ends when all that the choice takes lies in the store's staging folder. `made` are then its videos that were
        transcoded here.

        Raises DataError, EnvironmentProblem, ConfigError, OSError.
        """
        shutil.rmtree(self._look, ignore_errors=True)
        for address in self._public.tables:
            table = fetch(self._whole(address), _made(self._source / address))
            shutil.copyfile(table, _made(self._look / address))
        archives = list(self._archives(arrivals.folder))
        for archive in archives:
            if archive.file.suffix == ".rar" and not archive.done:
                need_program(archive.file)  # rather now than when it has come
        arrivals.tidy(archives)
        self._work_through([archive for archive in archives if not archive.done], archives[0], None, kept, arrivals)
        while lacking := kept.hand_over(self._listing(self._source), self._subset):
            again = [archive for archive in archives if archive.stand_for in lacking.values()]
            self._progress.say(f"{len(lacking)} videos were not kept: {len(again)} archives come again for them")
            self._work_through(again, archives[0], set(lacking), kept, arrivals)
        self.made &= kept.chosen
        shutil.rmtree(self._look)

    def _archives(self, arriving: Path) -> Iterator[Archive]:
        for part in self._public.parts:
            addresses = [part.address]
            if part.listed:
                file = fetch(self._whole(part.address), _made(self._lists / part.address))
                try:
                    addresses = listed_addresses(file.read_bytes(), self._whole(part.address))
                except DataError:
                    forget(file)
                    raise
            for address in addresses:
                name = address.rpartition("/")[2]
                stand_for = _made(self._source / part.name / name)
                yield Archive(self._whole(address), _made(arriving / part.name / name), stand_for)

    def _work_through(
        self, archives: list[Archive], first: Archive, wanted: set[str] | None, kept: Kept, arrivals: Arrivals
    ) -> None:
        """Args: first: of all archives. wanted: ids of the videos to keep, None while archives are unseen."""
        if not archives:
            return
        with (
            self._progress.meter("archives", len(archives)) as meter,
            WorkerPool(process, self._workers) as pool,
            arrivals.coming() as coming,
        ):
            for place, archive in enumerate(archives):
                following = archives[place + 1 : place + 2]
                arrivals.make_room(archive, following)
                coming.wait(archive, _beside(meter, place))
                if not archive.seen:
                    self._note_members(archive, arrivals, coming, _beside(meter, place))
                listing = self._listing_of(archive, first)
                if wanted is None:
                    wanted = self._wanted_of(as_if_there(listing))
                jobs = kept.jobs(listing, [v for v in listing.videos if v.id in wanted and v.file.path == archive.file])
                aside = (self._workers + 1) * max((job.video.file.stat()[0] for job in jobs), default=0)
                arrivals.require(archive, aside)
                for later in following:
                    coming.begin(later, aside)
                with Feeder(jobs, self._workers + 1) as feeder:
                    for done, (job, result) in enumerate(pool.run(feeder), 1):
                        if isinstance(result, Died):
                            kept.reject(job, result.reason)
                        feeder.done(job)
                        self.made.add(job.video.id)
                        meter.update(place, f"{archive.file.name}: {done} of {len(jobs)} videos")
                arrivals.forget(archive)
                meter.update(place + 1)

    def _listing_of(self, archive: Archive, first: Archive) -> Listing:
        """What the tables and one archive give, with the archive where it is.

        All archives together would take seconds each time. The first one is always there: readers want some video, and
        it goes before the others.
        """
        shutil.rmtree(self._look / "archives", ignore_errors=True)
        places = {}
        for one in {first, archive}:
            place = _made(self._look / "archives" / one.stand_for.relative_to(self._source))
            shutil.copyfile(list_of(one.stand_for), list_of(place))
            places[place] = one.file
        listing = self._listing(self._look)
        videos = [
            replace(video, file=replace(video.file, path=places.get(video.file.path, video.file.path)))
            for video in listing.videos
        ]
        return replace(listing, videos=videos)

    def _listing(self, folder: Path) -> Listing:
        """What the reader of the data set gives. Where that is DataError, the tables are removed."""
        try:
            listing: Listing = self._read(folder, None)
        except DataError as error:
            for address in self._public.tables:
                forget(self._source / address)
            tables = ", ".join(map(self._whole, self._public.tables))
            raise DataError(f"{error} It goes by what came from {tables}. {AGAIN}") from error
        return listing

    def _whole(self, address: str) -> str:
        return rebased(address, self._public, self._mirror)

    def _note_members(self, archive: Archive, arrivals: Arrivals, coming: Coming, tell: Callable[[str], None]) -> None:
        """Notes what an archive holds. One that is damaged comes a second time: it may have been on its way.

        Raises DataError where it holds nothing, and removes it then.
        """
        contents = self._contents(archive, arrivals)
        if not contents.whole:
            self._progress.say(f"{archive.address} came damaged ({contents.notes[0]}): it comes again")
            arrivals.forget(archive)
            coming.wait(archive, tell)
            contents = self._contents(archive, arrivals)
        for note in contents.notes:
            self._progress.say(f"{archive.address}: {note}")
        write_members(archive.stand_for, contents.members)

    def _contents(self, archive: Archive, arrivals: Arrivals) -> Contents:
        contents = read_contents(archive.file)
        if not contents.members:
            with archive.file.open("rb") as file:
                head = file.read(20)
            arrivals.forget(archive)
            raise DataError(
                f"{archive.address} came whole and is no archive with files in it (it begins with {head!r}). {AGAIN}"
            )
        return contents

    def _wanted_of(self, there: Listing) -> set[str]:
        """Ids of the videos to keep while nobody knows which are missing: some more than the subset."""
        possible, size = len(training_part(there)[0]), self._subset
        if size is not None and size < possible:
            size = min(possible, math.ceil(size * _RESERVE))
        return {video.id for video in choose(there, size)}


def _beside(meter: Meter, done: int) -> Callable[[str], None]:
    return lambda text: meter.update(done, text)


def _made(file: Path) -> Path:
    """The path, with a folder to be in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
