"""One object of a DVC remote, fetched whole or not at all: resumed, verified while its bytes arrive, with patience."""

import hashlib
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from microdiff.core.files import sync
from microdiff.core.progress import Reporter
from microdiff.errors import SourceError
from microdiff.storage.objects import ObjectStore, PastTheEnd, TryAgain

ATTEMPTS = 10  # in a row without a byte of progress: three minutes
FEW_ATTEMPTS = 5  # at first contact, when what was typed may be wrong: ten seconds
_LONGEST_PAUSE_S = 60.0
_CHUNK_BYTES = 2**20

T = TypeVar("T")


def object_path(md5: str) -> str:
    """Return where DVC keeps an object below a remote's root."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


class Patience:
    """Waits between attempts that fail, longer each time, until there were too many in a row."""

    def __init__(self, where: str, attempts: int, report: Reporter) -> None:
        self._where = where
        self._attempts = attempts
        self._report = report
        self._failures = 0

    def progress(self) -> None:
        """Begin counting anew."""
        self._failures = 0

    def failed(self, problem: str, wait_s: float = 0.0) -> None:
        """Wait before another attempt, for at least `wait_s` seconds.

        Raises:
            SourceError: There were too many.
        """
        self._failures += 1
        if self._failures == self._attempts:
            raise SourceError(
                f"{self._where}: {problem}, {self._attempts} times in a row. "
                "Check the network and the remote's settings, or run again later: it continues from there."
            )
        pause_s = max(wait_s, min(0.5 * 2 ** (self._failures - 1), _LONGEST_PAUSE_S))
        pause_s *= random.uniform(1.0, 1.5)  # noqa: S311 - keeps ranks that were refused together apart
        self._report.say(f"{self._where}: {problem}, trying again in {pause_s:.1f} s")
        time.sleep(pause_s)


def ask(request: Callable[[], T], where: str, report: Reporter, attempts: int = ATTEMPTS) -> T:
    """Return what a request returns, repeating it while it raises `TryAgain`.

    Raises:
        SourceError: It keeps failing, or cannot succeed.
    """
    patience = Patience(where, attempts, report)
    while True:
        try:
            return request()
        except TryAgain as error:
            patience.failed(str(error), error.wait_s)


def fetch_object(store: ObjectStore, md5: str, part: Path, report: Reporter, attempts: int = ATTEMPTS) -> None:
    """Fetch an object into a file, continuing what an earlier attempt left there.

    Args:
        store: The remote.
        md5: The object's name, and the MD5 of its bytes; that of a folder ends in `.dir`.
        part: Receives it; whole and on disk when this returns, and not to be used before.
        report: Hears of bytes received, and of attempts that are repeated.
        attempts: How many may fail in a row without a byte of progress.

    Raises:
        SourceError: It cannot be had, or the remote holds other bytes under its name; then `part` is removed.
    """
    path, expected = object_path(md5), md5.removesuffix(".dir")
    where = f"{store.name}: {path}"
    for is_last in (False, True):
        found = _complete(store, path, expected, part, Patience(where, attempts, report), report)
        if found == expected:
            sync(part)
            return
        part.unlink()
        if not is_last:
            report.say(f"{where}: the bytes have MD5 {found}, starting over")
    raise SourceError(
        f"{where}: the object is damaged: its bytes have MD5 {found}, twice. Nothing was kept.\n"
        "Delete it from the remote and run dvc push where the data is whole (a push skips what is there)."
    )


def _complete(store: ObjectStore, path: str, expected: str, part: Path, patience: Patience, report: Reporter) -> str:
    """Bring a partial file to the object's size and return its MD5."""
    with part.open("a+b") as out:
        digest = hashlib.md5(usedforsecurity=False)
        out.seek(0)
        while chunk := out.read(_CHUNK_BYTES):
            digest.update(chunk)
        if out.tell() and digest.hexdigest() == expected:
            return expected  # whole, but the process ended before it could say so
        while True:
            start = out.tell()
            try:
                with store.read(path, start) as body:
                    if body.start != start:
                        digest = _restart(out)
                    for chunk in body.chunks:
                        out.write(chunk)
                        digest.update(chunk)
                        report.tick(num_bytes=len(chunk))
                if out.tell() >= body.num_bytes:
                    return digest.hexdigest()
                problem, wait_s = f"{out.tell()} of {body.num_bytes} bytes came", 0.0
            except PastTheEnd as error:
                digest, problem, wait_s = _restart(out), str(error), 0.0
            except TryAgain as error:
                problem, wait_s = str(error), error.wait_s
            if out.tell() > start:
                patience.progress()
            out.flush()
            patience.failed(problem, wait_s)


def _restart(out: Any) -> Any:
    """Empty a partial file and return the digest of nothing."""
    out.seek(0)
    out.truncate()
    return hashlib.md5(usedforsecurity=False)
