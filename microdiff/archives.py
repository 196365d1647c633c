"""Read archive members safely: never onto disk, never more bytes than a member may have."""

import bz2
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from microdiff.errors import SourceError
from microdiff.ledger import Reason

MAX_MEMBER_BYTES = 256 * 2**20
MAX_LINE_BYTES = 16 * 2**20
_CHUNK_BYTES = 2**20
_TAR_END = bytes(2 * tarfile.BLOCKSIZE)
_OPENERS: tuple[tuple[bytes, Callable[[Path], IO[bytes]]], ...] = (
    (b"\x1f\x8b", cast("Callable[[Path], IO[bytes]]", gzip.open)),
    (b"BZh", cast("Callable[[Path], IO[bytes]]", bz2.open)),
    (b"\xfd7zXZ\x00", cast("Callable[[Path], IO[bytes]]", lzma.open)),
)
_DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, OverflowError)
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


class DamagedArchive(SourceError):
    """An archive is damaged or its end is missing; what came before was read."""


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


def read_tar(
    path: Path, wanted: Callable[[str], bool], max_bytes: int = MAX_MEMBER_BYTES, folders: bool = False
) -> Iterator[TarMember]:
    """Yield the members of a tar archive in its order, in one pass and in bounded memory.

    Compression (gzip, bzip2, xz) is recognised by content: names lie. Members that are links, devices or sparse, or
    whose path is absolute or leads out of the archive, are never followed: they come as problems.

    Args:
        path: The archive.
        wanted: Tells by name which members to yield.
        max_bytes: Largest member to read.
        folders: Whether folders are yielded too, without data.

    Raises:
        DamagedArchive: It is not a tar archive, or is damaged, after its readable members.
    """
    try:
        with _decompressed(path) as stream, tarfile.open(fileobj=cast("IO[bytes]", _Bounded(stream)), mode="r:") as tar:
            for member in _members(tar):
                if wanted(member.name) and (folders or not member.isdir()):
                    yield _read(tar, member, max_bytes)
            _check_end(stream, tar.offset)
    except _DAMAGED as error:
        raise DamagedArchive(f"{path}: not a complete tar archive ({error})") from error


def read_tar_lines(path: Path, suffix: str) -> Iterator[bytes]:
    """Yield the lines of the first member of a tar archive whose name ends in `suffix`.

    Raises:
        DamagedArchive: The archive is damaged.
        SourceError: It has no such member, or one with a line of more than `MAX_LINE_BYTES`.
    """
    try:
        with _decompressed(path) as stream, tarfile.open(fileobj=cast("IO[bytes]", _Bounded(stream)), mode="r:") as tar:
            for member in _members(tar):
                file = tar.extractfile(member) if member.isreg() and member.name.endswith(suffix) else None
                if file is not None:
                    yield from _lines(file, f"{path}: {member.name}")
                    return
    except _DAMAGED as error:
        raise DamagedArchive(f"{path}: not a complete tar archive ({error})") from error
    raise SourceError(f"{path}: has no member ending in {suffix}")


def stem(name: str) -> str:
    """Return a member's name without folders and from its first point on, as WebDataset takes it."""
    return PurePosixPath(name).name.partition(".")[0]


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    remembered: list[tarfile.TarInfo] = vars(tar)["members"]
    while (member := tar.next()) is not None:
        remembered.clear()  # tarfile keeps every one: gigabytes, for ten million
        yield member


def _lines(file: IO[bytes], where: str) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise SourceError(f"{where}: a line of more than {MAX_LINE_BYTES} bytes")
        yield line


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int) -> TarMember:
    parts = PurePosixPath(member.name).parts
    if member.isdir():
        return TarMember(member.name)
    if (
        member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE)
        or member.issparse()
        or ".." in parts
        or parts[:1] == ("/",)
    ):
        return TarMember(member.name, problem=Reason.UNSAFE_MEMBER)
    if member.size > max_bytes:
        return TarMember(member.name, problem=Reason.TOO_LARGE)
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name}: {len(data)} of {member.size} bytes")
    return TarMember(member.name, data)


@contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        head = file.read(8)
    opener = next((opener for magic, opener in _OPENERS if head.startswith(magic)), lambda path: path.open("rb"))
    with opener(path) as stream:
        yield stream


class _Bounded:
    """A stream that refuses to give very much at once: a header can ask tarfile for any size."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_MEMBER_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)


def _check_end(stream: IO[bytes], offset: int) -> None:
    """Check that the archive has its end mark, and read on, so that the compression's checksum is checked too.

    Raises:
        tarfile.ReadError: It has not: tarfile takes a damaged header for the end.
    """
    stream.seek(offset)
    if stream.read(len(_TAR_END)) != _TAR_END:
        raise tarfile.ReadError(f"no end of archive after {offset} bytes")
    while stream.read(_CHUNK_BYTES):
        pass
