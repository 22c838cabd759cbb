"""What a worker process does with one video: hash, transcode, leave the result in staging. Imports no torch.

A video within an archive is copied out first, into staging. libav could read a stretch of a tar or a Python file, but
it knows some formats by their file's name alone, and copying costs 0.5 to 2 ms of a processor's time where transcoding
costs 200 (the 21 clips of ../shared/data/real, half a MB each, out of a rar, tar and zip).
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import DataError
from .archive_formats import is_damage
from .archives import open_member, stream
from .picture import Recipe
from .shards import stage, staged_row
from .sources import SourceFile, SourceVideo
from .transcode import Transcoded, transcode

_CHUNK_BYTES = 1 << 20
COPIES = ".copy-*"  # names of copies in staging
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
    """One video to be done: its number, shard and revision, and how.

    Args:
        copy: the video's content, where it was copied out of an archive for this job.
    """

    number: int
    shard: int
    video: SourceVideo
    revision: int
    staging: str
    recipe: Recipe
    copy: Path | None = None


def new_row(number: int, video: SourceVideo, revision: int) -> dict[str, Any]:
    """What is known of a source before it is opened; the rest of its row follows from its content and the settings."""
    size, mtime_ns = video.file.stat()
    labels = {f"label:{system}": label for system, label in video.labels.items()}
    splits = {f"split:{name}": part for name, part in video.splits.items()}
    return {
        "path": video.id, "id": video.id, "label": video.label, "split": video.split, **labels, **splits,
        "bytes": size, "mtime_ns": mtime_ns, "number": number, "revision": revision,
    }  # fmt: skip


def row_in_staging(job: Job) -> dict[str, Any] | None:
    """The row of a job whose video lies in staging, whole and of the source as it is now; else None."""
    row, expected = staged_row(Path(job.staging), job.number), new_row(job.number, job.video, job.revision)
    return row if row is not None and {key: row.get(key) for key in expected} == expected else None


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


def source_sha256(file: SourceFile) -> str:
    """The digest of a file on disk, or of a member that can be opened alone; "" where it cannot be read."""
    if file.member is None:
        return readable_sha256(file.path)
    try:
        with open_member(file.path, file.member) as content:
            return member_sha256(content)
    except OSError:
        return ""
    except Exception as error:
        if not is_damage(error):
            raise
        return ""


def member_sha256(content: IO[bytes]) -> str:
    """The digest of a member's content; "" where it is damaged."""
    digest = hashlib.sha256()
    try:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    except Exception as error:
        if not is_damage(error):
            raise
        return ""
    return digest.hexdigest()


def copy_content(content: IO[bytes], job: Job) -> Path:
    """Copies a member's content into staging, under a name with its suffix, which libav looks at.

    Raises:
        NotWritten: the staging folder cannot be written. And what `is_damage` knows, of the content.
    """
    suffix = PurePosixPath(job.video.file.name).suffix
    staging = job.staging if os.path.isdir(job.staging) else None  # a dry run has none
    target = Path(staging or tempfile.gettempdir()) / f"{COPIES[:-1]}{job.number:08d}-{os.getpid()}{suffix}"
    with _writing(target):
        copy = target.open("wb", buffering=0)
    try:
        with copy:
            while chunk := content.read(_CHUNK_BYTES):
                with _writing(target):
                    copy.write(chunk)
    except BaseException:
        target.unlink()
        raise
    return target


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotWritten(error.errno or 0, error.strerror or str(error), str(target)) from None


def process(job: Job) -> dict[str, Any]:
    """Transcodes a video and stages it. Returns its row, which says what is wrong with the source.

    Raises:
        NotWritten: the staging folder cannot be written.
        DataError, EnvironmentProblem: the archive that it lies in cannot be read at all.
    """
    row = new_row(job.number, job.video, job.revision)
    made, digest = transcode_job(job)
    if not job.video.problem and job.video.file.stat() != (row["bytes"], row["mtime_ns"]):
        # without a digest the next prep looks at it again, even where a copying program sets the old time afterwards
        made, digest = Transcoded("rejected", "it changed or went away while it was read"), ""
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
    """Transcodes in memory. Returns the result and the sha256 of the source ("" where it was not read).

    Raises:
        NotWritten: a member of an archive cannot be copied.
        DataError: its archive cannot be read.
        EnvironmentProblem: no unpacker for its archive; only of a job without its copy.
    """
    video = job.video
    if video.problem:
        return Transcoded("rejected", video.problem), ""
    try:
        with _on_disk(job) as path:
            digest = file_sha256(path)
            try:
                return transcode(path, job.recipe), digest
            except Exception as error:  # one odd file must not end the work on all others; its row says what happened
                reason = f"it could not be transcoded ({type(error).__name__}: {error})"
                return Transcoded("rejected", reason), digest
    except Exception as error:
        if is_damage(error):
            return Transcoded("rejected", cut_reason(video.file)), ""
        if isinstance(error, OSError):
            return Transcoded("rejected", f"it cannot be read: {error.strerror}"), ""
        raise


def cut_reason(file: SourceFile) -> str:
    """Why a member is rejected whose archive is damaged."""
    return f"it cannot be read: its archive {file.path.name} is cut or damaged there"


@contextmanager
def _on_disk(job: Job) -> Iterator[Path]:
    """The video as a file. Raises OSError for one on disk; of a member what `is_damage` knows, and DataError."""
    file = job.video.file
    if job.copy is not None or file.member is None:
        yield job.copy or file.path
        return
    try:
        with _content(file) as content:
            copy = copy_content(content, job)
    except OSError as error:
        if is_damage(error):
            raise
        raise archive_gone(file.path, error) from error
    try:
        yield copy
    finally:
        copy.unlink(missing_ok=True)


@contextmanager
def _content(file: SourceFile) -> Iterator[IO[bytes]]:
    """The content of a member, wherever it lies."""
    assert file.member is not None, "for members of archives"
    if file.member.offset is not None:
        with open_member(file.path, file.member) as content:
            yield content
        return
    for member, content in stream(file.path, {file.member.name}):
        if member.place == file.member.place:
            yield content
            return
    raise EOFError


def archive_gone(path: Path, error: OSError) -> DataError:
    """An archive holds thousands of videos: where it cannot be read any more, prep stops instead of rejecting all."""
    return DataError(
        f"archive {path} cannot be read any more: {error.strerror or error}. What is finished is kept: mend this and "
        "run the same command again."
    )


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
