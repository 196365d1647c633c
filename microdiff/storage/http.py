"""Files on web servers, and what all kinds of storage have in common that are read over HTTP.

Credentials go only where they belong: each kind says which for which URL, a redirect to another origin drops them, and
those in ~/.netrc are never used. No message holds a URL, whose path or query may be a signature; it holds the storage's
name and the file's path.
"""

import base64
import binascii
import logging
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import requests
import urllib3
from requests.auth import AuthBase, HTTPBasicAuth
from requests.structures import CaseInsensitiveDict

from microdiff.errors import SourceError
from microdiff.storage import Body, CannotResume, NotFound, SourceFile, Storage, TryAgain, response_headers
from microdiff.storage.retry import retried
from microdiff.storage.urls import same_origin, without_secrets

TIMEOUT_S = 60.0  # without a byte
_CHUNK_BYTES = 2**18
_BUSY = (408, 425, 429)
_HOPELESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
    requests.exceptions.TooManyRedirects,
)
_DIGEST_BYTES = {"sha256": 32, "md5": 16}

T = TypeVar("T")

logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it says below that holds URLs, with their signatures


class NoCredentials(AuthBase):
    """Send no credentials. Without an explicit auth, requests would take them from ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Return the request as it is."""
        return request


@dataclass(frozen=True, kw_only=True)
class HttpStorage(Storage):
    """A storage read over HTTP. Subclasses say where a file is, with which credentials, and what a refusal means."""

    @abstractmethod
    def url(self, path: str) -> str:
        """Return where a file is.

        Raises:
            SourceError: It is nowhere.
        """

    def auth(self, url: str) -> AuthBase:
        """Return the credentials for a URL: by default, the user and password in it."""
        parts = urlsplit(url)
        return _basic(unquote(parts.username or ""), unquote(parts.password or ""))

    def refusal(self, answer: requests.Response, where: str) -> SourceError:
        """Return the error that an answer means which says no, with what to do about it."""
        status = answer.status_code
        if status in (404, 410):
            return NotFound(f"{where}: no such file (HTTP {status}). Check {self.setting}.")
        remedy = ", and the user and password in it" if status in (401, 403) else ""
        return SourceError(f"{where}: HTTP {status} {answer.reason}. Check {self.setting}{remedy}.")

    def is_transient(self, answer: requests.Response) -> bool:
        """Tell whether asking again may help."""
        return answer.status_code in _BUSY or answer.status_code >= 500

    @contextmanager
    def answer(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        url: str | None = None,
        expected: Sequence[int] = (200, 206),
    ) -> Iterator[requests.Response]:
        """Send one request and give the answer, whose body has not been received yet.

        Args:
            method: HTTP method.
            path: The file asked for, for messages.
            headers: Besides those that every request has.
            url: Where to ask, if not at the file's own URL.
            expected: Statuses that are no error.

        Raises:
            TryAgain: The server is busy or unreachable, or breaks off.
            CannotResume: It has no such range.
            SourceError: It refuses.
        """
        where = "/".join(filter(None, (self.name, path)))
        sent = {"Accept-Encoding": "identity", "User-Agent": "microdiff", **(headers or {})}
        address = url or self.url(path)
        auth = self.auth(address)
        try:
            with (
                OriginSession() as session,
                session.request(method, address, headers=sent, auth=auth, stream=True, timeout=TIMEOUT_S) as answer,
            ):
                if answer.status_code not in expected:
                    raise self._error(answer, where, address)
                yield answer
        except requests.RequestException as error:
            problem = type(error).__name__  # its text holds the URL
            if isinstance(error, _HOPELESS):
                raise SourceError(f"{where}: {problem}. Check {self.setting}.") from None
            raise TryAgain(problem) from None

    def ask(self, method: str, path: str, read: Callable[[requests.Response], T], **options: Any) -> T:
        """Send a request, repeating it while the server is busy, and return what `read` makes of the answer.

        Args:
            method: HTTP method.
            path: The file asked for, for messages.
            read: Reads the answer.
            options: As for `answer`.

        Raises:
            SourceError: The server refuses, or stays unreachable.
        """

        def request() -> T:
            with self.answer(method, path, **options) as answer:
                return read(answer)

        return retried(self, path, request)

    @contextmanager
    def read(self, path: str, start: int = 0, version: str = "") -> Iterator[Body]:
        """Open a file."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and version and not version.startswith("W/"):
            headers["If-Range"] = version
        with self.answer("GET", path, headers=headers) as answer:
            is_part = answer.status_code == 206
            if is_part and response_headers.starts_at(answer) != start:
                raise CannotResume(f"the server sent another range than bytes {start}-")
            yield Body(
                start=start if is_part else 0,
                num_bytes=response_headers.stated_size(answer),
                version=response_headers.version(answer),
                chunks=_chunks(answer.raw),
            )

    def _error(self, answer: requests.Response, where: str, asked: str) -> SourceError:
        if answer.status_code == 416:
            return CannotResume("the server has nothing from there on")
        if self.is_transient(answer):
            return TryAgain(response_headers.status(answer, asked), response_headers.wait_asked_for(answer))
        return self.refusal(answer, where)


@dataclass(frozen=True, kw_only=True)
class WebStorage(HttpStorage):
    """A root on a web server.

    Attributes:
        root: Its URL. A user and password in it are sent to its server alone; a query (a signature, say) goes with
            every request.
        user: Instead of the one in the URL, if given.
        password: Likewise.
    """

    root: str = field(repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """The root without user, password and query."""
        return without_secrets(self.root)

    def url(self, path: str) -> str:
        """Return where a file is."""
        root = urlsplit(self.root)
        return root._replace(path=f"{root.path.rstrip('/')}/{quote(path)}").geturl()

    def auth(self, url: str) -> AuthBase:
        """Return the credentials for a URL: the user and password given, or else those in it."""
        parts = urlsplit(url)
        return _basic(self.user or unquote(parts.username or ""), self.password or unquote(parts.password or ""))

    def list(self, folder: str) -> Sequence[str]:
        """Refuse: web servers do not list.

        Raises:
            SourceError: Always.
        """
        raise SourceError(
            f"{self.name}/{folder}: the files on a plain web server cannot be listed. "
            "Use a source that can: hf://, s3://, a list of links, or a local folder."
        )

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file by what the server's headers say: a checksum if there is one, else the ETag."""
        size, etag, published = self.ask("HEAD", path, _facts)
        identity = checksum or published or (f"etag:{etag}" if etag else None)
        if size is None:
            raise SourceError(f"{self.name}/{path}: the server does not state the file's size")
        if identity is None:
            raise SourceError(
                f"{self.name}/{path}: the server states no ETag, so its bytes cannot be identified. "
                "Give their checksum in datasets.*.download.sha256."
            )
        return SourceFile(path, size, identity)


