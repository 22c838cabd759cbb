"""Transfers that are cut, refused, changed or too large; then `prep --download` as a whole against a local server."""

from __future__ import annotations

import errno
import resource
import ssl
import threading
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import pytest

from tests.http_server import Fault, Server, serving
from vidssl.data import download
from vidssl.data.download import Stopped, arrived, fetch, forget, size_of
from vidssl.errors import DataError, EnvironmentProblem

CONTENT = bytes(range(256)) * 100  # 25,600 bytes


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSES", (0.01, 0.01))
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    with serving(folder) as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.glob("fetched*"))


def test_whole_file(server: Server, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(f"{server.url}/file", target, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == ["fetched"]
    assert seen[-1] == (25_600, 25_600)
    assert size_of(f"{server.url}/file") == 25_600
    fetch(f"{server.url}/file", target)
    assert server.bodies("file") == [0]  # what is there is not asked for again


def test_cut_goes_on_where_it_was(server: Server, target: Path) -> None:
    server.faults["file"] = Fault(cut_after=10_000, times=2)
    fetch(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT
    assert server.bodies("file") == [0, 10_000, 20_000]


def test_stopped_goes_on_later(server: Server, target: Path) -> None:
    server.faults["file"] = Fault(cut_after=10_000)
    stop = threading.Event()
    with pytest.raises(Stopped):
        fetch(f"{server.url}/file", target, progress=lambda done, total: stop.set(), stop=stop)
    server.faults.clear()
    have = arrived(target)
    assert 0 < have <= 10_000
    fetch(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT
    assert server.bodies("file") == [0, have]


def test_no_ranges_begins_again(server: Server, target: Path) -> None:
    server.faults["file"] = Fault(cut_after=10_000, times=1, ranges=False)
    fetch(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT
    server.faults["file"] = Fault(cut_after=10_000, ranges=False)
    forget(target)
    with pytest.raises(EnvironmentProblem, match="3 tries in a row brought nothing"):
        fetch(f"{server.url}/file", target)


def test_halves_of_two_versions_are_not_joined(server: Server, target: Path) -> None:
    server.faults["file"] = Fault(cut_after=10_000)
    with pytest.raises(EnvironmentProblem):
        fetch(f"{server.url}/file", target.with_name("gone"), progress=lambda done, total: _replace(server))
    assert _replaced(server)
    server.faults.clear()
    fetch(f"{server.url}/file", target.with_name("gone"))
    assert target.with_name("gone").read_bytes() == CONTENT[::-1]


def _replace(server: Server) -> None:
    (server.folder / "file").write_bytes(CONTENT[::-1])
    server.versions["file"] = '"2"'
    server.faults["file"] = Fault(status=503)


def _replaced(server: Server) -> bool:
    return server.versions.get("file") == '"2"'


def test_without_a_version_it_begins_again(server: Server, target: Path) -> None:
    server.versions["file"] = ""
    server.faults["file"] = Fault(cut_after=10_000, times=2)
    fetch(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT
    assert server.bodies("file") == [0, 0, 0]


@pytest.mark.parametrize("now", [b"", CONTENT[:5_000], CONTENT * 2])
def test_another_size_begins_again(now: bytes, server: Server, target: Path) -> None:
    """The same version, another length: what a broken mirror shows."""
    part = target.with_name("fetched.part")
    part.write_bytes(CONTENT[:10_000])
    target.with_name("fetched.part.json").write_text('{"bytes": 25600, "version": "\\"1\\""}')
    (server.folder / "file").write_bytes(now)
    fetch(f"{server.url}/file", target)
    assert target.read_bytes() == now


def test_wrong_size_is_told_and_kept(server: Server, target: Path) -> None:
    server.faults["file"] = Fault(announced=30_000)
    with pytest.raises(EnvironmentProblem, match=r"ended at byte 25600 of 30000(.|\n)*same command") as caught:
        fetch(f"{server.url}/file", target)
    assert f"{server.url}/file" in str(caught.value)
    assert not target.exists()
    assert arrived(target) == 25_600
    server.faults.clear()
    fetch(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "says"), [(404, "no such file"), (403, "refuses"), (401, "login")])
def test_refused_at_once(status: int, says: str, server: Server, target: Path) -> None:
    server.faults["file"] = Fault(status=status)
    for ask in (lambda: fetch(f"{server.url}/file", target), lambda: size_of(f"{server.url}/file")):
        server.requests.clear()
        with pytest.raises(DataError, match=rf"/file: the server answers {status}: .*{says}.*--mirror"):
            ask()
        assert len(server.requests) == 1


def test_busy_server_is_asked_again(server: Server, target: Path) -> None:
    server.faults["file"] = Fault(status=503, times=2)
    fetch(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "error", [ssl.SSLError(1, "EOF occurred in violation of protocol"), OSError(errno.EHOSTUNREACH, "No route to host")]
)
@pytest.mark.parametrize("while_", ["read1", "begin"])
def test_failures_of_tls_and_routes_pass(
    while_: str, error: OSError, server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the body alone: urllib passes them on as they are while it waits for the head, too."""
    real, calls = getattr(HTTPResponse, while_), []

    def failing(self: HTTPResponse, *arguments: int) -> bytes:
        calls.append(1)
        if len(calls) == 2:
            raise error
        result: bytes = real(self, *arguments)
        return result

    monkeypatch.setattr(HTTPResponse, while_, failing)
    if while_ == "begin":
        assert size_of(f"{server.url}/file") == 25_600
    fetch(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT
    monkeypatch.setattr(HTTPResponse, while_, lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(EnvironmentProblem, match=rf"3 tries in a row brought nothing: .*{error.strerror}"):
        fetch(f"{server.url}/file", target.with_name("other"))


def test_no_network(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES", (0.01,))
    for ask in (lambda: fetch("http://127.0.0.1:9/file", target), lambda: size_of("http://127.0.0.1:9/file")):
        with pytest.raises(
            EnvironmentProblem, match=r"127\.0\.0\.1:9/file could not be fetched, 2 tries(.|\n)*refused"
        ):
            ask()


def test_no_space(server: Server, target: Path) -> None:
    target.with_name("fetched.part").symlink_to("/dev/full")
    with pytest.raises(EnvironmentProblem, match=r"No space left on device \(.* GB are free\)(.|\n)*Make space"):
        fetch(f"{server.url}/file", target)


def test_what_arrived_before_the_disk_was_full_stays(server: Server, target: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(EnvironmentProblem, match=r"fetched\.part cannot be written: File too large"):
            fetch(f"{server.url}/file", target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert arrived(target) == 10_000
    fetch(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT
    assert server.bodies("file") == [0, 10_000]
