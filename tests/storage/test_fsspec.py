"""S3 (an imitation by moto) and other file systems that fsspec reads."""

import hashlib
import logging
import os
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import fsspec
import pytest

from microdiff.core.progress import NullReporter
from microdiff.errors import SourceError
from microdiff.storage import SourceFile, fetching
from microdiff.storage import fsspec as module
from microdiff.storage.fsspec import RemoteSource
from microdiff.storage.opening import open_source
from tests.reporters import Said
from tests.s3_servers import moto
from tests.waiting import run_python

DATA = bytes(range(256)) * 1200
NEWER = DATA[::-1]
MD5 = f"md5:{hashlib.md5(DATA, usedforsecurity=False).hexdigest()}"
PATH = "zips/a #1.zip"
ROOT = "s3://bucket/some/prefix"
SECRET = "wJalrXUtnFEMI-SECRET"  # noqa: S105 - opens nothing


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server.url


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    names = {"endpoint_url": address, "region_name": "us-east-1"}
    client = botocore.session.Session().create_client(
        "s3", aws_access_key_id="AKIAEXAMPLE", aws_secret_access_key=SECRET, **names
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
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(fetching, "time", SimpleNamespace(sleep=lambda _: None))
    forget_clients()


def forget_clients() -> None:
    """Have the next source read the environment again."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def s3(client: Any) -> Iterator[Any]:
    for path in (PATH, "zips/b.zip", "zips/c/d.zip", "e.txt"):
        client.put_object(Bucket="bucket", Key=f"some/prefix/{path}", Body=DATA)
    yield client
    for entry in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=entry["Key"])


@pytest.fixture
def source(s3: Any, tmp_path: Path) -> RemoteSource:
    return opened(ROOT, tmp_path)


def opened(root: str, work: Path) -> RemoteSource:
    source = open_source(root, work)
    assert isinstance(source, RemoteSource)
    return source


def put(s3: Any, data: bytes, **options: Any) -> None:
    s3.put_object(Bucket="bucket", Key=f"some/prefix/{PATH}", Body=data, **options)


# --- S3


def test_folders_are_listed(s3: Any, source: RemoteSource) -> None:
    s3.put_object(Bucket="bucket", Key="some/prefix/zips/", Body=b"")  # as consoles make folders
    assert source.list("") == ["e.txt"]
    assert source.list("zips") == source.list("zips/") == [PATH, "zips/b.zip"]
    assert source.list("absent") == []
    assert source.list("e.txt") == []
    assert opened("s3://bucket", source.fetched.parent).list("some/prefix/zips/c") == ["some/prefix/zips/c/d.zip"]
    s3.put_object(Bucket="bucket", Key="some/prefix/new.txt", Body=b"")
    assert source.list("") == ["e.txt", "new.txt"]


def test_an_object_is_fetched_and_verified(source: RemoteSource) -> None:
    said = Said()
    file = source.stat(PATH)
    assert file == SourceFile(PATH, len(DATA), MD5)
    fetched = source.with_reporter(said).fetch(file)
    assert fetched.read_bytes() == DATA
    assert said.num_bytes == len(DATA)
    source.forget(file)
    assert not list(source.fetched.iterdir())


def test_an_empty_object_is_fetched(s3: Any, source: RemoteSource) -> None:
    put(s3, b"")
    assert source.fetch(source.stat(PATH)).read_bytes() == b""


def test_a_checksum_is_checked(source: RemoteSource) -> None:
    sha256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    assert source.fetch(source.stat(PATH, sha256)).read_bytes() == DATA
    with pytest.raises(SourceError, match=f"expected sha256:0+, got {sha256}, twice"):
        source.fetch(source.stat(PATH, f"sha256:{'0' * 64}"))


def test_an_etag_that_is_no_md5_identifies_but_does_not_verify(s3: Any, source: RemoteSource) -> None:
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


def test_the_etag_of_an_encrypted_object_is_no_md5(s3: Any, source: RemoteSource) -> None:
    put(s3, DATA, ServerSideEncryption="aws:kms", SSEKMSKeyId="key")
    file = source.stat(PATH)
    assert file.identity.startswith("etag:")
    assert source.fetch(file).read_bytes() == DATA
    put(s3, DATA, ServerSideEncryption="AES256")
    assert source.stat(PATH).identity == MD5


class Interrupts(NullReporter):
    """Ends the process's patience, or does what it is given, when bytes have come for the second time."""

    def __init__(self, then: Any = None) -> None:
        self.then = then
        self.times = 0

    def tick(self, samples: int = 0, num_bytes: int = 0) -> None:
        self.times += 1
        if self.times == 2:
            if self.then is None:
                raise KeyboardInterrupt
            self.then()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 2**16)


