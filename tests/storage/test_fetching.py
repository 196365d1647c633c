"""Every fault of a server on every kind of source read over HTTP; kills in the middle, and what they leave."""

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import REPO
from microdiff.errors import SourceError
from microdiff.pipeline.store import Store
from microdiff.storage import Source, SourceFile, retry
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.local import LocalStorage
from microdiff.storage.opening import open_source
from tests.durability import DiskOrder
from tests.hub_server import HubServer
from tests.reporters import Said
from tests.waiting import PATIENCE_S, end, wait_until
from tests.web_server import Fault, WebServer

DATA = bytes(range(256)) * 1200  # 300 KiB
MD5 = f"md5:{hashlib.md5(DATA, usedforsecurity=False).hexdigest()}"
DROP = Fault(drop_after=100_000)


@dataclass(frozen=True)
class Setting:
    """A source, a file in it, and the server that has its bytes."""

    root: str
    path: str
    checksum: str | None
    work: Path
    server: WebServer

    def open(self) -> Source:
        return open_source(self.root, self.work)

    def stat(self) -> SourceFile:
        return self.open().stat(self.path, self.checksum)

    def bytes_requests(self) -> list[str | None]:
        """Return the ranges that bytes were asked for by."""
        ranges = [request.headers.get("Range") for request in self.server.asked("GET") if "/api/" not in request.target]
        return [wanted for wanted in ranges if wanted != "bytes=0-0"]

    def kept(self) -> list[Path]:
        return [path for path in (self.work / "fetch").rglob("*") if path.is_file()]


KINDS = ["web by ETag", "web by MD5", "hub, large file", "hub, small file", "links", "links with MD5"]
CHECKED = [kind for kind in KINDS if kind not in ("web by ETag", "links")]


@pytest.fixture
def setting(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))
    kind, checksum = request.param, MD5 if request.param.endswith("MD5") else None
    work = tmp_path / "work"
    if kind.startswith("hub"):
        path = "data/000.tgz" if "large" in kind else "data/table.csv"
        with HubServer({"ORG/REPO": {path: DATA}}) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            yield Setting(hub.root("ORG/REPO"), path, None, work, hub.blobs if "large" in kind else hub)
        return
    with WebServer({"opaque": DATA, "zips/a.zip": DATA}) as server:
        if kind.startswith("web"):
            yield Setting(server.url, "zips/a.zip", checksum, work, server)
            return
        end = f"{int(time.time()) + 86_400:X}"
        links = tmp_path / "links.txt"
        links.write_text(f"file_name\tcdn_link\na.tar\t{server.url}/opaque?oh=x&oe={end}")
        yield Setting(str(links), "a.tar", checksum, work, server)


# --- faults of servers

RIGHT, ERROR = "right bytes", "an error"
A_PAGE = [Fault(body=b"<html>Log in to this network</html>")]
FAULTS = {
    "busy, says how long": [Fault(status=429, headers={"Retry-After": "1"})],
    "not ready": [Fault(status=503), Fault(status=502)],
    "dropped": [DROP],
    "dropped before the first byte": [Fault(drop_after=0)],
    "dropped again and again": [Fault(drop_after=30_000)] * 8,
    "dropped, then busy": [DROP, Fault(status=503)],
    "dropped, then the range is ignored": [DROP, Fault(whole=True)],
    "dropped, then the range is refused": [DROP, Fault(status=416)],
    "dropped, then another range": [DROP, Fault(headers={"Content-Range": "bytes 0-9/10"})],
    "ends early without a length": [Fault(drop_after=100_000, headers={"Content-Length": None})],
    "another ETag": [Fault(headers={"ETag": '"other"'})],
    "dropped, then another ETag": [DROP, Fault(headers={"ETag": '"other"'})],
    "dropped, then another ETag for the same range": [DROP, Fault(headers={"ETag": '"other"'}, careless=True)],
    "no ETag": [Fault(headers={"ETag": None})],
    "dropped without an ETag": [Fault(drop_after=100_000, headers={"ETag": None})],
    "slow": [Fault(pause_s=0.0005)],
    "says that it is compressed": [Fault(headers={"Content-Encoding": "gzip"})],
    "another page": A_PAGE,
    "longer": [Fault(body=DATA + b"!")],
    "longer without a length": [Fault(body=DATA + b"!", headers={"Content-Length": None})],
    "shorter without a length": [Fault(body=DATA[:-1], headers={"Content-Length": None})],
}
DAMAGE = {
    "damaged": [Fault(damage=True)],
    "damaged, then dropped": [Fault(damage=True, drop_after=100_000)],
}
AN_ERROR = {"another page", "longer", "longer without a length"}
AN_ERROR_BY_ETAG = {name for name in FAULTS if "ETag" in name}


