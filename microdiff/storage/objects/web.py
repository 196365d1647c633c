"""A remote on a web server, read without writing: a bucket or folder that is published by HTTP."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from microdiff.errors import SourceError
from microdiff.storage import response_headers
from microdiff.storage.http import TIMEOUT_S, NoCredentials, OriginSession
from microdiff.storage.objects import Body, NoSuchObject, PastTheEnd, TryAgain
from microdiff.storage.urls import without_secrets

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class WebStore:
    """Objects below a URL.

    Attributes:
        root: The URL. A user and password in it are sent to its server alone.
        options: The remote's settings as DVC calls them: user, password.
    """

    root: str = field(repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The root without user, password and query."""
        return without_secrets(self.root)

    @contextmanager
    def read(self, path: str, start: int = 0) -> Iterator[Body]:
        """Open an object."""
        with self._answer("GET", path, {"Range": f"bytes={start}-"} if start else {}) as answer:
            size = response_headers.stated_size(answer)
            if size is None:
                raise SourceError(f"{self.name}/{path}: the server does not state the size")
            at = response_headers.starts_at(answer) if answer.status_code == 206 else 0
            yield Body(at, size, _chunks(answer.raw))

    def size(self, path: str) -> int:
        """Return an object's size in bytes."""
        with self._answer("HEAD", path, {}) as answer:
            size = response_headers.stated_size(answer)
        if size is None:
            raise SourceError(f"{self.name}/{path}: the server does not state the size")
        return size

    @contextmanager
    def _answer(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        root = urlsplit(self.root)
        place = "/".join(filter(None, (root.path.rstrip("/"), quote(path))))
        user = self.options.get("user") or unquote(root.username or "")
        password = self.options.get("password") or unquote(root.password or "")
        try:
            with (
                OriginSession() as session,
                session.request(
                    method,
                    root._replace(netloc=root.netloc.rpartition("@")[2], path=place).geturl(),
                    headers={"Accept-Encoding": "identity", "User-Agent": "microdiff", **headers},
                    auth=HTTPBasicAuth(user.encode(), password.encode()) if user else NoCredentials(),
                    stream=True,
                    timeout=TIMEOUT_S,
                ) as answer,
            ):
                self._check(answer, path)
                yield answer
        except requests.RequestException as error:
            raise TryAgain(type(error).__name__) from None  # its text holds the URL

    def _check(self, answer: requests.Response, path: str) -> None:
        status = answer.status_code
        if status in (200, 206):
            return
        if status == 416:
            raise PastTheEnd("it ends earlier")
        if status in (408, 425, 429) or status >= 500:
            raise TryAgain(f"HTTP {status}", response_headers.wait_asked_for(answer))
        if status in (404, 410):
            raise NoSuchObject(f"{self.name}/{path}: no such object")
        remedy = "Check the remote's user and password." if status in (401, 403) else "Check the remote's URL."
        raise SourceError(f"{self.name}/{path}: HTTP {status} {answer.reason}. {remedy}")


def _chunks(body: Any) -> Iterator[bytes]:
    try:
        while chunk := body.read1(_CHUNK_BYTES, decode_content=False):
            yield chunk
    except urllib3.exceptions.HTTPError as error:
        raise TryAgain(f"the connection broke ({type(error).__name__})") from None
