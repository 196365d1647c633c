"""Partial files that an earlier attempt left: which bytes are asked for, of which version, and when none are."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from microdiff.storage import retry
from microdiff.storage.fetching import fetch_verified
from microdiff.storage.web import WebStorage
from tests.reporters import Said
from tests.storage_contract import DATA, MD5, PATH
from tests.web_server import Fault, WebServer, etag_of

NEWER = DATA[::-1]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))
    with WebServer({PATH: DATA}) as server:
        yield server


def ranges(server: WebServer) -> list[str | None]:
    return [request.headers.get("Range") for request in server.asked("GET")]


@pytest.mark.parametrize("identity", [MD5, f"etag:{etag_of(DATA)}", "name:a"])
def test_a_part_that_is_longer_than_its_file_is_begun_anew_by_the_first_request(
    server: WebServer, tmp_path: Path, identity: str
) -> None:
    part, said = tmp_path / "part", Said()
    part.write_bytes(DATA + b"!")
    storage = WebStorage(root=server.url, report=said)
    fetch_verified(storage, PATH, part, identity=identity, num_bytes=len(DATA))
    assert part.read_bytes() == DATA
    assert ranges(server) == [None]
    assert said.messages == []


@pytest.mark.parametrize("num_bytes", [None, len(DATA)])
def test_a_part_that_is_whole_is_not_asked_for_again(server: WebServer, tmp_path: Path, num_bytes: int | None) -> None:
    part = tmp_path / "part"
    part.write_bytes(DATA)
    fetch_verified(WebStorage(root=server.url), PATH, part, identity=MD5, num_bytes=num_bytes)
    assert part.read_bytes() == DATA
    assert server.requests == []


def test_a_part_begun_anew_is_no_longer_of_the_version_it_was_of(server: WebServer, tmp_path: Path) -> None:
    """The note of a version outlives no byte of it: else those of two versions would be mixed here."""
    part = tmp_path / "part"
    unnamed = Fault(drop_after=150_000, body=NEWER, headers={"ETag": None})
    server.on("GET", Fault(drop_after=100_000), unnamed)
    fetch_verified(WebStorage(root=server.url), PATH, part, identity="name:a", num_bytes=len(DATA))
    assert part.read_bytes() == DATA
    assert ranges(server) == [None, "bytes=100000-", None]
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
