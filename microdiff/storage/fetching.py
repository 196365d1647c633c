"""One file from a storage, whole or not at all: resumed after a break, verified while its bytes arrive."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from microdiff.core.files import sync
from microdiff.storage import Body, CannotResume, Changed, Damaged, Storage, TryAgain, pages
from microdiff.storage.checksums import is_checksum, new_digest
from microdiff.storage.codings import peek
from microdiff.storage.pages import HEAD_BYTES, page_in_place_of
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
        PageInstead: What came is a page, such as one that asks for a login; then `part` is removed.
        Damaged: The bytes are not those that `identity` is the checksum of, twice; then `part` is removed.
        SourceError: It cannot be had.
    """
    where, sender, times_wrong = f"{storage.name}/{path}", storage, 0
    while True:
        transfer = _Transfer(sender, path, part, identity, num_bytes)
        found = transfer.complete(attempts)
        is_right = found == identity and is_checksum(identity)
        if not is_right and (page := page_in_place_of(path, _head(part))):
            transfer.discard()
            raise pages.refusal(where, page, storage.setting)
        if found == identity:
            sync(part)
            transfer.forget_notes()
            return
        transfer.discard()
        problem = f"{where}: expected {identity}, got {found}"
        if sender is storage and transfer.may_be_as_sent:
            storage.report.say(f"{problem} after decompressing what the server says it compressed, taking it as it is")
            sender = storage.as_sent()
            continue
        sender = storage
        times_wrong += 1
        if times_wrong == 2:
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
        self._sent_bytes: int | None = None  # of a decoded body, before it was
        self._decodes = False  # whether the partial file's bytes were decoded
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
                wait_s, remedy = 0.0, "the network"
                try:
                    problem = self._receive()
                    if not problem:
                        return self._found()
                except CannotResume as error:
                    problem = str(error)
                    self._start_over()
                except TryAgain as error:
                    problem, wait_s, remedy = str(error), error.wait_s, error.remedy
                if self._size > most:
                    budget.renew()
                    most = self._size
                self._out.flush()  # a kill while waiting loses nothing
                if self._size:
                    problem += f" after {self._size}{f' of {self._num_bytes}' if self._num_bytes else ''} bytes"
                budget.failed(problem, wait_s, remedy)

    @property
    def may_be_as_sent(self) -> bool:
        """Whether the file may be what the server sent before it was decoded: one that is compressed itself."""
        return self._decodes and (self._sent_bytes is None or self._num_bytes in (None, self._sent_bytes))

    def discard(self) -> None:
        """Remove the partial file."""
        self._part.unlink()
        self.forget_notes()

    def forget_notes(self) -> None:
        """Remove what is noted of the partial file."""
        _version_note(self._part).unlink(missing_ok=True)
        _decoded_note(self._part).unlink(missing_ok=True)

    def _take_up(self) -> None:
        """Count and digest what an earlier attempt left, unless it cannot be continued."""
        if _decoded_note(self._part).is_file():
            self._start_over()
            return
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
        if self._decodes:
            self._start_over("the server compresses what it sends, and cannot continue")
        start = self._size
        with self._storage.read(self._path, start, version) as body:
            first, chunks = (b"", body.chunks) if body.start else peek(body.chunks, HEAD_BYTES)
            if not body.start and not first and self._num_bytes and not body.decoded:
                return "the server sent nothing"
            self._refuse_a_page(body, first)
            if self._kind in ("etag", "version") and body.version != self._value:
                what = "ETag" if self._kind == "etag" else self._kind
                raise self._changed(f"expected {what} {self._value}, got {body.version or 'none'}")
            if body.start and self._digest is None and body.version != version:
                self._start_over()
                return "the server has another version now"
            if not body.decoded and None not in (self._num_bytes, body.num_bytes) and self._num_bytes != body.num_bytes:
                raise self._changed(f"expected {self._num_bytes} bytes, it has {body.num_bytes}")
            if start and not body.start:
                self._start_over("the server cannot continue a download")
            if self._kind == "name" and not body.start and body.version:
                _version_note(self._part).write_text(body.version, encoding="utf-8")
            if body.decoded:
                _decoded_note(self._part).touch()
                self._decodes, self._sent_bytes = True, body.num_bytes
            self._write(body, chunks)
            return self._shortfall(body)

    def _refuse_a_page(self, body: Body, first: bytes) -> None:
        """Raise PageInstead if a body is a page, unless a checksum will tell and nothing is lost by waiting for it."""
        may_be_right = body.num_bytes in (None, self._num_bytes) and not self._size
        if self._digest is not None and may_be_right:
            return
        if page := page_in_place_of(self._path, first):
            raise pages.refusal(self._where, page, self._storage.setting)

    def _shortfall(self, body: Body) -> str:
        """Return what is wrong with the size of the partial file, a body later; nothing if it is whole."""
        if not body.decoded:
            whole = body.num_bytes if self._num_bytes is None else self._num_bytes
            return "the server closed" if whole is not None and self._size < whole else ""
        # What was stated may be the size of what was sent, or of the file.
        if self._digest is None and self._num_bytes not in (None, self._size, body.num_bytes):
            size = self._size
            self._start_over()
            raise self._changed(f"expected {self._num_bytes} bytes, it has {size}")
        return ""

    def _write(self, body: Body, chunks: Iterator[bytes]) -> None:
        """Add the bytes of a body to the partial file as they come."""
        unreported = 0
        try:
            for chunk in chunks:
                self._size += len(chunk)
                if not body.decoded and self._num_bytes is not None and self._size > self._num_bytes:
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
        self.forget_notes()
        self._size, self._digest, self._decodes = 0, self._new_digest(), False

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


def _decoded_note(part: Path) -> Path:
    """Return the file beside a partial one that says that its bytes were decoded, and cannot be continued."""
    return part.with_name(f"{part.name}.decoded")


def _head(part: Path) -> bytes:
    with part.open("rb") as file:
        return file.read(HEAD_BYTES)
