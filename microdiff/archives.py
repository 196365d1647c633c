"""Read archive members safely: never onto disk, never more bytes than a member may have."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microdiff.errors import SourceError

MAX_MEMBER_BYTES = 256 * 2**20
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile bounds what one read expands for no other


class BadMember(Exception):
    """A member cannot be read: damaged, encrypted, or compressed in an unknown way."""


class LargeMember(Exception):
    """A member is larger than the caller allows."""


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive.

    Raises:
        SourceError: It is not a zip archive, or its beginning or end is missing.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not a complete zip archive ({error}). Remove it and run again.") from error
    with archive:
        if any(member.header_offset < 0 for member in archive.infolist()):
            raise SourceError(
                f"{path}: not a complete zip archive (its beginning is missing). Remove it and run again."
            )
        yield archive


def read_member(archive: zipfile.ZipFile, name: str, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
    """Return a member's bytes.

    Raises:
        KeyError: There is no such member.
        BadMember: It is damaged or cannot be decompressed.
        LargeMember: It has more than `max_bytes`, whatever its header says.
    """
    compression = archive.getinfo(name).compress_type
    if compression not in _COMPRESSIONS:
        raise BadMember(f"{name}: compressed by method {compression}, expected stored or deflated")
    try:
        with archive.open(name) as file:
            data = file.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise LargeMember(f"{name}: more than {max_bytes} bytes")
            return data
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, UnicodeDecodeError, RuntimeError) as error:
        raise BadMember(f"{name}: {error}") from error
