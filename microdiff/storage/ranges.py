"""A file of a storage to read few parts of, such as the table of contents at the end of a parquet file."""

import io
from functools import partial

from microdiff.errors import SourceError
from microdiff.storage import SourceFile, Storage
from microdiff.storage.retry import retried


class RangeFile(io.RawIOBase):
    """A file that is asked for part by part: each read is a request.

    Args:
        storage: Has the file.
        file: Describes it.
    """

    def __init__(self, storage: Storage, file: SourceFile) -> None:
        super().__init__()
        self._storage = storage
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return where the next byte is."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.num_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Read bytes from where it is.

        Raises:
            SourceError: They cannot be had.
        """
        wanted = min(len(buffer), self._file.num_bytes - self._at)
        if wanted <= 0:
            return 0
        data = retried(self._storage, self._file.path, partial(self._part, self._at, wanted))
        if len(data) < wanted:
            raise SourceError(f"{self._storage.name}/{self._file.path}: ends early. Run again.")
        buffer[:wanted] = data
        self._at += wanted
        return wanted

    def _part(self, start: int, wanted: int) -> bytes:
        with self._storage.read(self._file.path, start) as body:
            skip, data = start - body.start, bytearray()
            for chunk in body.chunks:
                data += chunk[skip:] if skip else chunk
                skip = max(0, skip - len(chunk))
                if len(data) >= wanted:
                    break
        return bytes(data[:wanted])