def cases() -> list[Any]:
    def outcome(kind: str, name: str) -> str:
        return ERROR if name in AN_ERROR or (kind == "web by ETag" and name in AN_ERROR_BY_ETAG) else RIGHT

    return [
        pytest.param(kind, faults, outcome(kind, name), id=f"{kind}: {name}")
        for kind in KINDS
        for name, faults in (FAULTS | DAMAGE if kind in CHECKED else FAULTS).items()
    ]


@pytest.mark.parametrize(("setting", "faults", "outcome"), cases(), indirect=["setting"])
def test_whatever_a_server_does_no_wrong_bytes_come_out(setting: Setting, faults: list[Fault], outcome: str) -> None:
    source, file = setting.open(), setting.stat()
    setting.server.on("GET", *faults)
    if outcome == RIGHT:
        assert source.fetch(file).read_bytes() == DATA
    else:
        changed, page = r"changed on the server: .*\. Run again\.$", r"the server sent a web page \(HTML\) in its place"
        with pytest.raises(SourceError, match=rf"/{setting.path}: {page if faults == A_PAGE else changed}"):
            source.fetch(file)
        assert all(path.name.endswith((".part", ".version")) for path in setting.kept())
    assert setting.open().fetch(setting.stat()).read_bytes() == DATA
    source.forget(file)
    assert not setting.kept()


@pytest.mark.parametrize("setting", CHECKED, indirect=True)
def test_what_is_always_damaged_is_not_kept(setting: Setting) -> None:
    source, file, said = setting.open(), setting.stat(), Said()
    setting.server.always["GET"] = Fault(damage=True)
    with pytest.raises(
        SourceError, match=rf"{setting.path}: expected {file.identity}, got .*, twice. Nothing was kept"
    ):
        source.with_reporter(said).fetch(file)
    assert len(setting.bytes_requests()) == 2
    assert len(said.messages) == 1
    assert not setting.kept()
    setting.server.always.clear()
    assert source.fetch(file).read_bytes() == DATA


@pytest.mark.parametrize("setting", KINDS, indirect=True)
def test_a_server_that_stays_busy_is_an_error_and_what_came_is_kept(setting: Setting) -> None:
    source, file = setting.open(), setting.stat()
    setting.server.on("GET", DROP)
    setting.server.always["GET"] = Fault(status=503)
    with pytest.raises(SourceError, match=rf"{setting.path}: HTTP 503.*, 10 times in a row. Check the network"):
        source.fetch(file)
    setting.server.always.clear()
    assert source.fetch(file).read_bytes() == DATA
    assert setting.bytes_requests()[-1] == "bytes=100000-"


@pytest.mark.parametrize("setting", KINDS, indirect=True)
def test_netrc_is_not_read(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert setting.open().fetch(setting.stat()).read_bytes() == DATA
    assert not [request for request in setting.server.requests if "Authorization" in request.headers]


# --- what a power cut leaves


@pytest.mark.parametrize("setting", ["web by ETag", "web by MD5"], indirect=True)
@pytest.mark.parametrize("had_it_all", [False, True])
def test_bytes_are_on_disk_before_the_name_and_the_name_before_it_is_told(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, had_it_all: bool
) -> None:
    source, file = setting.open(), setting.stat()
    target = source.fetch(file)
    part = target.with_name(f"{target.name}.part")
    target.rename(part)
    if not had_it_all:
        part.unlink()
    order = DiskOrder(monkeypatch)
    assert source.fetch(file) == target
    assert order.of(part, target) == ["file synced", "renamed", "folder synced"]


# --- kills

FETCH = """
import sys
from pathlib import Path
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.local import LocalStorage
from microdiff.storage.opening import open_source
root, path, checksum, work = sys.argv[1:]
source = open_source(root, Path(work))
source.fetch(source.stat(path, checksum or None))
"""


def start_fetching(setting: Setting) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", FETCH, setting.root, setting.path, setting.checksum or "", str(setting.work)]
    return subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)