class OriginSession(requests.Session):
    """Requests whose credentials stay with the origin they were given for."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Drop the credentials from a request that a redirect sends elsewhere."""
        if not same_origin(str(response.request.url), str(prepared_request.url)):
            prepared_request.headers.pop("Authorization", None)


def _basic(user: str, password: str) -> AuthBase:
    return HTTPBasicAuth(user.encode(), password.encode()) if user else NoCredentials()


def _chunks(body: Any) -> Iterator[bytes]:
    """Yield a body as it comes."""
    try:
        # read1 hands over what has come even if the connection then breaks; read would drop up to a chunk.
        while chunk := body.read1(_CHUNK_BYTES, decode_content=False):
            yield chunk
    except urllib3.exceptions.HTTPError as error:
        raise TryAgain(f"the connection broke ({type(error).__name__})") from None


def _facts(answer: requests.Response) -> tuple[int | None, str, str | None]:
    return response_headers.stated_size(answer), answer.headers.get("ETag", ""), _published_checksum(answer.headers)


def _published_checksum(headers: CaseInsensitiveDict[str]) -> str | None:
    """Return a checksum of the whole file that servers publish: Google's hashes, Digest (RFC 3230) or Content-MD5."""
    for name, pattern, kind in (
        ("Repr-Digest", r"\bsha-256=:([\w+/=]+):", "sha256"),
        ("Digest", r"\bsha-256=([\w+/=]+)", "sha256"),
        ("x-goog-hash", r"\bmd5=([\w+/=]+)", "md5"),
        ("Content-MD5", r"^([\w+/=]+)$", "md5"),
    ):
        found = re.search(pattern, headers.get(name, ""), re.IGNORECASE)
        if found is None:
            continue
        try:
            digest = base64.b64decode(found[1], validate=True)
        except binascii.Error:
            continue
        if len(digest) == _DIGEST_BYTES[kind]:  # some servers send hexadecimal digits, which decode too
            return f"{kind}:{digest.hex()}"
    return None
