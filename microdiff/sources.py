"""Where a dataset comes from: a local folder, or a web server.

A source answers two questions about a path below its root: what is there (`stat`: size and a checksum or ETag, which
identify the bytes), and the bytes themselves as a verified local file (`fetch`).
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import requests

from microdiff.errors import SourceError
from microdiff.progress import Reporter, Silent
from microdiff.publish import digest_file, digest_json, read_json, sync, write_json

ATTEMPTS = 6
TIMEOUT_S = 60.0
_CHUNK_BYTES = 2**20
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        path: Below the source's root, with `/`.
        num_bytes: Size the source states.
        identity: `sha256:...` or `etag:...`: changes when the bytes do.
    """

    path: str
    num_bytes: int
    identity: str

    @property
    def sha256(self) -> str | None:
        """The content's SHA-256 in hexadecimal, if it is known."""
        return self.identity.removeprefix("sha256:") if self.identity.startswith("sha256:") else None


class Source(Protocol):
    """A root below which a dataset's files are."""

    @property
    def name(self) -> str:
        """The root as lineage shows it: no credentials, no absolute local path."""

    def with_reporter(self, report: Reporter) -> "Source":
        """Return this source, reporting bytes and retries to `report`."""

    def stat(self, path: str, sha256: str | None = None) -> SourceFile:
        """Describe a file.

        Args:
            path: Below the root.
            sha256: What its bytes must hash to, if known.

        Raises:
            SourceError: It is not there, or is not what `sha256` says.
        """

    def fetch(self, file: SourceFile) -> Path:
        """Return a local, verified copy of a file; safe to interrupt and to call from several processes.

        Raises:
            SourceError: It cannot be had, or its bytes are not the ones described.
        """

    def forget(self, file: SourceFile) -> None:
        """Remove the local copy of a file, if this source made one."""


def open_source(root: str, work: Path) -> Source:
    """Return the source at a root: `http://`, `https://`, or a local folder.

    Args:
        root: The root.
        work: The store's folder, for fetched files and digests.

    Raises:
        SourceError: The root's scheme is unknown, or it is a folder that does not exist.
    """
    scheme = urlsplit(root).scheme
    if scheme in ("http", "https"):
        return WebSource(root.rstrip("/"), work / "fetch")
    if "://" in root:
        raise SourceError(f"{root}: unknown kind of source; expected http://, https:// or a local folder")
    if not Path(root).is_dir():
        raise SourceError(f"{root}: no such folder. Check datasets.*.download.source in params.yaml.")
    return LocalSource(root, work / "digests")


@dataclass(frozen=True)
class LocalSource:
    """A folder on this machine. Files are used in place; digests are remembered by path, size and time."""

    root: str
    digests: Path
    report: Reporter = field(default_factory=Silent, compare=False)

    @property
    def name(self) -> str:
        """The folder as given if relative, else its last part."""
        path = Path(self.root)
        return path.name if path.is_absolute() else path.as_posix()

    def with_reporter(self, report: Reporter) -> "LocalSource":
        """Return this source with a reporter."""
        return LocalSource(self.root, self.digests, report)

    def stat(self, path: str, sha256: str | None = None) -> SourceFile:
        """Describe a file by its size and SHA-256."""
        file = Path(self.root) / path
        if not file.is_file():
            raise SourceError(f"{file}: no such file. Check datasets.*.download.source in params.yaml.")
        found = self._digest(file)
        if sha256 is not None and found != sha256:
            raise SourceError(
                f"{file}: expected sha256 {sha256}, found {found}: the file is damaged or another version.\n"
                "Fetch it again, or correct datasets.*.download.sha256 in params.yaml."
            )
        return SourceFile(path, file.stat().st_size, f"sha256:{found}")

    def fetch(self, file: SourceFile) -> Path:
        """Return the file itself."""
        return Path(self.root) / file.path

    def forget(self, file: SourceFile) -> None:
        """Do nothing: the file is the user's own."""

    def _digest(self, file: Path) -> str:
        """Return the file's SHA-256, computed again only after its size or time changed."""
        facts = file.stat()
        known = {
            "path": str(file.resolve()),
            "bytes": facts.st_size,
            "mtime_ns": facts.st_mtime_ns,
            "inode": facts.st_ino,
        }
        record = self.digests / f"{digest_json(known)}.json"
        if record.is_file():
            digest: str = read_json(record)["sha256"]
            return digest
        digest = digest_file(file)
        write_json(record, {"sha256": digest})
        return digest


@dataclass(frozen=True)
class WebSource:
    """A root on a web server. Fetches resume with Range, and are verified before they get their final name."""

    root: str
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
        with _locked(folder):
            if not target.is_file():
                self._download(file, target.with_name(f"{target.name}.part"))
                target.with_name(f"{target.name}.part").rename(target)
                sync(folder)
        return target

    def forget(self, file: SourceFile) -> None:
        """Remove the downloaded copy."""
        shutil.rmtree(self._folder(file), ignore_errors=True)

    def _folder(self, file: SourceFile) -> Path:
        return self.fetched / digest_json([self.name, file.path, file.num_bytes, file.identity])[:32]

    def _download(self, file: SourceFile, part: Path) -> None:
        """Fill `part` with the file's bytes and verify them."""
        where = f"{self.name}/{file.path}"
        if _size(part) > file.num_bytes:
            part.unlink()
        for attempt in range(ATTEMPTS):
            try:
                if _size(part) < file.num_bytes or not part.exists():
                    self._append(file, part)
            except (
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
            ) as error:
                self.report.say(f"{where}: {type(error).__name__} after {_size(part)} bytes, continuing")
                _pause(attempt, None)
                continue
            if _size(part) == file.num_bytes:
                break
            self.report.say(f"{where}: the server closed after {_size(part)} of {file.num_bytes} bytes, continuing")
            _pause(attempt, None)
        if _size(part) != file.num_bytes:
            raise SourceError(
                f"{where}: got {_size(part)} of {file.num_bytes} bytes in {ATTEMPTS} attempts. "
                "Run again later: it continues from there."
            )
        sync(part)
        if file.sha256 is not None and (found := digest_file(part)) != file.sha256:
            part.unlink()
            raise SourceError(f"{where}: expected sha256 {file.sha256}, got {found}. Nothing was kept.")

    def _append(self, file: SourceFile, part: Path) -> None:
        """Ask for the bytes that `part` lacks and add what comes."""
        start = _size(part)
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._request("GET", file.path, headers) as answer:
            if answer.status_code != 206 and start:  # the server ignores Range: from the beginning
                part.unlink()
                start = 0
                self.report.say(f"{self.name}/{file.path}: the server cannot continue a download, starting over")
            etag = answer.headers.get("ETag", "")
            if file.identity.startswith("etag:") and etag and file.identity != f"etag:{etag}":
                raise SourceError(f"{self.name}/{file.path}: changed on the server during the download. Run again.")
            with part.open("ab") as out:
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    if start + len(chunk) > file.num_bytes:
                        raise SourceError(f"{self.name}/{file.path}: longer than the {file.num_bytes} bytes stated.")
                    out.write(chunk)
                    start += len(chunk)
                    self.report.tick(num_bytes=len(chunk))

    @contextmanager
    def _request(self, method: str, path: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        """Send a request, repeating it while the server is busy.

        Raises:
            SourceError: The server refuses, or stays unreachable.
        """
        url, where = f"{self.root}/{quote(path)}", f"{self.name}/{path}"
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


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