def kill_at(setting: Setting, share: float) -> int:
    """Kill a process that fetches when it has this share of the bytes; return how many it had."""
    stalled = int(share * len(DATA))
    setting.server.always["GET"] = Fault(stall_after=stalled)
    with start_fetching(setting) as victim:
        try:
            in_memory = 2 * io.DEFAULT_BUFFER_SIZE  # what it may not have written yet
            wait_until(lambda: has_ended(victim) or num_bytes(setting) >= stalled - in_memory, "it has its share")
            os.kill(victim.pid, signal.SIGKILL)
            assert victim.wait(PATIENCE_S) == -signal.SIGKILL
        finally:
            end(victim)
    setting.server.always.clear()
    (part,) = (path for path in setting.kept() if path.suffix == ".part")
    assert part.read_bytes() == DATA[: part.stat().st_size]
    return part.stat().st_size


def num_bytes(setting: Setting) -> int:
    return sum(part.stat().st_size for part in setting.kept())


def has_ended(process: "subprocess.Popen[str]") -> bool:
    return process.poll() is not None


@pytest.mark.parametrize("setting", ["web by ETag", "hub, large file", "hub, small file", "links"], indirect=True)
def test_a_killed_download_continues_and_leaves_nothing(setting: Setting) -> None:
    had = kill_at(setting, 0.9)
    with start_fetching(setting) as again:
        _, errors = again.communicate(timeout=PATIENCE_S)
        assert again.returncode == 0, errors
    assert setting.bytes_requests() == [None, f"bytes={had}-"]
    (fetched,) = (path for path in setting.kept() if path.suffix != ".fetched")  # which says what it is
    assert fetched.read_bytes() == DATA
    setting.open().forget(setting.stat())
    assert not list((setting.work / "fetch").iterdir())


@pytest.mark.parametrize("setting", ["web by ETag"], indirect=True)
def test_a_part_that_is_longer_than_the_file_is_thrown_away(setting: Setting) -> None:
    source, file = setting.open(), setting.stat()
    setting.server.on("GET", DROP)
    setting.server.always["GET"] = Fault(status=404)
    with pytest.raises(SourceError, match="HTTP 404"):
        source.fetch(file)
    (part,) = setting.kept()
    part.write_bytes(DATA[1:] + b"what a broken disk adds")
    setting.server.always.clear()
    assert source.fetch(file).read_bytes() == DATA


@pytest.mark.parametrize("setting", ["web by ETag"], indirect=True)
@pytest.mark.parametrize("how", ["forget", "prune"])
def test_what_a_killed_download_left_is_removed(setting: Setting, how: str) -> None:
    kill_at(setting, 0.3)
    if how == "forget":
        setting.open().forget(setting.stat())
    else:
        Store(setting.work).prune([])
    assert not list((setting.work / "fetch").iterdir())


@pytest.mark.parametrize("setting", ["hub, small file", "links"], indirect=True)
def test_pruning_keeps_what_is_known_of_sources(setting: Setting) -> None:
    file = setting.stat()
    Store(setting.work).prune([])
    num_requests = len(setting.server.requests)
    assert setting.stat() == file
    assert len(setting.server.requests) == num_requests


def test_a_full_disk_is_named_and_the_fetch_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.bin").write_bytes(b"bytes")
    source = FetchedSource(storage=LocalStorage(root=tmp_path / "there"), fetched=tmp_path / "fetch")
    file = source.stat("a.bin")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="No space left on device") as caught:
            source.fetch(file)
    assert Path(str(caught.value.filename)).parent == tmp_path / "fetch"
    assert source.fetch(file).read_bytes() == b"bytes"
