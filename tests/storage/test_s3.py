"""S3: an imitation by moto that knows its rules, and a web server that breaks them."""

import hashlib
import logging
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from microdiff.errors import SourceError
from microdiff.storage import CannotResume, Changed, SourceFile, Storage, retry
from microdiff.storage import s3 as module
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.opening import open_remote, open_source
from microdiff.storage.s3 import S3Storage
from tests.reporters import Said
from tests.s3_servers import KEY, SECRET
from tests.storage_contract import DATA, FILES, MD5, PATH, Backend, ServedBackend, StorageContract
from tests.web_server import Fault, Reply, Request, WebServer

NEWER = DATA[::-1]
ROOT = "s3://bucket/some/prefix"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    names = {"endpoint_url": address, "region_name": "us-east-1"}
    client = botocore.session.Session().create_client(
        "s3", aws_access_key_id=KEY, aws_secret_access_key=SECRET, **names
    )
    client.create_bucket(Bucket="bucket")
    yield client
    client.close()


@pytest.fixture(autouse=True)
def environment(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    forget_clients()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to be waited, which nobody does."""
    waited: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waited.append))
    return waited


def forget_clients() -> None:
    """Have the next source read the environment again."""
    module._client.cache_clear()


@pytest.fixture
def s3(client: Any) -> Iterator[Any]:
    for path in (PATH, "zips/b.zip", "zips/c/d.zip", "e.txt"):
        client.put_object(Bucket="bucket", Key=f"some/prefix/{path}", Body=DATA)
    yield client
    for entry in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=entry["Key"])


@pytest.fixture
def source(s3: Any, tmp_path: Path) -> FetchedSource:
    return opened(ROOT, tmp_path)


def opened(root: str, work: Path) -> FetchedSource:
    source = open_source(root, work)
    assert isinstance(source, FetchedSource)
    assert isinstance(source.storage, S3Storage)
    return source


def put(s3: Any, data: bytes, **options: Any) -> None:
    s3.put_object(Bucket="bucket", Key=f"some/prefix/{PATH}", Body=data, **options)


# --- S3


def test_folders_are_listed(s3: Any, source: FetchedSource) -> None:
    s3.put_object(Bucket="bucket", Key="some/prefix/zips/", Body=b"")  # as consoles make folders
    assert source.list("") == ["e.txt"]
    assert source.list("zips") == source.list("zips/") == [PATH, "zips/b.zip"]
    assert source.list("absent") == []
    assert source.list("e.txt") == []
    assert opened("s3://bucket", source.fetched.parent).list("some/prefix/zips/c") == ["some/prefix/zips/c/d.zip"]
    s3.put_object(Bucket="bucket", Key="some/prefix/new.txt", Body=b"")
    assert source.list("") == ["e.txt", "new.txt"]


def test_an_object_is_fetched_and_verified(source: FetchedSource) -> None:
    said = Said()
    file = source.stat(PATH)
    assert file == SourceFile(PATH, len(DATA), MD5)
    fetched = source.with_reporter(said).fetch(file)
    assert fetched.read_bytes() == DATA
    assert said.num_bytes == len(DATA)
    source.forget(file)
    assert not list(source.fetched.iterdir())


def test_an_empty_object_is_fetched(s3: Any, source: FetchedSource) -> None:
    put(s3, b"")
    assert source.fetch(source.stat(PATH)).read_bytes() == b""


def test_a_checksum_is_checked(source: FetchedSource) -> None:
    sha256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    assert source.fetch(source.stat(PATH, sha256)).read_bytes() == DATA
    with pytest.raises(SourceError, match=f"expected sha256:0+, got {sha256}, twice"):
        source.fetch(source.stat(PATH, f"sha256:{'0' * 64}"))


def test_an_etag_that_is_no_md5_identifies_but_does_not_verify(s3: Any, source: FetchedSource) -> None:
    upload = s3.create_multipart_upload(Bucket="bucket", Key=f"some/prefix/{PATH}")["UploadId"]
    place = {"Bucket": "bucket", "Key": f"some/prefix/{PATH}", "UploadId": upload}
    parts = [
        {"ETag": s3.upload_part(**place, PartNumber=number, Body=body)["ETag"], "PartNumber": number}
        for number, body in ((1, bytes(5 * 2**20)), (2, DATA))
    ]
    s3.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
    file = source.stat(PATH)
    assert file.identity.startswith("etag:")
    assert file.identity.endswith("-2")
    assert source.fetch(file).read_bytes() == bytes(5 * 2**20) + DATA


def test_the_etag_of_an_encrypted_object_is_no_md5(s3: Any, source: FetchedSource) -> None:
    put(s3, DATA, ServerSideEncryption="aws:kms", SSEKMSKeyId="key")
    file = source.stat(PATH)
    assert file.identity.startswith("etag:")
    assert source.fetch(file).read_bytes() == DATA
    put(s3, DATA, ServerSideEncryption="AES256")
    assert source.stat(PATH).identity == MD5


@pytest.mark.parametrize("encrypted", [False, True], ids=["MD5", "ETag"])
@pytest.mark.parametrize("newer", [NEWER, DATA + b"!"], ids=["same size", "longer"])
def test_two_versions_are_never_mixed(s3: Any, source: FetchedSource, encrypted: bool, newer: bytes) -> None:
    options = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key"} if encrypted else {}
    put(s3, DATA, **options)
    file = source.stat(PATH)
    begin(source, file, DATA[:100_000])
    put(s3, newer, **options)
    with pytest.raises(Changed, match=f"{PATH}: changed on the server: expected .*Run again"):
        source.fetch(file)
    assert not [path for path in source.fetched.rglob("*") if path.is_file() and path.suffix != ".part"]
    assert source.fetch(source.stat(PATH)).read_bytes() == newer
    put(s3, DATA, **options)
    assert source.fetch(source.stat(PATH)).read_bytes() == DATA


def begin(source: FetchedSource, file: SourceFile, data: bytes) -> None:
    """Have a partial file there, as a fetch leaves it that was killed."""
    folder = source._folder(file)
    folder.mkdir(parents=True)
    (folder / f"{Path(PATH).name}.part").write_bytes(data)


def test_a_fetch_that_was_killed_is_continued(source: FetchedSource) -> None:
    file, said = source.stat(PATH), Said()
    begin(source, file, DATA[:100_000])
    assert source.with_reporter(said).fetch(file).read_bytes() == DATA
    assert said.num_bytes == len(DATA) - 100_000


def test_long_listings_come_in_pages(s3: Any, source: FetchedSource) -> None:
    names = [f"many/{number:04d}" for number in range(1003)]
    for name in names:
        s3.put_object(Bucket="bucket", Key=f"some/prefix/{name}", Body=b"")
    assert source.list("many") == names


def test_what_is_missing_is_said(s3: Any, source: FetchedSource, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="s3://bucket/some/prefix/zips/absent: no such file"):
        source.stat("zips/absent")
    with pytest.raises(SourceError, match="zips: no such file"):
        source.stat("zips")
    for ask in (lambda gone: gone.list(""), lambda gone: gone.list("a/b"), lambda gone: gone.stat("a")):
        with pytest.raises(SourceError, match=r"s3://no-such-bucket: no such bucket at http://127.* Check datasets"):
            ask(opened("s3://no-such-bucket/prefix", tmp_path))
    file = source.stat(PATH)
    s3.delete_object(Bucket="bucket", Key=f"some/prefix/{PATH}")
    with pytest.raises(SourceError, match=f"{PATH}: no such file"):
        source.fetch(file)


def test_missing_credentials_are_said(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceError, match=r"NoCredentialsError\. Give .* AWS_PROFILE.* FSSPEC_S3_ANON=true for a pu"):
        opened(ROOT, tmp_path).stat(PATH)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    forget_clients()
    with pytest.raises(SourceError, match="ProfileNotFound"):
        opened(ROOT, tmp_path).list("")


def test_a_profile_gives_the_credentials(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "config").write_text(f"[profile lab]\naws_access_key_id = AKIA\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert opened(ROOT, tmp_path).stat(PATH).identity == MD5


PUBLIC = f"""
import sys
from pathlib import Path
from microdiff.storage.opening import open_source
print(open_source({ROOT!r}, Path(sys.argv[1])).list(''))
"""


def test_a_public_bucket_is_read_without_credentials(s3: Any, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"], "FSSPEC_S3_ANON": "true"}
    command = [sys.executable, "-c", PUBLIC, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['e.txt']", done.stderr


@pytest.mark.parametrize("codes", [["403", "AccessDenied"], ["404", "AccessDenied"], ["403"]], ids=" then ".join)
def test_denied_access_is_said(
    s3: Any, source: FetchedSource, monkeypatch: pytest.MonkeyPatch, codes: list[str]
) -> None:
    class Client:
        """Refuses HEAD, which says no more than a number; and perhaps the listing, which says why."""

        def head_object(self, **_: Any) -> Any:
            raise ClientError({"Error": {"Code": codes[0]}}, "HeadObject")

        def list_objects_v2(self, **_: Any) -> Any:
            if len(codes) > 1:
                raise ClientError({"Error": {"Code": codes[1]}}, "ListObjectsV2")
            return {}

    monkeypatch.setattr(module, "_client", lambda *_: Client())
    with pytest.raises(SourceError, match=rf"{PATH}: access denied \({codes[-1]}\)\. The credentials must allow"):
        source.stat(PATH)


def test_an_endpoint_that_is_not_there_is_an_error(
    s3: Any, source: FetchedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = source.stat(PATH)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    forget_clients()
    where = r"EndpointConnectionError at http://127.0.0.1:1"
    with pytest.raises(SourceError, match=rf"{where}, 5 times in a row\. Check the network and datasets"):
        source.stat(PATH)
    with pytest.raises(SourceError, match=rf"{where}, 10 times in a row\. Check the network .*continues from there"):
        source.fetch(file)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no URL")
    forget_clients()
    with pytest.raises(SourceError, match=r"Check the endpoint \(AWS_ENDPOINT_URL"):
        source.stat(PATH)


def test_credentials_are_never_shown(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "SESSION-SECRET")
    forget_clients()
    caplog.set_level(logging.DEBUG)
    source = opened(ROOT, tmp_path)
    source.fetch(source.stat(PATH))
    source.list("")
    with pytest.raises(SourceError) as error:
        source.stat("absent")
    shown = [caplog.text, repr(source), repr(pickle.dumps(source)), "".join(traceback.format_exception(error.value))]
    assert not [text for text in shown if "SECRET" in text]


# --- a web server, which is an S3 server to who only reads


class BucketServer(WebServer):
    """Serves and lists `bucket/prefix/...`."""

    def reply(self, request: Request) -> Reply:
        if "list-type" not in request.query:
            return super().reply(request)
        prefix, folders = f"bucket/{request.query.get('prefix', '')}", request.query.get("delimiter")
        keys = [path for path in sorted(self.files) if path.startswith(prefix)]
        keys = [path for path in keys if not folders or folders not in path.removeprefix(prefix)]
        listed = "".join(f"<Contents><Key>{path.removeprefix('bucket/')}</Key></Contents>" for path in keys)
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>"
        return Reply(headers={"Content-Type": "application/xml"}, body=body.encode())


@pytest.fixture
def server() -> Iterator[BucketServer]:
    with BucketServer({f"bucket/prefix/{path}": data for path, data in FILES.items()}) as server:
        yield server


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


def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)


def test_a_remotes_credentials_come_from_the_usual_places(
    server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_keys(monkeypatch)
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


@pytest.mark.parametrize("settings", [{"region": "eu-1"}, {"profile": "nobody"}])
def test_a_remotes_missing_credentials_are_said(
    server: BucketServer, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    without_keys(monkeypatch)
    storage = remote(server, **settings)
    with pytest.raises(SourceError, match=r"(NoCredentials|ProfileNotFound).*\. Give the credentials by AWS_ACCESS"):
        storage.stat(PATH)
    assert not server.requests


def test_each_process_has_a_client_of_its_own(server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
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
