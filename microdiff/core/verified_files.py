"""Files whose bytes are hashed as they are read: nothing is computed from bytes that are not the recorded ones."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, cast

from microdiff.errors import DamagedError

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class InputFile:
    """A file that a step reads, and what is recorded of it.

    Attributes:
        path: Where it is.
        num_bytes: Its size.
        sha256: Of its bytes, 64 hexadecimal digits.
    """

    path: Path
    num_bytes: int
    sha256: str

    def read(self) -> bytes:
        """Return all bytes.

        Raises:
            DamagedError: They are not the recorded ones, or the file is not there.
        """
        with self.open() as file:
            return file.read()

    @contextmanager
    def open(self) -> "Iterator[HashingReader]":
        """Give the file to be read from its beginning on; when the block ends, what was not read is read as well.

        Raises:
            DamagedError: The bytes are not the recorded ones, or the file is not there. Whatever else the block
                raised over such bytes gives way to it. What the block has made of the file must not be used then.
        """
        try:
            file = HashingReader(self.path)
        except FileNotFoundError:
            raise DamagedError(self.path, self.sha256, "it is missing") from None
        with file:
            try:
                yield file
            except OSError:  # it cannot be read, or something else cannot: that says nothing of its bytes
                raise
            except Exception:  # whatever a parser makes of damaged bytes; of whole ones it goes on as it came
                self._compare(file)
                raise
            self._compare(file)

    def check(self) -> Path:
        """Hash the file and return its path.

        Raises:
            DamagedError: It is not the recorded one, or not there.
        """
        with self.open():
            return self.path

    def is_whole(self) -> bool:
        """Tell whether the file is there, and is the recorded one."""
        try:
            return self.path.stat().st_size == self.num_bytes and self.check() == self.path
        except (DamagedError, FileNotFoundError):
            return False

    def _compare(self, file: "HashingReader") -> None:
        found = file.digest()
        if found != self.sha256:
            raise DamagedError(self.path, self.sha256, found)


Input = Path | InputFile  # one whose bytes are taken as they are, or one that is verified


@contextmanager
def open_input(file: Input) -> Iterator[BinaryIO]:
    """Give a file to be read once from its beginning on; see `InputFile.open` for one that is verified."""
    if isinstance(file, InputFile):
        with file.open() as reader:
            yield cast("BinaryIO", reader)
    else:
        with file.open("rb") as opened:
            yield opened


def path_of(file: Input) -> Path:
    """Return where a file is."""
    return file.path if isinstance(file, InputFile) else file


class HashingReader(RawIOBase):
    """A file that is read once from its beginning to its end, and hashed on the way.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("rb", buffering=0)
        self._hash = hashlib.sha256()

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes: `size` of them, all that are left if it is negative.

        Raises:
            OSError: They cannot be read; it names the file, which the system's error does not.
        """
        try:
            if size is None or size < 0:
                data = self._file.read()
            else:
                data = b""
                while len(data) < size and (more := self._file.read(size - len(data))):
                    data = data + more if data else more
        except OSError as error:
            number = error.errno or errno.EIO
            raise OSError(number, os.strerror(number), str(self._path)) from None
        self._hash.update(data)
        return data

    def digest(self) -> str:
        """Read what is left, and return the SHA-256 of the whole file."""
        while self.read(_CHUNK_BYTES):
            pass
        return self._hash.hexdigest()

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
