"""Where the source of a data set is: given, used last, or in `$VIDSSL_HOME/sources/NAME`. And what to do where none is.

`$VIDSSL_HOME/sources.json` holds the folder used last, by data set (for `folder`: by the name of the prepared set).
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, EnvironmentProblem
from ..home import home
from .addresses import ORIGINS, Public
from .files import replacing
from .subset import size_name

DOWNLOAD_MB_PER_SECOND = 50  # the rate at which the time of a download is stated
# Measured on the eleven K400 clips among the test data (240 to 256 px high, 103.5 s in all), one process: bytes stored
# and seconds of work a second of video at 128 and 240 px, by format. What lies between goes by a power of the height.
_MEASURED = {
    "h264": ((28_043.0, 0.031), (66_480.0, 0.057)),
    "mjpeg": ((104_169.0, 0.024), (231_407.0, 0.033)),
    "ffcv": ((208_338.0, 0.024), (462_814.0, 0.033)),  # the frames of mjpeg, in the shards and in the ffcv file
}


def sources_dir() -> Path:
    """Where sources are looked for without being told of."""
    return home() / "sources"


def find_source(key: str, given: Path | None) -> tuple[Path | None, str]:
    """The folder to read, and where it was found ("" where it was given or there is none).

    Args:
        key: data set, or the name of the prepared set for `folder`.
        given: by the user: it is taken as it is.
    """
    if given is not None:
        return given, ""
    last = _remembered().get(key)
    if last is not None and Path(last).exists():
        return Path(last), "used last"
    usual = sources_dir() / key
    if usual.is_dir() and any(usual.iterdir()):
        gone = f"; the one used last, {last}, is not there" if last is not None else ""
        return usual, f"the usual place{gone}"
    return None, f"the one used last, {last}, is not there" if last is not None else "none was used before"


def remember(key: str, source: Path) -> None:
    """Keeps the folder for the next time. Raises EnvironmentProblem where that cannot be written."""
    known = _remembered()
    if known.get(key) == str(source.absolute()):
        return
    known[key] = str(source.absolute())
    try:
        home().mkdir(parents=True, exist_ok=True)
        with replacing(_memory()) as temporary:
            temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(
            f"{_memory()} cannot be written: {error.strerror}. The data set is prepared; only its --source is not "
            "remembered."
        ) from error


@dataclass(frozen=True)
class Estimate:
    """What a download fetches, keeps and takes.

    Args:
        fetched_bytes, archives: what comes.
        archive_bytes: of it on disk at once, at most.
        videos, all_videos: kept, and in the archives.
        kept_bytes: of the videos, None where their length is not known. While the store is written they are there
            twice: in it, and as they were kept, so that a kill costs nothing.
        transfer_seconds: at DOWNLOAD_MB_PER_SECOND.
        transcode_seconds: in all `workers`, of videos 256 px high; None as above.
    """

    fetched_bytes: int
    archives: int
    archive_bytes: int
    videos: int
    all_videos: int
    kept_bytes: int | None
    transfer_seconds: float
    transcode_seconds: float | None
    workers: int

    def lines(self) -> list[str]:
        keeps = working = ""
        if self.kept_bytes is not None and self.transcode_seconds is not None:
            keeps = f", about {self.kept_bytes / 1e9:.1f} GB (twice that while the store is written)"
            working = (
                f"; meanwhile about {_hours(self.transcode_seconds)} to transcode in {self.workers} processes (of "
                "videos 256 px high; more of larger ones)"
            )
        return [
            f"fetches {self.fetched_bytes / 1e9:.1f} GB in {self.archives} archive{'s' * (self.archives > 1)}, at most "
            f"{self.archive_bytes / 1e9:g} GB of them on disk at once",
            f"keeps   about {self.videos:,} of {self.all_videos:,} videos{keeps}",
            f"takes   {_hours(self.transfer_seconds)} at {DOWNLOAD_MB_PER_SECOND} MB/s{working}",
        ]


def ways(dataset: str, subset: int | None, short_side: int, format: str, workers: int | None, max_disk: int) -> str:
    """The three ways to a source, with what the download would fetch, keep and take. Arguments as of `prepare`.

    Args:
        max_disk: bytes of downloads on disk at once.
    """
    origin = ORIGINS[dataset]
    command = f"vidssl prep {dataset}" + ("" if subset is None else f" --subset {size_name(subset)}")
    lines = [
        f"  1. folder    {command} --source DIR",
        f"               DIR holds {origin.files}.",
        f"               Put or link it at {sources_dir() / dataset}, and --source is not needed.",
        "  2. archives  The same: DIR holds the archives as they came. They are read without being unpacked.",
    ]
    if origin.public is None:
        lines += [f"  3. download  Not possible: {origin.terms}.", f"               {origin.page}"]
    else:
        figures = estimate(origin.public, subset, short_side, format, workers, max_disk).lines()
        lines += [f"  3. download  {command} --download", *(f"               {line}" for line in figures)]
        lines.append(f"               from {origin.public.base} ({origin.page})")
    return "\n".join(lines)


def estimate(
    public: Public, subset: int | None, short_side: int, format: str, workers: int | None, max_disk: int
) -> Estimate:
    """What a download fetches, keeps and takes. Arguments as of `ways`."""
    workers = workers or len(os.sched_getaffinity(0))
    size = sum(part.bytes for part in public.parts)
    archives = sum(part.count for part in public.parts)
    there = sum(part.videos for part in public.parts if part.role != "again")
    tests = sum(part.videos for part in public.parts if part.role == "test")
    videos = there if subset is None else min(there, subset + tests)
    stored, seconds = _per_second(short_side, format)
    length = videos * public.seconds
    return Estimate(
        fetched_bytes=size, archives=archives, archive_bytes=max_disk, videos=videos, all_videos=there,
        kept_bytes=round(stored * length) if length else None,
        transfer_seconds=size / (DOWNLOAD_MB_PER_SECOND * 1e6),
        transcode_seconds=seconds * length / workers if length else None, workers=workers,
    )  # fmt: skip


def _per_second(short_side: int, format: str) -> tuple[float, float]:
    """Bytes stored and seconds of work a second of video."""
    low, high = _MEASURED[format]
    steps = math.log(short_side / 128) / math.log(240 / 128)
    return low[0] * (high[0] / low[0]) ** steps, low[1] * (high[1] / low[1]) ** steps


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"


def parse_bytes(text: str) -> int:
    """ "200GB" -> 200,000,000,000."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", text.lower())
    if not match or not float(match[1]):
        raise ConfigError(f"size {text!r} is not possible. Legal: a number with MB, GB or TB, like 200GB.")
    return round(float(match[1]) * 1000 ** " kmgt".index(match[2] or " "))


def _memory() -> Path:
    return home() / "sources.json"


def _remembered() -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads(_memory().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(
            f"{_memory()}, which holds the sources used last, cannot be read: {error}. Mend it, or remove it and give "
            "--source DIR once."
        ) from None
    return known
