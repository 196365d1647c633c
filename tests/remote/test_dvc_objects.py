"""Objects of remotes in S3 and on the web, when these misbehave, and what is said of it."""

import logging
import os
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from microdiff.errors import SourceError
from microdiff.remote.dvc_objects import fetch_object, object_path
from microdiff.storage import NotFound, Storage, retry
from microdiff.storage.opening import open_remote
from tests.reporters import Said
from tests.s3_servers import KEY, SECRET
from tests.shard_project import md5_of
from tests.web_server import Fault, WebServer

DATA = bytes(range(256)) * 1200
MD5 = md5_of(DATA)
PATH = object_path(MD5)


@pytest.fixture(autouse=True)
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to be waited, which nobody does."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    waited: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture
def server() -> Iterator[WebServer]:
    """A web server, which is an S3 server to who only reads."""
    with WebServer(
        {f"bucket/prefix/{PATH}": DATA, "bucket/prefix/files/md5/d4/1d8cd98f00b204e9800998ecf8427e": b""}
    ) as it:
        yield it


@pytest.fixture(params=["s3", "web"])
def store(request: pytest.FixtureRequest, server: WebServer) -> Storage:
    return opened(request.param, server)


def opened(kind: str, server: WebServer) -> Storage:
    if kind == "web":
        return open_remote({"url": f"{server.url}/bucket/prefix", "user": KEY, "password": SECRET})
    keys = {"access_key_id": KEY, "secret_access_key": SECRET}
    return open_remote({"url": "s3://bucket/prefix", "endpointurl": server.url, **keys})


def refusal(status: int, code: str) -> Fault:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return Fault(status=status, body=body, headers={"Content-Type": "application/xml"})


def fetched(store: Storage, part: Path, said: Said | None = None) -> bytes:
    fetch_object(store, MD5, part, said or Said())
    return part.read_bytes()


def test_an_object_is_fetched_by_one_request(store: Storage, server: WebServer, tmp_path: Path) -> None:
    said = Said()
    assert fetched(store, tmp_path / "part", said) == DATA
    assert said.num_bytes == len(DATA)
    assert [request.method for request in server.requests] == ["GET"]
    assert store.stat(PATH, f"md5:{MD5}").num_bytes == len(DATA)
    fetch_object(store, md5_of(b""), tmp_path / "empty", said)
    assert (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (refusal(503, "SlowDown"), "SlowDown|HTTP 503"),
        (refusal(429, "TooManyRequests"), "TooManyRequests|HTTP 429"),
        (refusal(500, "InternalError"), "InternalError|HTTP 500"),
        (Fault(drop_after=1000), "the connection broke|the server closed"),
        (Fault(drop_after=0, headers={"Content-Length": str(len(DATA))}), "the connection broke|the server closed"),
    ],
    ids=["slow down", "429", "500", "broken", "broken at once"],
)
def test_what_may_pass_is_waited_for_and_said(
    store: Storage, server: WebServer, tmp_path: Path, waits: list[float], fault: Fault, reason: str
) -> None:
    said = Said()
    server.on("GET", fault, fault, fault)
    assert fetched(store, tmp_path / "part", said) == DATA
    assert len(said.messages) == len(waits) == 3
    for message in said.messages:
        assert any(word in message for word in reason.split("|")), message
        assert "trying again in" in message
    if fault.drop_after is None:
        assert waits == sorted(waits)  # longer each time
        assert waits[0] >= 0.5


def test_a_server_that_stays_busy_is_given_up(
    store: Storage, server: WebServer, tmp_path: Path, waits: list[float]
) -> None:
    server.always["GET"] = refusal(503, "SlowDown")
    with pytest.raises(SourceError, match=r"(SlowDown|HTTP 503), 10 times in a row\. Check the network"):
        fetched(store, tmp_path / "part")
    assert len(waits) == 9
    assert 60 <= sum(waits) < 400


def test_what_came_before_a_break_is_kept(store: Storage, server: WebServer, tmp_path: Path) -> None:
    server.on("GET", Fault(drop_after=100_000), Fault(drop_after=50_000))
    said = Said()
    assert fetched(store, tmp_path / "part", said) == DATA
    assert said.num_bytes == len(DATA)
    assert [request.headers.get("Range") for request in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("had", [DATA, DATA[:1000], DATA + b"!", b"X" * 1000, b"X" * (len(DATA) + 9)])
def test_a_partial_file_of_any_kind_becomes_the_object(store: Storage, tmp_path: Path, had: bytes) -> None:
    (tmp_path / "part").write_bytes(had)
    assert fetched(store, tmp_path / "part") == DATA


def test_a_server_without_ranges_sends_it_all_again(store: Storage, server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:1000])
    server.always["GET"] = Fault(whole=True)
    said = Said()
    assert fetched(store, tmp_path / "part", said) == DATA
    assert ["cannot continue a download, starting over" in message for message in said.messages] == [True]


def test_an_object_that_is_damaged_there_is_refused_with_the_remedy(
    store: Storage, server: WebServer, tmp_path: Path
) -> None:
    server.files[f"bucket/prefix/{PATH}"] = b"X" + DATA[1:]
    found = md5_of(b"X" + DATA[1:])
    with pytest.raises(
        SourceError, match=rf"{PATH}: the object is damaged: its bytes have MD5 {found}, twice"
    ) as error:
        fetched(store, tmp_path / "part")
    assert "Delete it from the remote and run dvc push" in str(error.value)
    assert len(server.asked("GET")) == 2
    assert not (tmp_path / "part").exists()


def test_bytes_damaged_on_the_way_are_fetched_again(store: Storage, server: WebServer, tmp_path: Path) -> None:
    server.on("GET", Fault(damage=True))
    said = Said()
    assert fetched(store, tmp_path / "part", said) == DATA
    assert "starting over" in said.messages[0]


def test_an_absent_object_is_told_from_an_absent_bucket(store: Storage) -> None:
    with pytest.raises(NotFound, match="bucket/prefix/files/absent: no such file"), store.read("files/absent"):
        pass


def test_no_secret_is_shown(
    server: WebServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, waits: list[float]
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = []
    for kind in ("s3", "web"):
        store = opened(kind, server)
        fetched(store, tmp_path / kind)
        for fault in (refusal(403, "SignatureDoesNotMatch"), refusal(503, "SlowDown")):
            server.always["GET"] = fault
            with pytest.raises(SourceError) as error:
                fetched(store, tmp_path / "part")
            shown += [str(error.value), "".join(traceback.format_exception(error.value))]
            server.always.clear()
        shown += [repr(store), store.name]
        assert fetched(pickle.loads(pickle.dumps(store)), tmp_path / f"{kind}2") == DATA  # noqa: S301 - our own
    assert not [text for text in [caplog.text, *shown] if SECRET in text]
    assert "botocore" not in {record.name.partition(".")[0] for record in caplog.records}
