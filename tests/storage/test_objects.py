"""The stores that remotes are: S3 and the web when they misbehave, and what is said of it."""

import logging
import os
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from microdiff.errors import SourceError
from microdiff.storage.objects import NoSuchObject, ObjectStore, fetching
from microdiff.storage.objects.fetching import fetch_object, object_path
from microdiff.storage.objects.local import LocalStore
from microdiff.storage.objects.opening import open_store, public_settings
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
    monkeypatch.setattr(fetching, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture
def server() -> Iterator[WebServer]:
    """A web server, which is an S3 server to who only reads."""
    with WebServer(
        {f"bucket/prefix/{PATH}": DATA, "bucket/prefix/files/md5/d4/1d8cd98f00b204e9800998ecf8427e": b""}
    ) as it:
        yield it


@pytest.fixture(params=["s3", "web"])
def store(request: pytest.FixtureRequest, server: WebServer) -> ObjectStore:
    return opened(request.param, server)


def opened(kind: str, server: WebServer) -> ObjectStore:
    if kind == "web":
        return open_store({"url": f"{server.url}/bucket/prefix", "user": KEY, "password": SECRET})
    keys = {"access_key_id": KEY, "secret_access_key": SECRET}
    return open_store({"url": "s3://bucket/prefix", "endpointurl": server.url, **keys})


def refusal(status: int, code: str) -> Fault:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return Fault(status=status, body=body, headers={"Content-Type": "application/xml"})


def fetched(store: ObjectStore, part: Path, said: Said | None = None) -> bytes:
    fetch_object(store, MD5, part, said or Said())
    return part.read_bytes()


def test_an_object_is_fetched_by_one_request(store: ObjectStore, server: WebServer, tmp_path: Path) -> None:
    said = Said()
    assert fetched(store, tmp_path / "part", said) == DATA
    assert said.num_bytes == len(DATA)
    assert [request.method for request in server.requests] == ["GET"]
    assert store.size(PATH) == len(DATA)
    fetch_object(store, md5_of(b""), tmp_path / "empty", said)
    assert (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (refusal(503, "SlowDown"), "SlowDown|HTTP 503"),
        (refusal(429, "TooManyRequests"), "TooManyRequests|HTTP 429"),
        (refusal(500, "InternalError"), "InternalError|HTTP 500"),
        (Fault(drop_after=1000), "the connection broke|bytes came"),
        (Fault(drop_after=0, headers={"Content-Length": str(len(DATA))}), "the connection broke|bytes came"),
    ],
    ids=["slow down", "429", "500", "broken", "broken at once"],
)
def test_what_may_pass_is_waited_for_and_said(
    store: ObjectStore, server: WebServer, tmp_path: Path, waits: list[float], fault: Fault, reason: str
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


def test_a_server_that_asks_for_time_gets_it(
    store: ObjectStore, server: WebServer, tmp_path: Path, waits: list[float]
) -> None:
    server.on("GET", Fault(status=503, headers={"Retry-After": "7"}))
    assert fetched(store, tmp_path / "part") == DATA
    assert 7 <= waits[0] < 11


def test_a_server_that_stays_busy_is_given_up(
    store: ObjectStore, server: WebServer, tmp_path: Path, waits: list[float]
) -> None:
    server.always["GET"] = refusal(503, "SlowDown")
    with pytest.raises(SourceError, match=r"(SlowDown|HTTP 503), 10 times in a row\. Check the network"):
        fetched(store, tmp_path / "part")
    assert len(waits) == 9
    assert 60 <= sum(waits) < 400


def test_what_came_before_a_break_is_kept(store: ObjectStore, server: WebServer, tmp_path: Path) -> None:
    server.on("GET", Fault(drop_after=100_000), Fault(drop_after=50_000))
    said = Said()
    assert fetched(store, tmp_path / "part", said) == DATA
    assert said.num_bytes == len(DATA)
    assert [request.headers.get("Range") for request in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("had", [DATA, DATA[:1000], DATA + b"!", b"X" * 1000, b"X" * (len(DATA) + 9)])
def test_a_partial_file_of_any_kind_becomes_the_object(store: ObjectStore, tmp_path: Path, had: bytes) -> None:
    (tmp_path / "part").write_bytes(had)
    assert fetched(store, tmp_path / "part") == DATA


def test_a_server_without_ranges_sends_it_all_again(store: ObjectStore, server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:1000])
    server.always["GET"] = Fault(whole=True)
    said = Said()
    assert fetched(store, tmp_path / "part", said) == DATA
    assert not said.messages


def test_bytes_damaged_on_the_way_are_fetched_again(store: ObjectStore, server: WebServer, tmp_path: Path) -> None:
    server.on("GET", Fault(damage=True))
    said = Said()
    assert fetched(store, tmp_path / "part", said) == DATA
    assert "starting over" in said.messages[0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refusal(403, "InvalidAccessKeyId"), "the credentials are not accepted (InvalidAccessKeyId). Give"),
        (refusal(403, "SignatureDoesNotMatch"), "the credentials are not accepted (SignatureDoesNotMatch). Give"),
        (refusal(400, "ExpiredToken"), "the credentials are not accepted (ExpiredToken). Give"),
        (refusal(403, "AccessDenied"), "access denied (AccessDenied). The credentials must allow s3:GetObject"),
        (refusal(404, "NoSuchBucket"), "s3://bucket: no such bucket at http://127.0.0.1"),
        (refusal(400, "SomethingElse"), "SomethingElse. Check the remote's settings"),
    ],
)
def test_what_cannot_pass_is_said_at_once(
    server: WebServer, tmp_path: Path, waits: list[float], fault: Fault, message: str
) -> None:
    server.always["GET"] = fault
    with pytest.raises(SourceError) as error:
        fetched(opened("s3", server), tmp_path / "part")
    assert message in str(error.value)
    assert len(server.requests) == 1
    assert not waits


