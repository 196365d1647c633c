"""A source in an object store or on a server that fsspec can read: `s3://bucket/prefix`, `gs://...`, and others.

Credentials, endpoint and region come from where the store's own tools look for them: AWS_ACCESS_KEY_ID, AWS_PROFILE,
AWS_ENDPOINT_URL and so on; FSSPEC_S3_ANON=true reads public buckets without any. The packages are imported when such a
source is used, not before.
"""

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from microdiff.core.progress import Reporter
from microdiff.errors import SourceError
from microdiff.storage import SETTING, SourceFile
from microdiff.storage.fetching import FetchedSource, discard, is_checked, size_of
from microdiff.storage.urls import without_secrets

_BLOCK_BYTES = 16 * 2**20  # read by one request; a kill loses at most as much
_MD5 = re.compile(r"[0-9a-f]{32}")
_FAILURES = {  # what file systems raise besides OSError, by the module that defines it
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "aiohttp": ("ClientError",),
    "gcsfs.retry": ("HttpError",),
}


def open_remote(root: str, work: Path, report: Reporter, setting: str = SETTING) -> "RemoteSource":
    """Return the source at a root of a kind that fsspec knows.

    Raises:
        SourceError: It knows none, or the package for it is not installed.
    """
    from fsspec.registry import get_filesystem_class, known_implementations

    logging.getLogger("botocore").setLevel(logging.INFO)  # what it says below that holds session tokens
    scheme, name = urlsplit(root).scheme, without_secrets(root)
    try:
        get_filesystem_class(scheme)
    except ImportError:
        package = known_implementations[scheme]["class"].partition(".")[0]
        raise SourceError(
            f"{name}: {scheme}:// needs the package {package}. Install it into this environment."
        ) from None
    except ValueError:
        raise SourceError(
            f"{name}: unknown kind of source; expected a local folder, a list of links, http://, https://, "
            "hf://datasets/ORG/REPO@REVISION, s3://, or another that fsspec knows"
        ) from None
    return RemoteSource(root=root.rstrip("/"), fetched=work / "fetch", report=report, setting=setting)


@dataclass(frozen=True, kw_only=True)
class RemoteSource(FetchedSource):
    """A folder of a file system that fsspec reads.

    Attributes:
        root: Its URL.
    """

    root: str = field(repr=False)  # may hold a password

    @property
    def name(self) -> str:
        """The root without user, password and query."""
        return without_secrets(self.root)

    def list(self, folder: str) -> Sequence[str]:
        """Return a folder's files, sorted."""
        system, root = self._system()
        folder = folder.strip("/")
        try:
            with self._errors_in_words(folder):
                entries = system.ls("/".join(filter(None, (root, folder))), detail=True)
        except _Missing as error:
            if error.bucket:
                raise
            return []
        paths = [entry["name"][len(root) :].strip("/") for entry in entries if entry["type"] == "file"]
        return sorted(path for path in paths if path and path.rpartition("/")[0] == folder)

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file by an MD5 if the store has one, else by its ETag, else by what the store says of it."""
        with self._errors_in_words(path):
            num_bytes, identity = self._facts(path)
        return SourceFile(path, num_bytes, checksum or identity)

    def append(self, file: SourceFile, part: Path) -> str:
        """Add what a partial file lacks, as long as the store has the same version."""
        with self._errors_in_words(file.path):
            try:
                self._check(file)
                system, root = self._system()
                with (
                    system.open(f"{root}/{file.path}", "rb", block_size=_BLOCK_BYTES, cache_type="none") as stream,
                    part.open("ab") as out,
                ):
                    stream.seek(size_of(part))
                    while chunk := stream.read(_BLOCK_BYTES):
                        out.write(chunk)
                        self.report.tick(num_bytes=len(chunk))
                if not is_checked(file):
                    self._check(file, part)
            except (FileNotFoundError, PermissionError):
                raise
            except _failures() as error:
                return type(error).__name__
        return "the server closed"

    def _check(self, file: SourceFile, part: Path | None = None) -> None:
        """Check that a file is still the one described; if not, bytes just received are of no use."""
        num_bytes, identity = self._facts(file.path)
        is_comparable = not is_checked(file) or identity.partition(":")[0] == file.kind
        if num_bytes != file.num_bytes or (is_comparable and identity != file.identity):
            if part is not None:
                discard(part)
            raise SourceError(f"{self.name}/{file.path}: changed during the download. Run again.")

    def _system(self) -> tuple[Any, str]:
        """Return the file system, and the root's path in it."""
        from fsspec.core import url_to_fs

        system, path = url_to_fs(self.root, use_listings_cache=False)
        return system, path.rstrip("/")

    def _facts(self, path: str) -> tuple[int, str]:
        """Return a file's size and identity."""
        system, root = self._system()
        place = f"{root}/{path}"
        if "s3" in system.protocol:
            return _s3_facts(system, place)
        facts = system.info(place)
        if facts["type"] != "file":
            raise FileNotFoundError(place)
        etag = facts.get("ETag") or facts.get("etag")
        return int(facts["size"]), f"etag:{etag}" if etag else f"version:{system.ukey(place)}"

    @contextmanager
    def _errors_in_words(self, path: str) -> Iterator[None]:
        where = "/".join(filter(None, (self.name, path)))
        try:
            yield
        except FileNotFoundError as error:
            bucket = _code(error) == "NoSuchBucket"
            what = "no such bucket" if bucket else "no such file"
            raise _Missing(f"{where}: {what}. Check {self.setting}.", bucket) from error
        except PermissionError as error:
            raise SourceError(
                f"{where}: access denied ({_code(error)}). Check the credentials, such as AWS_ACCESS_KEY_ID or "
                "AWS_PROFILE, and that they may list and read; a file that is absent may look the same."
            ) from error
        except _failures() as error:
            if "Credentials" in (kind := type(error).__name__):
                kind += ". Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or FSSPEC_S3_ANON=true for"
                raise SourceError(f"{where}: {kind} a public bucket.") from error
            raise SourceError(f"{where}: {kind}. Check the network and the endpoint, or run again later.") from error


class _Missing(SourceError):
    """A bucket or a file is not there."""

    def __init__(self, message: str, bucket: bool) -> None:
        super().__init__(message)
        self.bucket = bucket


def _s3_facts(system: Any, place: str) -> tuple[int, str]:
    """Return size and identity of an S3 object.

    The ETag of an object stored in one piece and not encrypted with a key of its own is the MD5 of its bytes:
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    bucket, key, _ = system.split_path(place)
    try:
        head = system.call_s3("head_object", Bucket=bucket, Key=key)
    except FileNotFoundError:
        system.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)  # HEAD does not say if it is the bucket
        raise
    etag = head["ETag"].strip('"')
    is_plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
    kind = "md5" if is_plain and _MD5.fullmatch(etag) else "etag"
    return head["ContentLength"], f"{kind}:{etag}"


def _failures() -> tuple[type[Exception], ...]:
    """Return what the file systems in use raise when something fails."""
    loaded = [(sys.modules[module], names) for module, names in _FAILURES.items() if module in sys.modules]
    return (OSError, *(getattr(module, name) for module, names in loaded for name in names))


def _code(error: BaseException) -> str:
    """Return S3's own code for an error that s3fs translated."""
    answer = getattr(error.__cause__ or error, "response", None)
    return str(answer["Error"]["Code"]) if isinstance(answer, dict) else type(error).__name__
