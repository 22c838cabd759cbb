"""What a worker process does with one video: hash, transcode, leave the result in staging. Imports no torch."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .picture import Recipe
from .shards import stage
from .sources import SourceVideo
from .transcode import Transcoded, transcode

_CHUNK_BYTES = 1 << 20
_FROM_TRANSCODED = (
    "status", "reason", "frames", "frames_promised", "fps", "width", "height", "rotation", "codec", "duration_seconds",
)  # fmt: skip


class NotWritten(Exception):
    """The output of a video could not be written: the whole prep has to stop, unlike for a bad source."""

    def __init__(self, number: int, message: str, file: str) -> None:
        super().__init__(number, message, file)
        self.errno, self.strerror, self.filename = number, message, file


@dataclass(frozen=True)
class Job:
    """One video to be done: its number, shard and revision, and how."""

    number: int
    shard: int
    video: SourceVideo
    revision: int
    staging: str
    recipe: Recipe


def new_row(number: int, video: SourceVideo, revision: int) -> dict[str, Any]:
    """What is known of a source before it is opened; the rest of its row follows from its content and the settings."""
    size, mtime_ns = video.file.stat()
    labels = {f"label:{system}": label for system, label in video.labels.items()}
    splits = {f"split:{name}": part for name, part in video.splits.items()}
    return {
        "path": video.id, "id": video.id, "label": video.label, "split": video.split, **labels, **splits,
        "bytes": size, "mtime_ns": mtime_ns, "number": number, "revision": revision,
    }  # fmt: skip


def file_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb", buffering=0) as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def readable_sha256(file: Path) -> str:
    """The digest, or "" where the file cannot be read."""
    try:
        return file_sha256(file)
    except OSError:
        return ""


def process(job: Job) -> dict[str, Any]:
    """Transcodes a video and stages it. Returns its row.

    Raises:
        NotWritten: the staging folder cannot be written. Nothing else: what is wrong with a source is in its row.
    """
    row = new_row(job.number, job.video, job.revision)
    made, digest = transcode_job(job)
    row |= finished(made, digest)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # whoever ordered it was killed; another prep may be at work in the same folder by now
    try:
        stage(Path(job.staging), row, made.data)
    except OSError as error:
        raise NotWritten(error.errno or 0, error.strerror or str(error), str(error.filename or job.staging)) from None
    return row


def transcode_job(job: Job) -> tuple[Transcoded, str]:
    """Transcodes in memory. Returns the result and the sha256 of the source ("" where it was not read)."""
    video = job.video
    if video.problem:
        return Transcoded("rejected", video.problem), ""
    try:
        digest = file_sha256(video.file.path)
    except OSError as error:
        return Transcoded("rejected", f"it cannot be read: {error.strerror}"), ""
    try:
        return transcode(video.file.path, job.recipe), digest
    except Exception as error:  # one odd file must not end the work on all others; its row says what happened
        return Transcoded("rejected", f"it could not be transcoded ({type(error).__name__}: {error})"), digest


def finished(made: Transcoded, digest: str) -> dict[str, Any]:
    """The part of a row that follows from the content."""
    stored = made.data is not None
    return {key: getattr(made, key) for key in _FROM_TRANSCODED} | {
        "sha256": digest,
        "offset": made.first_offset if stored else None,
        "member_bytes": len(made.data) if made.data is not None else None,
        "member_sha256": hashlib.sha256(made.data).hexdigest() if made.data is not None else None,
        "packet_sizes": made.packet_sizes,
        "packet_keys": made.packet_keys,
    }
