"""S3 as a DVC remote, by a web server that is an S3 server to who only reads, and breaks its rules when told to."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from microdiff.errors import SourceError
from microdiff.storage import CannotResume, Storage, retry
from microdiff.storage import s3 as module
from microdiff.storage.opening import open_remote
from tests.s3_servers import KEY, SECRET
from tests.storage_contract import DATA, FILES, PATH, Backend, ServedBackend, StorageContract
from tests.web_server import Fault, Reply, Request, WebServer


@pytest.fixture(autouse=True)
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to be waited, which nobody does; and no settings but those that a test makes."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    waited: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waited.append))
    return waited


class BucketServer(WebServer):
    """Serves `bucket/prefix/...`, and lists it in pages of two."""

    def reply(self, request: Request) -> Reply:
        if "list-type" not in request.query:
            return super().reply(request)
        prefix, folders = f"bucket/{request.query.get('prefix', '')}", request.query.get("delimiter")
        keys = [path for path in sorted(self.files) if path.startswith(prefix)]
        keys = [path for path in keys if not folders or folders not in path.removeprefix(prefix)]
        start = int(request.query.get("continuation-token", 0))
        page = keys[start : start + 2]
        listed = "".join(f"<Contents><Key>{path.removeprefix('bucket/')}</Key></Contents>" for path in page)
        more = f"<NextContinuationToken>{start + 2}</NextContinuationToken>" if start + 2 < len(keys) else ""
        flag = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
        body = f"<ListBucketResult>{flag}{more}{listed}</ListBucketResult>"
        return Reply(headers={"Content-Type": "application/xml"}, body=body.encode())


@pytest.fixture(scope="module")
def running() -> Iterator[BucketServer]:
    with BucketServer({}) as server:
        yield server


@pytest.fixture
def server(running: BucketServer) -> BucketServer:
    """The server as if new; a new one would need new clients, which take their time to make."""
    running.forget()
    running.files = {f"bucket/prefix/{path}": data for path, data in FILES.items()}
    return running


def remote(server: WebServer, **settings: str) -> Storage:
    keys = {"access_key_id": KEY, "secret_access_key": SECRET}
    return open_remote({"url": "s3://bucket/prefix", "endpointurl": server.url, **(settings or keys)})


class TestS3Storage(StorageContract):
    @pytest.fixture
    def backend(self, server: BucketServer) -> Backend:
        return ServedBackend(remote(server), server)


def refusal(status: int, code: str) -> Fault:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return Fault(status=status, body=body, headers={"Content-Type": "application/xml"})


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
def test_what_cannot_pass_is_said_at_once(server: BucketServer, waits: list[float], fault: Fault, message: str) -> None:
    server.always = {"GET": fault, "HEAD": fault}
    storage = remote(server)
    with pytest.raises(SourceError) as error, storage.read(PATH):
        pass
    assert message in str(error.value)
    for ask in (lambda: storage.stat(PATH), lambda: storage.list("zips")):
        with pytest.raises(SourceError) as error:
            ask()
        assert message in str(error.value)
    assert not waits


def test_a_remotes_credentials_come_from_the_usual_places(
    server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(f"[lab]\naws_access_key_id = AKIALAB\naws_secret_access_key = {SECRET}\n")
    remote(server, profile="lab", credentialpath=str(tmp_path / "credentials")).stat(PATH)
    remote(server, access_key_id="AKIASET", secret_access_key=SECRET).stat(PATH)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    remote(server, region="eu-1").stat(PATH)
    remote(server, allow_anonymous_login="true").stat(PATH)
    signed = [request.headers.get("Authorization", "") for request in server.requests]
    assert [key in sent for key, sent in zip(("AKIALAB", "AKIASET", "AKIAENV"), signed, strict=False)] == [True] * 3
    assert "/eu-1/s3/" in signed[2]
    assert signed[3] == ""


@pytest.mark.parametrize("settings", [{"region": "eu-2"}, {"profile": "nobody"}])
def test_a_remotes_missing_credentials_are_said(server: BucketServer, settings: dict[str, str]) -> None:
    storage = remote(server, **settings)
    with pytest.raises(SourceError, match=r"(NoCredentials|ProfileNotFound).*\. Give the credentials by AWS_ACCESS"):
        storage.stat(PATH)
    assert not server.requests


def test_each_process_has_a_client_of_its_own(server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    module._client.cache_clear()
    storage = remote(server)
    storage.stat(PATH)
    storage.stat(PATH)
    assert module._client.cache_info().misses == 1
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    storage.stat(PATH)
    assert module._client.cache_info().misses == 2


def test_another_range_than_the_one_wanted_is_not_taken(server: BucketServer) -> None:
    server.on("GET", Fault(headers={"Content-Range": f"bytes 5-/{len(DATA)}"}))
    with pytest.raises(CannotResume, match="another range than bytes 9-"), remote(server).read(PATH, 9):
        pass


def test_long_listings_come_in_pages_each_of_which_may_be_repeated(server: BucketServer, waits: list[float]) -> None:
    names = [f"many/{number}" for number in range(5)]
    server.files |= {f"bucket/prefix/{name}": b"" for name in names}
    busy = refusal(503, "SlowDown")
    server.on("GET", busy, busy, busy, Fault(), busy, busy, busy, Fault(), busy)
    assert remote(server).list("many") == names
    assert len(waits) == 7
    assert len(server.requests) == 10


def test_a_busy_server_is_asked_again_and_not_for_a_listing(server: BucketServer, waits: list[float]) -> None:
    server.on("HEAD", refusal(503, "SlowDown"))
    assert remote(server).stat(PATH).num_bytes == len(DATA)
    assert [request.method for request in server.requests] == ["HEAD", "HEAD"]  # who may not list would be refused
    assert len(waits) == 1


SSE = "x-amz-server-side-encryption"


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({}, "md5"),
        ({SSE: "AES256"}, "md5"),
        ({SSE: "aws:kms"}, "etag"),
        ({f"{SSE}-customer-algorithm": "AES256"}, "etag"),
        ({"ETag": f'"{"0" * 32}-2"'}, "etag"),
    ],
    ids=["plain", "SSE-S3", "SSE-KMS", "SSE-C", "in parts"],
)
def test_an_etag_is_an_md5_only_where_s3_says_that_it_is(
    server: BucketServer, headers: dict[str, str], kind: str
) -> None:
    server.always["HEAD"] = Fault(headers=headers)
    assert remote(server).stat(PATH).kind == kind


def test_an_object_without_an_etag_is_an_error(server: BucketServer) -> None:
    server.always["HEAD"] = Fault(headers={"ETag": None})
    with pytest.raises(SourceError, match="the server states no ETag"):
        remote(server).stat(PATH)
    assert remote(server).stat(PATH, f"md5:{0:032}").kind == "md5"
