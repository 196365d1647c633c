"""A remote that is a folder: on this machine, or on a file system that it mounts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from microdiff.errors import SourceError
from microdiff.storage.objects import Body, NoSuchObject, TryAgain

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class LocalStore:
    """A folder of objects."""

    root: Path

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self.root)

    @contextmanager
    def read(self, path: str, start: int = 0) -> Iterator[Body]:
        """Open an object."""
        size = self.size(path)
        try:
            file = (self.root / path).open("rb")
        except OSError as error:
            raise SourceError(f"{self.root / path}: {error.strerror}. Ask its owner for access.") from None
        with file:
            file.seek(start)
            yield Body(start, size, _chunks(file))

    def size(self, path: str) -> int:
        """Return an object's size in bytes."""
        try:
            return (self.root / path).stat().st_size
        except FileNotFoundError:
            if not self.root.is_dir():
                raise SourceError(f"{self.root}: no such folder. Mount it, or correct the remote's URL.") from None
            raise NoSuchObject(f"{self.root / path}: no such object") from None
        except PermissionError:
            raise SourceError(f"{self.root / path}: may not be read. Ask its owner for access.") from None


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
    except OSError as error:  # a mounted file system has its moments
        raise TryAgain(f"reading broke off ({error.strerror})") from None
