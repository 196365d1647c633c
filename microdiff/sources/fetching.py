"""Files fetched from elsewhere: resumed after a break, verified before they get their final name, never fetched twice.

How bytes arrive is the business of each kind of source: it gives a function that adds to a partial file what it can
get in one go. Everything around that is here: the lock, the attempts, the checksum, the rename.
"""

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from microdiff.errors import SourceError
from microdiff.progress import Reporter
from microdiff.publish import digest_json, locked_folder, sync
from microdiff.sources import SourceFile

ATTEMPTS = 6  # in a row without a byte of progress
_CHUNK_BYTES = 4 * 2**20

# Adds bytes to a partial file and returns why no more came. Raises SourceError where trying again cannot help.
Append = Callable[[Path], str]


@dataclass(frozen=True)
class FetchFolder:
    """Fetched files below one folder, each in a folder of its own that is named by what identifies the file."""

    root: Path

    def fetch(self, source: str, file: SourceFile, append: Append, report: Reporter) -> Path:
        """Return a verified copy of a file, fetching what is missing of it.

        Args:
            source: The source's name.
            file: What to fetch.
            append: Adds bytes to the partial file.
            report: Hears why a fetch had to be continued.

        Raises:
            SourceError: It cannot be had, or its bytes are not the ones described.
        """
        folder = self._folder(source, file)
        target = folder / Path(file.path).name
        with locked_folder(folder):
            if not target.is_file():
                part = target.with_name(f"{target.name}.part")
                _fill(part, f"{source}/{file.path}", file, append, report)
                part.rename(target)
                sync(folder)
                validator(part).unlink(missing_ok=True)
        return target

    def forget(self, source: str, file: SourceFile) -> None:
        """Remove the copy of a file."""
        folder = self._folder(source, file)
        if folder.is_dir():
            with locked_folder(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, source: str, file: SourceFile) -> Path:
        return self.root / digest_json([source, file.path, file.num_bytes, file.identity])[:32]


def _fill(part: Path, where: str, file: SourceFile, append: Append, report: Reporter) -> None:
    """Complete a partial file and verify it; one that came out wrong is fetched once more from its beginning."""
    kind = file.identity.partition(":")[0]
    for last in (False, True):
        _complete(part, where, file.num_bytes, append, report)
        sync(part)
        if kind not in _CHECKED or (found := identity_of(part, kind)) == file.identity:
            return
        discard(part)
        problem = f"{where}: expected {file.identity}, got {found}"
        if last:
            raise SourceError(f"{problem}, twice. Nothing was kept. Run again later, or correct the checksum.")
        report.say(f"{problem}, starting over")


def _complete(part: Path, where: str, num_bytes: int, append: Append, report: Reporter) -> None:
    """Bring a partial file to its full size."""
    if size_of(part) > num_bytes:
        discard(part)
    most, failures = size_of(part), 0
    while size_of(part) < num_bytes or not part.exists():
        problem = append(part)
        size = size_of(part)
        if part.exists() and size == num_bytes:
            return
        failures = 0 if size > most else failures + 1
        most = max(most, size)
        progress = f"{where}: {problem} after {size} of {num_bytes} bytes"
        if failures == ATTEMPTS:
            raise SourceError(f"{progress}, {ATTEMPTS} times in a row. Run again later: it continues from there.")
        report.say(f"{progress}, continuing")
        pause(failures)


def discard(part: Path) -> None:
    """Remove a partial file and what is known of it."""
    part.unlink(missing_ok=True)
    validator(part).unlink(missing_ok=True)


def identity_of(path: Path, kind: str) -> str:
    """Return a file's checksum: `sha256:...`, `md5:...`, or `git:...`, the SHA-1 that git gives the blob."""
    digest = hashlib.new(_CHECKED[kind], usedforsecurity=False)
    if kind == "git":
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


_CHECKED = {"sha256": "sha256", "md5": "md5", "git": "sha1"}  # the algorithm by the kind of identity


def validator(part: Path) -> Path:
    """Return the file beside a partial one that says which version of the source its bytes are of."""
    return part.with_name(f"{part.name}.version")


def pause(attempt: int) -> None:
    """Wait before another attempt, twice as long each time, at most a minute."""
    time.sleep(min(0.5 * 2**attempt, 60.0))


def size_of(path: Path) -> int:
    """Return a file's size, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0
