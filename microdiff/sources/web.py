"""A source that is a web server."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import requests
import urllib3

from microdiff.errors import SourceError
from microdiff.progress import Reporter, Silent
from microdiff.publish import digest_file, digest_json, locked_folder, sync
from microdiff.sources import SourceFile

ATTEMPTS = 6  # in a row without a byte of progress
TIMEOUT_S = 60.0
_CHUNK_BYTES = 2**20
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class WebSource:
    """A root on a web server. Fetches resume with Range, and are verified before they get their final name."""

    root: str = field(repr=False)  # may hold a password
    fetched: Path
    report: Reporter = field(default_factory=Silent, compare=False)

    @property
    def name(self) -> str:
        """The root without user, password and query."""
        parts = urlsplit(self.root)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def with_reporter(self, report: Reporter) -> "WebSource":
        """Return this source with a reporter."""
        return WebSource(self.root, self.fetched, report)

    def stat(self, path: str, sha256: str | None = None) -> SourceFile:
        """Describe a file by what the server's headers say."""
        with self._request("HEAD", path, {}) as answer:
            size = answer.headers.get("Content-Length", "")
            etag = answer.headers.get("ETag", "")
        if not size.isdecimal():
            raise SourceError(f"{self.name}/{path}: the server does not state the file's size")
        if sha256 is None and not etag:
            raise SourceError(
                f"{self.name}/{path}: the server states no ETag, so its bytes cannot be identified. "
                "Give their checksum in datasets.*.download.sha256."
            )
        return SourceFile(path, int(size), f"sha256:{sha256}" if sha256 else f"etag:{etag}")

    def fetch(self, file: SourceFile) -> Path:
        """Download a file, continuing where an earlier attempt stopped."""
        folder = self._folder(file)
        target = folder / Path(file.path).name
        with locked_folder(folder):
            if not target.is_file():
                self._download(file, target.with_name(f"{target.name}.part"))
                target.with_name(f"{target.name}.part").rename(target)
                sync(folder)
        return target

    def forget(self, file: SourceFile) -> None:
        """Remove the downloaded copy."""
        folder = self._folder(file)
        if folder.is_dir():
            with locked_folder(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, file: SourceFile) -> Path:
        return self.fetched / digest_json([self.name, file.path, file.num_bytes, file.identity])[:32]

    def _download(self, file: SourceFile, part: Path) -> None:
        """Fill `part` with the file's bytes and verify them."""
        where = f"{self.name}/{file.path}"
        if _size(part) > file.num_bytes:
            part.unlink()
        most, failures = _size(part), 0
        while _size(part) < file.num_bytes or not part.exists():
            problem = self._append(file, part)
            if _size(part) == file.num_bytes:
                break
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures == ATTEMPTS:
                raise SourceError(
                    f"{where}: {problem} after {_size(part)} of {file.num_bytes} bytes, {ATTEMPTS} times in a row. "
                    "Run again later: it continues from there."
                )
            self.report.say(f"{where}: {problem} after {_size(part)} of {file.num_bytes} bytes, continuing")
            _pause(failures, None)
        sync(part)
        if file.sha256 is not None and (found := digest_file(part)) != file.sha256:
            part.unlink()
            raise SourceError(f"{where}: expected sha256 {file.sha256}, got {found}. Nothing was kept.")

    def _append(self, file: SourceFile, part: Path) -> str:
        """Ask for the bytes that `part` lacks, add what comes, and return why it ended.

        Raises:
            SourceError: The server refuses, or has other bytes than those described.
        """
        where = f"{self.name}/{file.path}"
        start = _size(part)
        etag = file.identity.removeprefix("etag:") if file.identity.startswith("etag:") else None
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and etag:
            headers["If-Range"] = etag
        with self._request("GET", file.path, headers) as answer:
            if etag and answer.headers.get("ETag") != etag:
                raise SourceError(f"{where}: changed on the server during the download. Run again.")
            if answer.status_code == 206 and not _continues(answer, start):
                part.unlink(missing_ok=True)
                return f"the server sent another range than bytes {start}-"
            if start and answer.status_code != 206:
                part.unlink()
                start = 0
                self.report.say(f"{where}: the server cannot continue a download, starting over")
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

    @contextmanager
    def _request(self, method: str, path: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        """Send a request, repeating it while the server is busy.

        Raises:
            SourceError: The server refuses, or stays unreachable.
        """
        root = urlsplit(self.root)
        url, where = root._replace(path=f"{root.path.rstrip('/')}/{quote(path)}").geturl(), f"{self.name}/{path}"
        headers = {"Accept-Encoding": "identity", **headers}
        problem = ""
        for attempt in range(ATTEMPTS):
            try:
                answer = requests.request(
                    method, url, headers=headers, stream=True, timeout=TIMEOUT_S, allow_redirects=True
                )
            except requests.RequestException as error:
                problem, retry_after = type(error).__name__, None
            else:
                with answer:
                    if answer.ok:
                        yield answer
                        return
                    problem, retry_after = f"HTTP {answer.status_code}", answer.headers.get("Retry-After")
                    if answer.status_code not in _TRANSIENT:
                        raise SourceError(f"{where}: {problem} {answer.reason}. Check datasets.*.download.source.")
            if attempt + 1 < ATTEMPTS:
                self.report.say(f"{where}: {problem}, trying again")
                _pause(attempt, retry_after)
        raise SourceError(f"{where}: {problem} in {ATTEMPTS} attempts. Check the network, or run again later.")


def _pause(attempt: int, retry_after: str | None) -> None:
    """Wait as long as the server asks, at most a minute, or twice as long each time."""
    asked = float(retry_after) if retry_after and retry_after.isdecimal() else 0.5 * 2**attempt
    time.sleep(min(asked, 60.0))


def _continues(answer: requests.Response, start: int) -> bool:
    """Tell whether a partial answer's body starts where the request asked."""
    return start > 0 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