def test_a_web_server_that_refuses_is_said(server: WebServer, tmp_path: Path) -> None:
    server.always["GET"] = Fault(status=401)
    with pytest.raises(SourceError, match=r"HTTP 401 .*Check the remote's user and password"):
        fetched(opened("web", server), tmp_path / "part")


def test_an_absent_object_is_told_from_an_absent_bucket(store: ObjectStore) -> None:
    with pytest.raises(NoSuchObject, match="bucket/prefix/files/absent: no such object"), store.read("files/absent"):
        pass


def test_an_endpoint_that_is_not_there_is_waited_for_and_said(tmp_path: Path, waits: list[float]) -> None:
    store = open_store({"url": "s3://bucket/prefix", "endpointurl": "http://127.0.0.1:1", "access_key_id": KEY,
                        "secret_access_key": SECRET})  # fmt: skip
    with pytest.raises(SourceError, match=r"EndpointConnectionError at http://127.0.0.1:1, 5 times in a row"):
        fetch_object(store, MD5, tmp_path / "part", Said(), attempts=5)
    assert len(waits) == 4


@pytest.mark.parametrize("settings", [{}, {"profile": "nobody"}])
def test_missing_credentials_are_said(server: WebServer, tmp_path: Path, settings: dict[str, str]) -> None:
    store = open_store({"url": "s3://bucket/prefix", "endpointurl": server.url, **settings})
    with pytest.raises(SourceError, match=r"(NoCredentials|ProfileNotFound).*\. Give the credentials by AWS_ACCESS"):
        fetched(store, tmp_path / "part")
    assert not server.requests


def test_credentials_come_from_the_usual_places(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"url": "s3://bucket/prefix", "endpointurl": server.url}
    (tmp_path / "credentials").write_text(f"[lab]\naws_access_key_id = AKIALAB\naws_secret_access_key = {SECRET}\n")
    fetched(open_store({**settings, "profile": "lab", "credentialpath": str(tmp_path / "credentials")}), tmp_path / "a")
    fetched(open_store({**settings, "access_key_id": "AKIASET", "secret_access_key": SECRET}), tmp_path / "b")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    fetched(open_store({**settings, "region": "eu-1"}), tmp_path / "c")
    fetched(open_store({**settings, "allow_anonymous_login": "true"}), tmp_path / "d")
    signed = [request.headers.get("Authorization", "") for request in server.requests]
    assert [key in sent for key, sent in zip(("AKIALAB", "AKIASET", "AKIAENV"), signed, strict=False)] == [True] * 3
    assert "/eu-1/s3/" in signed[2]
    assert signed[3] == ""


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


def test_only_what_is_public_is_handed_on() -> None:
    settings = {
        "url": "https://user:SECRET@host/remote",
        "endpointurl": "http://x:SECRET@host:9000",
        "region": "eu-1",
        "access_key_id": KEY,
        "secret_access_key": SECRET,
        "password": SECRET,
        "profile": "lab",
    }
    assert public_settings(settings) == {
        "url": "https://host/remote",
        "endpointurl": "http://host:9000",
        "region": "eu-1",
    }
    assert isinstance(open_store({"url": "file:///a/b"}), LocalStore)
