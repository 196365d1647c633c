"""One file from a storage, whole or not at all: resumed after a break, verified while its bytes arrive."""

import hashlib
from pathlib import Path
from typing import BinaryIO

from microdiff.core.files import sync
from microdiff.storage import Body, CannotResume, Changed, Damaged, Storage, TryAgain
from microdiff.storage.checksums import is_checksum, new_digest
from microdiff.storage.retry import ATTEMPTS, RetryBudget

_TICK_BYTES = 2**20


def fetch_verified(
    storage: Storage,
    path: str,
    part: Path,
    *,
    identity: str,
    num_bytes: int | None = None,
    attempts: int = ATTEMPTS,
) -> None:
    """Fetch a file, continuing what an earlier attempt left; bytes that came out wrong are fetched once more.

    Args:
        storage: Has the file.
        path: In the storage.
        part: Receives the bytes; whole, verified and on disk when this returns, and not to be used before. Beside it,
            `<name>.version` may say of which version its bytes are.
        identity: As `SourceFile.identity`; the bytes are checked if it is a checksum.
        num_bytes: Size of the file, None if unknown.
        attempts: How many may fail in a row without a byte of progress.

    Raises:
        Changed: The storage has another file there now.
        Damaged: The bytes are not those that `identity` is the checksum of, twice; then `part` is removed.
        SourceError: It cannot be had.
    """
    where = f"{storage.name}/{path}"
    for is_last in (False, True):
        found = _Transfer(storage, path, part, identity, num_bytes).complete(attempts)
        if found == identity:
            sync(part)
            _version_note(part).unlink(missing_ok=True)
            return
        part.unlink()
        problem = f"{where}: expected {identity}, got {found}"
        if is_last:
            message = f"{problem}, twice. Nothing was kept. Run again later, or correct the checksum."
            raise Damaged(message, found)
        storage.report.say(f"{problem}, starting over")


class _Transfer:
    """A file on its way into a partial one."""

    def __init__(self, storage: Storage, path: str, part: Path, identity: str, num_bytes: int | None) -> None:
        self._storage = storage
        self._path = path
        self._where = f"{storage.name}/{path}"
        self._part = part
        self._identity = identity
        self._kind, _, self._value = identity.partition(":")
        self._num_bytes = num_bytes
        self._size = 0  # of the partial file
        self._digest = self._new_digest()
        self._out: BinaryIO

    def complete(self, attempts: int) -> str:
        """Bring the partial file to its full size; return its checksum, or the identity if that is none."""
        with self._part.open("a+b") as self._out:
            self._take_up()
            if self._is_whole():
                return self._found()
            budget, most = RetryBudget(self._storage, self._path, attempts, resumes=True), self._size
            while True:
                wait_s = 0.0
                try:
                    problem = self._receive()
                    if not problem:
                        return self._found()
                except CannotResume as error:
                    problem = str(error)
                    self._start_over()
                except TryAgain as error:
                    problem, wait_s = str(error), error.wait_s
                if self._size > most:
                    budget.renew()
                    most = self._size
                self._out.flush()  # a kill while waiting loses nothing
                if self._size:
                    problem += f" after {self._size}{f' of {self._num_bytes}' if self._num_bytes else ''} bytes"
                budget.failed(problem, wait_s)

    def _take_up(self) -> None:
        """Count and digest what an earlier attempt left."""
        self._out.seek(0)
        if self._digest is not None:
            hashlib.file_digest(self._out, lambda: self._digest)  # type: ignore[arg-type,return-value]
        self._size = self._out.seek(0, 2)
        if self._num_bytes is not None and self._size > self._num_bytes:
            self._start_over()

    def _is_whole(self) -> bool:
        """Tell whether an earlier attempt had it all, and ended before it could say so."""
        if self._num_bytes is not None:
            return self._size == self._num_bytes
        return self._size > 0 and self._digest is not None and self._found() == self._identity

    def _found(self) -> str:
        return self._identity if self._digest is None else f"{self._kind}:{self._digest.hexdigest()}"

    def _receive(self) -> str:
        """Add to the partial file what one request gives; return why no more came, nothing if it is whole."""
        version = self._version()
        if self._size and self._digest is None and not version:
            self._start_over("the server does not tell versions apart")
        start = self._size
        with self._storage.read(self._path, start, version) as body:
            if self._kind in ("etag", "version") and body.version != self._value:
                what = "ETag" if self._kind == "etag" else self._kind
                raise self._changed(f"expected {what} {self._value}, got {body.version or 'none'}")
            if body.start and self._digest is None and body.version != version:
                self._start_over()
                return "the server has another version now"
            if None not in (self._num_bytes, body.num_bytes) and self._num_bytes != body.num_bytes:
                raise self._changed(f"expected {self._num_bytes} bytes, it has {body.num_bytes}")
            if start and not body.start:
                self._start_over("the server cannot continue a download")
            if self._kind == "name" and not body.start and body.version:
                _version_note(self._part).write_text(body.version, encoding="utf-8")
            self._write(body)
            whole = body.num_bytes if self._num_bytes is None else self._num_bytes
        return "the server closed" if whole is not None and self._size < whole else ""

    def _write(self, body: Body) -> None:
        """Add a body to the partial file as it comes."""
        unreported = 0
        try:
            for chunk in body.chunks:
                self._size += len(chunk)
                if self._num_bytes is not None and self._size > self._num_bytes:
                    raise self._changed(f"it is longer than {self._num_bytes} bytes")
                self._out.write(chunk)
                if self._digest is not None:
                    self._digest.update(chunk)
                unreported += len(chunk)
                if unreported >= _TICK_BYTES:
                    self._storage.report.tick(num_bytes=unreported)
                    unreported = 0
        except Changed:
            self._start_over()
            raise
        finally:
            self._storage.report.tick(num_bytes=unreported)

    def _changed(self, found: str) -> Changed:
        return Changed(f"{self._where}: changed on the server: {found}. Run again.")

    def _start_over(self, reason: str = "") -> None:
        """Empty the partial file."""
        if reason:
            self._storage.report.say(f"{self._where}: {reason}, starting over")
        self._out.seek(0)
        self._out.truncate()
        _version_note(self._part).unlink(missing_ok=True)
        self._size, self._digest = 0, self._new_digest()

    def _new_digest(self) -> "hashlib._Hash | None":
        return new_digest(self._kind, self._num_bytes) if is_checksum(self._identity) else None

    def _version(self) -> str:
        """Return the version of the partial file's bytes, as the storage calls it; empty if unknown."""
        if self._kind in ("etag", "version"):
            return self._value
        note = _version_note(self._part)
        return note.read_text(encoding="utf-8") if note.is_file() else ""


def _version_note(part: Path) -> Path:
    """Return the file beside a partial one that says of which version its bytes are."""
    return part.with_name(f"{part.name}.version")