@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_fetch_continues(source: RemoteSource) -> None:
    file = source.stat(PATH)
    with pytest.raises(KeyboardInterrupt):
        source.with_reporter(Interrupts()).fetch(file)
    (part,) = source.fetched.rglob("*.part")
    assert part.read_bytes() == DATA[: 2**17]
    said = Said()
    assert source.with_reporter(said).fetch(file).read_bytes() == DATA
    assert said.num_bytes == len(DATA) - 2**17


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("encrypted", [False, True], ids=["MD5", "ETag"])
@pytest.mark.parametrize("newer", [NEWER, DATA + b"!"], ids=["same size", "longer"])
def test_two_versions_are_never_mixed(s3: Any, source: RemoteSource, encrypted: bool, newer: bytes) -> None:
    options = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key"} if encrypted else {}
    put(s3, DATA, **options)
    file = source.stat(PATH)
    with pytest.raises(SourceError, match=f"{PATH}: changed during the download. Run again."):
        source.with_reporter(Interrupts(lambda: put(s3, newer, **options))).fetch(file)
    assert not [path for path in source.fetched.rglob("*") if path.is_file() and path.suffix != ".part"]
    with pytest.raises(SourceError, match="changed during the download"):
        source.fetch(file)
    assert source.fetch(source.stat(PATH)).read_bytes() == newer
    put(s3, DATA, **options)
    assert source.fetch(source.stat(PATH)).read_bytes() == DATA


def test_what_is_missing_is_said(s3: Any, source: RemoteSource, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="s3://bucket/some/prefix/zips/absent: no such file"):
        source.stat("zips/absent")
    with pytest.raises(SourceError, match="zips: no such file"):
        source.stat("zips")
    for ask in (lambda gone: gone.list(""), lambda gone: gone.list("a/b"), lambda gone: gone.stat("a")):
        with pytest.raises(SourceError, match=r"s3://no-such-bucket.*: no such bucket"):
            ask(opened("s3://no-such-bucket/prefix", tmp_path))
    file = source.stat(PATH)
    s3.delete_object(Bucket="bucket", Key=f"some/prefix/{PATH}")
    with pytest.raises(SourceError, match=f"{PATH}: no such file"):
        source.fetch(file)


def test_missing_credentials_are_said(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceError, match=r"NoCredentialsError\. Set AWS_ACCESS_KEY_ID .* FSSPEC_S3_ANON=true for a"):
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
    done = run_python("-c", PUBLIC, str(tmp_path), env=environment)
    assert done.stdout.strip() == "['e.txt']", done.stderr


def test_denied_access_is_said(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        answer = {"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}
        raise PermissionError("Access Denied") from botocore.exceptions.ClientError(answer, "HeadObject")

    source = opened(ROOT, tmp_path)
    file = source.stat(PATH)
    monkeypatch.setattr(module, "_s3_facts", refused)
    for ask in (lambda: source.stat(PATH), lambda: source.fetch(file)):
        with pytest.raises(SourceError, match=rf"{PATH}: access denied \(AccessDenied\). Check the credentials"):
            ask()


def test_an_endpoint_that_is_not_there_is_an_error(
    s3: Any, source: RemoteSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = source.stat(PATH)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the client's own
    forget_clients()
    with pytest.raises(SourceError, match=r"EndpointConnectionError\. Check the network and the endpoint"):
        source.stat(PATH)
    with pytest.raises(SourceError, match="EndpointConnectionError after 0 of 307200 bytes, 6 times in a row"):
        source.fetch(file)


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
    other = open_source("ftp://user:SECRET@host/files?SECRET", tmp_path)
    assert other.name == "ftp://host/files"
    assert "SECRET" not in repr(other)


# --- another file system


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[RemoteSource]:
    files = fsspec.filesystem("memory")
    files.pipe({"/root/zips/a.zip": DATA, "/root/zips/c/d.zip": DATA})
    yield opened("memory://root/", tmp_path)
    files.rm("/root", recursive=True)


def test_a_file_of_another_file_system_is_identified_by_what_it_says_of_it(memory: RemoteSource) -> None:
    assert memory.name == "memory://root"
    assert memory.list("zips") == ["zips/a.zip"]
    assert memory.list("absent") == []
    file = memory.stat("zips/a.zip")
    assert file.identity.startswith("version:")
    assert memory.stat("zips/a.zip") == file
    assert memory.fetch(file).read_bytes() == DATA
    with pytest.raises(SourceError, match="memory://root/zips: no such file"):
        memory.stat("zips")
    assert pickle.loads(pickle.dumps(memory)) == memory  # noqa: S301 - sources travel to workers


@pytest.mark.usefixtures("small_blocks")
def test_a_file_of_another_file_system_that_changes_is_not_handed_out(memory: RemoteSource) -> None:
    file = memory.stat("zips/a.zip")

    def replace() -> None:
        fsspec.filesystem("memory").pipe("/root/zips/a.zip", NEWER)

    with pytest.raises(SourceError, match="changed during the download"):
        memory.with_reporter(Interrupts(replace)).fetch(file)
    assert not [path for path in memory.fetched.rglob("*") if path.is_file()]
    assert memory.fetch(memory.stat("zips/a.zip")).read_bytes() == NEWER
