"""A bucket in S3 or in a store that speaks its protocol: MinIO, R2, Ceph, and so on.

Credentials, endpoint and region come from a DVC remote's settings, or from where S3's own tools look for them:
AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL and so on. FSSPEC_S3_ANON=true (as for fsspec, by which DVC reads S3)
reads public buckets without any. It is read with botocore itself: s3fs repeats requests without saying so, and its
clients do not survive the fork that makes DataLoader workers.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from microdiff.errors import SourceError
from microdiff.storage import Body, CannotResume, Entry, NotFound, SourceFile, Storage, TryAgain, failures
from microdiff.storage.retry import retried
from microdiff.storage.urls import without_secrets

_CHUNK_BYTES = 2**20
_TIMEOUT_S = 60.0  # without a byte
_MD5 = re.compile(r"[0-9a-f]{32}")
_ABSENT = ("NoSuchKey", "404", "NotFound")
_DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem", "InvalidSecurity")
_UNKNOWN = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed")
_BUSY = ("SlowDown", "TooManyRequests", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout")
_HOW_TO_SIGN = (
    "Give the credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or by AWS_PROFILE (of a DVC remote also in "
    ".dvc/config.local, by dvc remote modify --local), or set FSSPEC_S3_ANON=true for a public bucket."
)
_OFF = ("false", "0", "no", "off")


@dataclass(frozen=True, kw_only=True)
class S3Storage(Storage):
    """Objects in a bucket below a prefix.

    Attributes:
        bucket: The bucket.
        prefix: Without slashes around it; may be empty.
        options: Settings as DVC calls them: endpointurl, region, profile, access_key_id, ... What they do not say is
            looked for where S3's own tools look.
    """

    bucket: str
    prefix: str = ""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The root as a URL."""
        return "/".join(filter(None, (f"s3://{self.bucket}", self.prefix)))

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe an object by an MD5 if its ETag is one, else by its ETag.

        The ETag of an object stored in one piece and not encrypted with a key of its own is the MD5 of its bytes:
        https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
        """
        head = retried(self, path, partial(self._head, path))
        etag = _etag(head)
        if not etag and checksum is None:
            raise SourceError(
                f"{self.name}/{path}: the server states no ETag, so its bytes cannot be told. Check {self.setting}."
            )
        is_plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
        kind = "md5" if is_plain and _MD5.fullmatch(etag) else "etag"
        return SourceFile(path, int(head["ContentLength"]), checksum or f"{kind}:{etag}")

    def list(self, folder: str) -> Sequence[str]:
        """Return a folder's files, sorted: objects whose keys go on without a further slash."""
        folder = folder.strip("/")
        prefix = f"{self.key(folder)}/".lstrip("/")
        entries = self.pages("Contents", folder, Prefix=prefix, Delimiter="/")
        paths = [entry["Key"].removeprefix(prefix) for entry in entries]
        return sorted("/".join(filter(None, (folder, path))) for path in paths if path)

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Yield all objects below the prefix, page by page."""
        prefix = f"{self.prefix}/" if self.prefix else ""
        for entry in self.pages("Contents", "", Prefix=prefix):
            path = entry["Key"].removeprefix(prefix)
            if path and not path.endswith("/"):  # what consoles make for a folder
                yield Entry(path)

    @contextmanager
    def read(self, path: str, start: int = 0, version: str = "") -> Iterator[Body]:
        """Open an object."""
        wanted = {"Range": f"bytes={start}-"} if start else {}
        answer = self.call("get_object", path, Key=self.key(path), **wanted)
        at, num_bytes = 0, int(answer["ContentLength"])
        if found := answer.get("ContentRange"):  # bytes 100-199/200
            span, _, whole = found.removeprefix("bytes ").partition("/")
            if not (span.partition("-")[0].isdecimal() and whole.isdecimal()):
                raise CannotResume(f"the server sent another range than bytes {start}-")
            at, num_bytes = int(span.partition("-")[0]), int(whole)
        with answer["Body"] as body:
            if at not in (0, start):
                raise CannotResume(f"the server sent another range than bytes {start}-")
            yield Body(at, num_bytes, _etag(answer), _chunks(body))

    def key(self, path: str) -> str:
        """Return a file's key in the bucket."""
        return "/".join(filter(None, (self.prefix, path)))

    def _head(self, path: str) -> Any:
        key = self.key(path)
        try:
            return self.call("head_object", path, Key=key)
        except TryAgain:
            raise
        except SourceError:
            # A HEAD that is refused has no body to say why: no such bucket, an unknown key, another region.
            self.call("list_objects_v2", path, Prefix=key, MaxKeys=1)
            raise

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call a method of the client for a path, its errors in words."""
        with self.errors_in_words(path) as client:
            return getattr(client, method)(Bucket=self.bucket, **arguments)

    def pages(self, field: str, path: str, **arguments: Any) -> Iterator[Any]:
        """Yield the entries of a listing, page by page."""
        more: dict[str, str] = {}
        while True:
            page = retried(self, path, partial(self.call, "list_objects_v2", path, **arguments, **more))
            yield from page.get(field, ())
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    @contextmanager
    def errors_in_words(self, path: str) -> Iterator[Any]:
        """Give the client, and raise what its errors mean in place of them."""
        from botocore.exceptions import BotoCoreError, ClientError

        where = "/".join(filter(None, (self.name, path)))
        try:
            yield _client(os.getpid(), tuple(sorted(self.options.items())))
        except ClientError as error:
            raise self._refusal(where, error) from None
        except BotoCoreError as error:
            kind = type(error).__name__
            if "Credential" in kind or "Profile" in kind or "Token" in kind or "Login" in kind:
                raise SourceError(f"{where}: {kind}. {_HOW_TO_SIGN}") from None
            if "Connection" in kind or "Timeout" in kind or "HTTPClient" in kind or "Proxy" in kind or "SSL" in kind:
                raise self._failure(where, error) from None
            raise SourceError(f"{where}: {kind}. Check {self.setting}.") from None
        except ValueError as error:  # an endpoint that is no URL
            raise SourceError(f"{where}: {error}. Check the endpoint (AWS_ENDPOINT_URL or endpointurl).") from None

    def _failure(self, where: str, error: Exception) -> SourceError:
        """Return the error that no answer means."""
        kind, endpoint = type(error).__name__, _endpoint(self.options)
        try:
            reason = failures.reason(error, None)
        except failures.ProxyRefuses as refusal:
            return SourceError(f"{where}: {refusal}")
        return TryAgain(f"{kind if str(reason) == kind else reason} at {endpoint}", remedy=reason.remedy)

    def _refusal(self, where: str, error: Any) -> SourceError:
        """Return the error that an answer with an error means."""
        code = str(error.response.get("Error", {}).get("Code", ""))
        facts = error.response.get("ResponseMetadata", {})
        status = int(facts.get("HTTPStatusCode", 0))
        if code == "NoSuchBucket":
            endpoint = _endpoint(self.options)
            return SourceError(f"s3://{self.bucket}: no such bucket at {endpoint}. Check {self.setting}.")
        if code in _ABSENT:
            return NotFound(f"{where}: no such file. Check {self.setting}.")
        if code == "InvalidRange" or status == 416:
            return CannotResume("it ends before")
        if code in _BUSY or status in (408, 425, 429) or status >= 500:
            wait = str(facts.get("HTTPHeaders", {}).get("retry-after", ""))
            return TryAgain(code if code.isalpha() else f"HTTP {status}", float(wait) if wait.isdecimal() else 0.0)
        if code in _UNKNOWN:
            return SourceError(f"{where}: the credentials are not accepted ({code}). {_HOW_TO_SIGN}")
        if code in _DENIED or status in (401, 403):
            return SourceError(
                f"{where}: access denied ({code}). The credentials must allow s3:GetObject and s3:ListBucket there; "
                "without the second, a file that is absent looks the same."
            )
        if status in (301, 307, 400) and "region" in str(error.response).lower():
            return SourceError(
                f"{where}: the bucket is in another region ({code}). Set AWS_DEFAULT_REGION, or the remote's region."
            )
        return SourceError(f"{where}: {code or f'HTTP {status}'}. Check {self.setting}.")


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _chunks(body: Any) -> Iterator[bytes]:
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    try:
        while chunk := body.read(_CHUNK_BYTES):
            yield chunk
    except (BotoCoreError, HTTPError, OSError) as error:
        raise TryAgain(f"the connection broke ({type(error).__name__})") from None


def _endpoint(options: Mapping[str, str]) -> str:
    return without_secrets(options.get("endpointurl") or os.environ.get("AWS_ENDPOINT_URL", "")) or "AWS"


# MD5 is checked; some servers' checksums are of the whole. Before 1.36, botocore checked none and knew no such option.
_CHECKS = {"response_checksum_validation": "when_required"}


@lru_cache(maxsize=16)
def _client(_process: int, items: tuple[tuple[str, str], ...]) -> Any:
    """Return a client; each process has its own, since connections do not survive a fork."""
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    logging.getLogger("botocore").setLevel(logging.WARNING)  # below, it says whose credentials, and session tokens
    options = dict(items)
    session = botocore.session.Session(profile=options.get("profile"))
    for setting, option in (("credentials_file", "credentialpath"), ("config_file", "configpath")):
        if option in options:
            session.set_config_variable(setting, os.path.expanduser(options[option]))  # noqa: PTH111 - a setting's text
    is_public = _is_on(options.get("allow_anonymous_login") or os.environ.get("FSSPEC_S3_ANON"))
    verify = options.get("ssl_verify", "")
    return session.create_client(
        "s3",
        endpoint_url=options.get("endpointurl"),
        region_name=options.get("region") or session.get_config_variable("region") or "us-east-1",
        use_ssl=_is_on(options.get("use_ssl", "true")),
        verify=None if not verify or _is_on(verify) else False if verify.lower() in _OFF else verify,
        aws_access_key_id=options.get("access_key_id"),
        aws_secret_access_key=options.get("secret_access_key"),
        aws_session_token=options.get("session_token"),
        config=Config(
            signature_version=UNSIGNED if is_public else None,
            retries={"total_max_attempts": 1},  # repeated where it is seen: microdiff.storage.retry
            connect_timeout=_TIMEOUT_S / 3,
            read_timeout=_TIMEOUT_S,
            max_pool_connections=32,
            user_agent_extra="microdiff",
            **{name: value for name, value in _CHECKS.items() if name in Config.OPTION_DEFAULTS},
        ),
    )


def _is_on(text: str | None) -> bool:
    return text is not None and text.lower() in ("true", "1", "yes", "on")
