"""What all sources have in common that are read over HTTP: requests that are repeated, bodies that are continued.

Credentials go only where they belong: each source says which for which URL, a redirect to another origin drops them,
and those in ~/.netrc are never used. No message holds a URL, whose path or query may be a signature; it holds the
source's name and the file's path.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from requests.auth import AuthBase, HTTPBasicAuth

from microdiff.errors import SourceError
from microdiff.storage import SourceFile, response_headers
from microdiff.storage.fetching import ATTEMPTS, FetchedSource, discard, is_checked, pause, size_of, validator
from microdiff.storage.urls import same_origin

TIMEOUT_S = 60.0  # without a byte
_CHUNK_BYTES = 2**18
_TICK_BYTES = 2**20
_BUSY = (408, 425, 429)
_HOPELESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
    requests.exceptions.TooManyRedirects,
)

T = TypeVar("T")

logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it says below that holds URLs, with their signatures


class NoCredentials(AuthBase):
    """Nobody in particular asks. Given explicitly, it keeps ~/.netrc out."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Return the request as it is."""
        return request


@dataclass(frozen=True, kw_only=True)
class HttpSource(FetchedSource):
    """A source read over HTTP. Subclasses say where a file is, who asks, and what a refusal means."""

    @abstractmethod
    def url(self, path: str) -> str:
        """Return where a file is.

        Raises:
            SourceError: It is nowhere.
        """

    def auth(self, url: str) -> AuthBase:
        """Return what proves to the server at a URL who asks: by default, the user and password in the URL."""
        parts = urlsplit(url)
        if parts.username is None:
            return NoCredentials()
        return HTTPBasicAuth(unquote(parts.username).encode(), unquote(parts.password or "").encode())

    def refusal(self, answer: requests.Response) -> str:
        """Say what an answer that is an error means, and what to do."""
        return f"HTTP {answer.status_code} {answer.reason}. Check {self.setting}."

    def is_transient(self, answer: requests.Response) -> bool:
        """Tell whether asking again may help."""
        return answer.status_code in _BUSY or answer.status_code >= 500

    def changed(self, file: SourceFile, found: str) -> SourceError:
        """Return the error for a file that is no longer the one described."""
        return SourceError(f"{self.name}/{file.path}: changed on the server: {found}. Run again.")

    def ask(
        self,
        method: str,
        path: str,
        read: Callable[[requests.Response], T],
        *,
        headers: Mapping[str, str] | None = None,
        url: str | None = None,
        expected: Sequence[int] = (200, 206),
    ) -> T:
        """Send a request, repeating it while the server is busy, and return what `read` makes of the answer.

        Args:
            method: HTTP method.
            path: The file asked for, for messages.
            read: Reads the answer, whose body has not been received yet.
            headers: Besides those that every request has.
            url: Where to ask, if not at the file's own place.
            expected: Statuses of answers that are read.

        Raises:
            SourceError: The server refuses, or stays unreachable.
        """
        where = "/".join(filter(None, (self.name, path)))
        sent = {"Accept-Encoding": "identity", "User-Agent": "microdiff", **(headers or {})}
        remedy = f"Check {self.setting}."
        for attempt in range(ATTEMPTS):
            wait_s, place = 0.0, url or self.url(path)
            try:
                with (
                    OriginSession() as session,
                    session.request(
                        method, place, headers=sent, auth=self.auth(place), stream=True, timeout=TIMEOUT_S
                    ) as answer,
                ):
                    if answer.status_code in expected:
                        return read(answer)
                    problem = response_headers.status(answer, place)
                    if not self.is_transient(answer):
                        raise SourceError(f"{where}: {self.refusal(answer)}")
                    wait_s = response_headers.wait_asked_for(answer)
            except requests.RequestException as error:
                problem = type(error).__name__  # its text holds the URL
                if isinstance(error, _HOPELESS):
                    break
            if attempt + 1 < ATTEMPTS:
                self.report.say(f"{where}: {problem}, trying again")
                pause(attempt, wait_s)
        else:
            problem, remedy = f"{problem} in {ATTEMPTS} attempts", "Check the network, or run again later."
        raise SourceError(f"{where}: {problem}. {remedy}")

    def append(self, file: SourceFile, part: Path) -> str:
        """Ask for the bytes that a partial file lacks, and add what comes."""
        if size_of(part) and not is_checked(file) and not _version(file, part):
            self.report.say(f"{self.name}/{file.path}: the server does not tell versions apart, starting over")
            discard(part)
        start, version = size_of(part), _version(file, part)
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and version and not version.startswith("W/"):
            headers["If-Range"] = version
        return self.ask(
            "GET",
            file.path,
            lambda answer: self._receive(file, part, answer),
            headers=headers,
            expected=(200, 206, 416),
        )

    def _receive(self, file: SourceFile, part: Path, answer: requests.Response) -> str:
        """Add an answer's body to a partial file if it is the rest of it; return why it ended."""
        start, version = size_of(part), response_headers.version(answer)
        if answer.status_code == 416:
            discard(part)
            return f"the server has nothing from byte {start} on"
        if file.etag is not None and version != file.etag:
            raise self.changed(file, f"expected ETag {file.etag}, got {version or 'none'}")
        if answer.status_code == 206 and (not start or response_headers.starts_at(answer) != start):
            discard(part)
            return f"the server sent another range than bytes {start}-"
        if start and answer.status_code == 206 and not is_checked(file) and version != _version(file, part):
            discard(part)
            return "the server has another version now"
        if (size := response_headers.stated_size(answer)) not in (None, file.num_bytes):
            raise self.changed(file, f"expected {file.num_bytes} bytes, it has {size}")
        if start and answer.status_code != 206:
            discard(part)
            self.report.say(f"{self.name}/{file.path}: the server cannot continue a download, starting over")
        if answer.status_code != 206 and file.kind == "name" and version:
            validator(part).write_text(version, encoding="utf-8")
        return self._write(file, part, answer.raw)

    def _write(self, file: SourceFile, part: Path, body: Any) -> str:
        """Add a body to a partial file as it comes; return why it ended."""
        untold, left = 0, file.num_bytes - size_of(part)
        with part.open("ab") as out:
            try:
                # read1 hands over what has come even if the connection then breaks; read would drop up to a chunk.
                while chunk := body.read1(_CHUNK_BYTES, decode_content=False):
                    left, untold = left - len(chunk), untold + len(chunk)
                    if left < 0:
                        raise self.changed(file, f"it is longer than {file.num_bytes} bytes")
                    out.write(chunk)
                    if untold >= _TICK_BYTES:
                        self.report.tick(num_bytes=untold)
                        untold = 0
            except urllib3.exceptions.HTTPError as error:
                return type(error).__name__
            finally:
                self.report.tick(num_bytes=untold)
        return "the server closed"


class OriginSession(requests.Session):
    """Requests whose credentials stay with the origin they were given for."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Drop the credentials from a request that a redirect sends elsewhere."""
        if not same_origin(str(response.request.url), str(prepared_request.url)):
            prepared_request.headers.pop("Authorization", None)


def _version(file: SourceFile, part: Path) -> str:
    """Return what the server called the version that a partial file is of; nothing where a checksum will tell."""
    if file.etag is not None:
        return file.etag
    note = validator(part)
    return note.read_text(encoding="utf-8") if note.is_file() else ""
