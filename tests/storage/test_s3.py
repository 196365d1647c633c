"""Sources in S3, an imitation by moto: what identifies an object, where credentials come from, what is said."""

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

from microdiff.errors import SourceError
from microdiff.storage import Changed, SourceFile, retry
from microdiff.storage import s3 as module
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.opening import open_source
from microdiff.storage.s3 import S3Storage
from tests.reporters import Said
from tests.s3_servers import KEY, SECRET, moto
from tests.storage_contract import DATA, MD5, PATH
from tests.waiting import PATIENCE_S

NEWER = DATA[::-1]
ROOT = "s3://bucket/some/prefix"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server.url


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
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
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
