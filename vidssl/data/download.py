"""One file over HTTP, to its end: goes on where it was cut, is checked against its size, and only then gets its name.

What has arrived lies in NAME.part, with the size and the version (ETag or Last-Modified) that the server gave in
NAME.part.json. A later try asks for the rest (a range request). Where the server has no ranges, says no version, or has
another one by now, it begins again: halves of two versions are never put together.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from ..errors import DataError, EnvironmentProblem
from .files import replacing

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before each further try in a row that brings nothing
_TIMEOUT = 60.0  # seconds without a byte
_CHUNK_BYTES = 1 << 20
_FAILURES = (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError)
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers of a server that may be otherwise a moment later


class Stopped(Exception):
    """The transfer was told to stop; what has arrived stays."""


@dataclass(frozen=True)
class Remote:
    """What a server says of a file: its bytes (None where it does not say) and its version ("" likewise)."""

    bytes: int | None
    version: str


def size_of(address: str) -> int | None:
    """Bytes of a remote file, None where the server does not say. Raises as `fetch` does."""
    request = urllib.request.Request(address, method="HEAD")
    for failures, pause in enumerate((*PAUSES, None), 1):
        try:
            with _open(request) as answer:
                return _remote(answer).bytes
        except _FAILURES as error:
            reason = _passing(error, address)
        if pause is None:
            raise _given_up(address, failures, reason, 0)
        time.sleep(pause)
    raise AssertionError


def fetch(
    address: str,
    target: Path,
    *,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    stop: threading.Event | None = None,
) -> Path:
    """Fetches a file, or the rest of it. Where `target` is there, it is whole, and nothing is asked.

    Args:
        address: http:// or https://; proxies of the environment are used.
        target: in a folder that exists.
        progress: called with bytes that are there and bytes there will be.
        stop: ends the transfer from another thread.

    Raises:
        DataError: the server refuses it, or says it has no such file.
        EnvironmentProblem: no network, no space, or a transfer that is cut again and again; what has arrived stays.
        Stopped: by `stop`.
    """
    if target.exists():
        return target
    part = _part_of(target)
    failures = 0
    while True:
        before = size_on_disk(part)
        try:
            if _transfer(address, part, progress, stop):
                break
            reason = f"the connection ended at byte {size_on_disk(part)} of {_known(part).bytes}"
        except _FAILURES as error:
            reason = _passing(error, address)
        failures = 0 if size_on_disk(part) > before else failures + 1
        if failures > len(PAUSES):
            raise _given_up(address, failures, reason, size_on_disk(part))
        _wait(PAUSES[max(0, failures - 1)], stop)
    part.replace(target)
    _note_of(part).unlink(missing_ok=True)
    return target


def arrived(target: Path) -> int:
    """Bytes on disk of a file that is fetched, or is being fetched."""
    return size_on_disk(target) or size_on_disk(_part_of(target))


def forget(target: Path) -> None:
    """Removes a file, whole or not, from disk."""
    for file in (target, _part_of(target), _note_of(_part_of(target))):
        file.unlink(missing_ok=True)


def _transfer(
    address: str, part: Path, progress: Callable[[int, int | None], None], stop: threading.Event | None
) -> bool:
    """One try. Returns whether the file is whole now."""
    have, known = size_on_disk(part), _known(part)
    if have and have == known.bytes:
        return True
    if have and not known.version:
        _begin_again(part)
        have = 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = _open(request)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # it has become shorter than what is here
            raise
        _begin_again(part)
        return False
    with answer:
        now = _remote(answer)
        if have and (answer.status != 206 or now != known or _first_byte(answer) != have):
            _begin_again(part)
            have = 0
            if answer.status == 206:
                return False
        if not have:
            _note(part, now)
        with part.open("ab", buffering=0) as out:  # a buffer would fail once more when it is closed
            while chunk := _read(answer):
                _write(out, chunk, address, part)
                have += len(chunk)
                progress(have, now.bytes)
                if stop is not None and stop.is_set():
                    raise Stopped
            os.fsync(out.fileno())
    return now.bytes is None or have == now.bytes


def _open(request: urllib.request.Request) -> HTTPResponse:
    try:
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.URLError:
        raise
    except OSError as error:  # while it waits for the answer, urllib leaves them as they are
        raise ConnectionError(str(error)) from error
    return answer


def _read(answer: HTTPResponse) -> bytes:
    try:
        return answer.read1(_CHUNK_BYTES)
    except OSError as error:  # also those of TLS and of routes: here they are never the disk's
        raise ConnectionError(str(error)) from error


def _remote(answer: HTTPResponse) -> Remote:
    """Of the whole file, also where the answer is a part of it."""
    ranged = answer.headers.get("Content-Range", "").rpartition("/")[2]
    text = ranged if answer.status == 206 else answer.headers.get("Content-Length", "")
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    return Remote(int(text) if text.isdigit() else None, version)


def _first_byte(answer: HTTPResponse) -> int | None:
    first = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else None


def _passing(error: Exception, address: str) -> str:
    """Why a try failed. Raises where a further one would fail as well."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code not in _PASSING:
            raise _refused(address, error) from None
        return f"the server answers {error.code} ({error.reason})"
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise EnvironmentProblem(
            f"{address} is not who it says it is: {reason.verify_message}. A proxy may stand between (SSL_CERT_FILE "
            "names its certificate), or the server's has run out: another copy with --mirror URL, or fetch the files "
            "yourself and give --source DIR."
        ) from None
    return str(reason) or type(error).__name__


def _wait(seconds: float, stop: threading.Event | None) -> None:
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise Stopped


def _write(out: Any, chunk: bytes, address: str, part: Path) -> None:
    left = memoryview(chunk)
    try:
        while left:
            left = left[out.write(left) :]
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        free = f" ({shutil.disk_usage(part.parent).free / 1e9:.1f} GB are free)" if full else ""
        raise EnvironmentProblem(
            f"{part} cannot be written: {error.strerror}{free}. It is the file that comes from {address}. What has "
            "arrived stays. Make space and run the same command again, or set VIDSSL_HOME to another place."
        ) from error


def _refused(address: str, error: urllib.error.HTTPError) -> DataError:
    what = {404: "it has no such file", 410: "it has no such file", 401: "it wants a login", 403: "it refuses"}
    return DataError(
        f"{address}: the server answers {error.code}: {what.get(error.code, error.reason)}. What was fetched before "
        "stays. Try another copy with --mirror URL, or fetch the files yourself and give --source DIR."
    )


def _given_up(address: str, tries: int, reason: str, have: int) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{address} could not be fetched, {tries} tries in a row brought nothing: {reason}. {have} bytes of it are "
        "here and stay. Check the network and the proxy (https_proxy), and run the same command again: it goes on from "
        "there. Another copy: --mirror URL."
    )


# ---- the part on disk


def _part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def size_on_disk(file: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _known(part: Path) -> Remote:
    try:
        return Remote(**json.loads(_note_of(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Remote(None, "")


def _note(part: Path, remote: Remote) -> None:
    try:
        with replacing(_note_of(part)) as temporary:
            temporary.write_text(json.dumps(remote.__dict__), encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(
            f"{part.parent} cannot be written: {error.strerror}. Make space or give the permission and run the same "
            "command again, or set VIDSSL_HOME to another place."
        ) from error


def _begin_again(part: Path) -> None:
    for file in (part, _note_of(part)):
        file.unlink(missing_ok=True)
