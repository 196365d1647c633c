"""Read archive members safely: never onto disk, never more bytes than a member may have."""

import gzip
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.tar import TarReader
from microdiff.storage.fetched_source import remedy

MAX_MEMBER_BYTES = 256 * 2**20
MAX_LINE_BYTES = 16 * 2**20
_GZIP = b"\x1f\x8b"
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
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
        raise SourceError(f"{path}: not a complete zip archive ({error}). {remedy(path)}") from error
    with archive:
        if any(member.header_offset < 0 for member in archive.infolist()):
            raise SourceError(f"{path}: not a complete zip archive (its beginning is missing). {remedy(path)}")
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


def read_picture(archive: zipfile.ZipFile, name: str) -> bytes | Reason:
    """Return a member's bytes, or why it cannot become a picture.

    As in tar archives, a link or a member whose path is absolute or leads out of the archive is not followed.

    Raises:
        KeyError: There is no such member.
    """
    if stat.S_ISLNK(archive.getinfo(name).external_attr >> 16) or name.startswith("/") or ".." in name.split("/"):
        return Reason.UNSAFE_MEMBER
    try:
        return read_member(archive, name)
    except BadMember:
        return Reason.UNDECODABLE
    except LargeMember:
        return Reason.TOO_LARGE


class DamagedArchive(SourceError):
    """An archive is damaged or its end is missing; what could be read was."""


@dataclass(frozen=True)
class TarMember:
    """A member of a tar archive.

    Attributes:
        name: As the archive has it; see `stem` for what is left of odd ones.
        data: Its bytes; None where there is a problem.
        problem: Why it is not read: it is no plain file or its path leads out of the archive, or it is too large.
    """

    name: str
    data: bytes | None = None
    problem: Reason | None = None

    @property
    def content(self) -> bytes:
        """The bytes of a member without a problem.

        Raises:
            ValueError: There is a problem.
        """
        if self.data is None:
            raise ValueError(f"{self.name}: {self.problem}")
        return self.data


def read_tar(path: Path, wanted: Callable[[str], bool], max_bytes: int = MAX_MEMBER_BYTES) -> Iterator[TarMember]:
    """Yield the members of a tar archive that are no folders, in its order, in one pass and in bounded memory.

    Compression by gzip is recognised by content: names lie. Members that are links, devices or sparse, or whose path
    is absolute or leads out of the archive, are never followed: they come as problems.

    Args:
        path: The archive.
        wanted: Tells by name which members to yield.
        max_bytes: Largest member to read.

    Raises:
        DamagedArchive: It is not a tar archive, or is damaged, after all members that can be read.
    """
    with _open_tar(path) as tar:
        for name, kind, num_bytes in tar.headers():
            if kind == "folder" or not wanted(name):
                continue
            if kind == "other" or name.startswith("/") or ".." in name.split("/"):
                yield TarMember(name, problem=Reason.UNSAFE_MEMBER)
            elif num_bytes > max_bytes:
                yield TarMember(name, problem=Reason.TOO_LARGE)
            elif len(data := tar.read()) == num_bytes:
                yield TarMember(name, data)


def salvage_tar(path: Path, wanted: Callable[[str], bool]) -> Iterator[TarMember]:
    """Yield the members of a tar archive as `read_tar` does, but make damage a member of its own.

    It comes last, is named after the archive, and its problem is `DAMAGED_ARCHIVE`: what lies behind the damage is
    counted, and does not cost what was read.

    Raises:
        SourceError: Nothing that is wanted can be read.
    """
    found = False
    try:
        for member in read_tar(path, wanted):
            found = True
            yield member
    except DamagedArchive:
        if not found:
            raise
        yield TarMember(f"{path.name.partition('.')[0]}_damaged", problem=Reason.DAMAGED_ARCHIVE)
    if not found:
        raise SourceError(f"{path}: holds none of the files expected")


def read_tar_lines(path: Path, suffix: str) -> Iterator[bytes]:
    """Yield the lines of the first file in a tar archive whose name ends in `suffix`.

    A line of more than `MAX_LINE_BYTES` is cut off there.

    Raises:
        DamagedArchive: The archive is damaged; after the lines that can be read.
        SourceError: It has no such file.
    """
    found = False
    with _open_tar(path) as tar:
        for name, kind, _ in tar.headers():
            if not found and kind == "file" and name.endswith(suffix):
                found = True
                yield from tar.lines(MAX_LINE_BYTES)
    if not found:
        raise SourceError(f"{path}: has no file ending in {suffix}")


def is_picture(name: str) -> bool:
    """Tell by its name whether a member is a picture. Hidden files are not."""
    return name.lower().endswith(_PICTURES) and stem(name) != ""


def stem(name: str) -> str:
    """Return a member's name without folders and from its first point on, as WebDataset takes it."""
    return name.rstrip("/").rpartition("/")[2].partition(".")[0]


@contextmanager
def _open_tar(path: Path) -> Iterator[TarReader]:
    with path.open("rb") as file:
        is_gzip = file.read(len(_GZIP)) == _GZIP
    with cast("IO[bytes]", gzip.open(path)) if is_gzip else path.open("rb") as stream:
        tar = TarReader(stream)
        yield tar
        if tar.problem is not None:
            raise DamagedArchive(f"{path}: not a complete tar archive ({tar.problem}). {remedy(path)}")
