"""Read members of tar archives safely: never onto disk, never more bytes than a member may have."""

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.members import is_unsafe
from microdiff.formats.tar import TarReader
from microdiff.formats.text import BadTextError, utf_8_lines
from microdiff.storage.fetched_source import remedy

MAX_MEMBER_BYTES = 256 * 2**20
MAX_LINE_BYTES = 16 * 2**20
_GZIP = b"\x1f\x8b"


class DamagedArchive(SourceError):
    """An archive is damaged or its end is missing; what could be read was."""


@dataclass(frozen=True)
class TarMember:
    """A member of a tar archive.

    Attributes:
        name: As the archive has it; bytes that are not UTF-8 are halves of surrogate pairs (`surrogateescape`).
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
        wanted: Tells by name which members to yield; it is asked about folders, too, whose names end in `/`.
        max_bytes: Largest member to read.

    Raises:
        DamagedArchive: It is not a tar archive, or is damaged, after all members that can be read.
    """
    with _open_tar(path) as tar:
        for name, kind, num_bytes in tar.headers():
            if not wanted(f"{name}/" if kind == "folder" else name) or kind == "folder":
                continue
            if kind == "other" or is_unsafe(name):
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
    """Yield the lines, in UTF-8, of the first file in a tar archive whose name ends in `suffix`.

    A line of more than `MAX_LINE_BYTES` is cut off there.

    Raises:
        DamagedArchive: The archive is damaged; after the lines that can be read.
        SourceError: It has no such file, or its text is not in the encoding that its first bytes state.
    """
    found = False
    with _open_tar(path) as tar:
        for name, kind, _ in tar.headers():
            if not found and kind == "file" and name.endswith(suffix):
                found = True
                try:
                    yield from utf_8_lines(tar.lines(MAX_LINE_BYTES))
                except BadTextError as error:
                    raise SourceError(f"{path}: {name}: {error}. {remedy(path)}") from error
    if not found:
        raise SourceError(f"{path}: has no file ending in {suffix}")


@contextmanager
def _open_tar(path: Path) -> Iterator[TarReader]:
    with path.open("rb") as file:
        is_gzip = file.read(len(_GZIP)) == _GZIP
    with cast("IO[bytes]", gzip.open(path)) if is_gzip else path.open("rb") as stream:
        tar = TarReader(stream)
        yield tar
        if tar.problem is not None:
            raise DamagedArchive(f"{path}: not a complete tar archive ({tar.problem}). {remedy(path)}")
