"""What all sources have in common that are read over HTTP: requests that are repeated, bodies that are continued.

Credentials go only to the host they belong to: `auth` is dropped by requests when a redirect leads to another origin,
and an explicit one keeps ~/.netrc out. No message holds a URL, whose query may be a signature; it holds the source's
name and the file's path.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Self

import requests
import urllib3
from requests.auth import AuthBase

from microdiff.errors import SourceError
from microdiff.progress import Reporter, Silent
from microdiff.sources import SourceFile
from microdiff.sources.fetching import ATTEMPTS, FetchFolder, discard, pause, size_of, validator

TIMEOUT_S = 60.0
_LONGEST_WAIT_S = 300.0  # what a server may ask for with Retry-After
_CHUNK_BYTES = 2**20
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class HttpSource(ABC):
    """A source read over HTTP. Subclasses say where a file is, who asks, and what a refusal means."""

    root: str = field(repr=False)  # may hold a password or a signature
    fetched: Path
    report: Reporter = field(default_factory=Silent, compare=False)

    @property
    @abstractmethod
    def name(self) -> str:
        """The root as lineage shows it."""

    @abstractmethod
    def url(self, path: str) -> str:
        """Return where a file is."""

    def auth(self) -> AuthBase | None:
        """Return what proves who asks, for the host of `url`."""
        return None

    def refusal(self, path: str, answer: requests.Response) -> str:
        """Say what an answer that is an error means, and what to do."""
        return f"HTTP {answer.status_code} {answer.reason}. Check datasets.*.download.source."

    def is_transient(self, answer: requests.Response) -> bool:
        """Tell whether asking again may help."""
        return answer.status_code in _TRANSIENT

    def with_reporter(self, report: Reporter) -> Self:
        """Return this source, reporting bytes and retries to `report`."""
        return replace(self, report=report)

    def fetch(self, file: SourceFile) -> Path:
        """Download a file, continuing where an earlier attempt stopped."""
        return FetchFolder(self.fetched).fetch(self.name, file, lambda part: self._append(file, part), self.report)

    def forget(self, file: SourceFile) -> None:
        """Remove the downloaded copy."""
        FetchFolder(self.fetched).forget(self.name, file)

    @contextmanager
    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        url: str | None = None,
        follow: bool = True,
    ) -> Iterator[requests.Response]:
        """Send a request, repeating it while the server is busy.

        Args:
            method: HTTP method.
            path: The file asked for, for messages.
            headers: Besides those that every request has.
            url: Where to ask, if not at the file's own place.
            follow: Whether a redirect is followed or is the answer.

        Raises:
            SourceError: The server refuses, or stays unreachable.
        """
        where, problem = f"{self.name}/{path}", ""
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        for attempt in range(ATTEMPTS):
            retry_after = None
            try:
                answer = requests.request(
                    method,
                    url or self.url(path),
                    headers=sent,
                    auth=self.auth(),
                    stream=True,
                    timeout=TIMEOUT_S,
                    allow_redirects=follow,
                )
            except requests.RequestException as error:
                problem = type(error).__name__
            else:
                with answer:
                    if answer.ok:
                        yield answer
                        return
                    problem, retry_after = f"HTTP {answer.status_code}", answer.headers.get("Retry-After")
                    if not self.is_transient(answer):
                        raise SourceError(f"{where}: {self.refusal(path, answer)}")
            if attempt + 1 < ATTEMPTS:
                self.report.say(f"{where}: {problem}, trying again")
                _pause(attempt, retry_after)
        raise SourceError(f"{where}: {problem} in {ATTEMPTS} attempts. Check the network, or run again later.")

    def _append(self, file: SourceFile, part: Path) -> str:
        """Ask for the bytes that a partial file lacks, add what comes, and return why it ended.

        Raises:
            SourceError: The server refuses, or has other bytes than those described.
        """
        where = f"{self.name}/{file.path}"
        start, version = size_of(part), file.etag or _read(validator(part))
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and version and not version.startswith("W/"):
            headers["If-Range"] = version
        with self.request("GET", file.path, headers) as answer:
            etag = answer.headers.get("ETag", "")
            if file.etag is not None and etag != file.etag:
                raise SourceError(f"{where}: changed on the server during the download. Run again.")
            if start and answer.status_code == 206 and version and etag and etag != version:
                discard(part)
                return "the server has another version now"
            if answer.status_code == 206 and not _continues(answer, start):
                discard(part)
                return f"the server sent another range than bytes {start}-"
            if start and answer.status_code != 206:
                discard(part)
                start = 0
                self.report.say(f"{where}: the server cannot continue a download, starting over")
            if not start and etag:
                validator(part).write_text(etag, encoding="utf-8")
            with part.open("ab") as out:
                try:
                    for chunk in answer.raw.stream(_CHUNK_BYTES, decode_content=False):
                        if start + len(chunk) > file.num_bytes:
                            raise SourceError(f"{where}: longer than the {file.num_bytes} bytes stated.")
                        out.write(chunk)
                        start += len(chunk)
                        self.report.tick(num_bytes=len(chunk))
                except urllib3.exceptions.HTTPError as error:
                    return type(error).__name__
        return "the server closed"


def stated_size(answer: requests.Response) -> int | None:
    """Return the size that an answer's headers state."""
    size = answer.headers.get("Content-Length", "")
    return int(size) if size.isdecimal() else None


def _pause(attempt: int, retry_after: str | None) -> None:
    """Wait as long as the server asks, in seconds or as a date, or else twice as long each time."""
    asked = _seconds(retry_after)
    if asked is None:
        pause(attempt)
    else:
        time.sleep(min(asked, _LONGEST_WAIT_S))


def _seconds(retry_after: str | None) -> float | None:
    if not retry_after:
        return None
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _continues(answer: requests.Response, start: int) -> bool:
    """Tell whether a partial answer's body starts where the request asked."""
    return start > 0 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
