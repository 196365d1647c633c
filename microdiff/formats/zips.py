r"""Read zip archives that others made: never onto disk, never more bytes than a member may have.

Names are taken as they were meant: `\` separates folders as `/` does, and names that are not marked as UTF-8 but are
UTF-8 are read as such, not as code page 437. What the methods of compression are called:
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.4.5.
"""

import bz2
import copy
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.archives import MAX_MEMBER_BYTES
from microdiff.formats.members import is_unsafe, normal_path
from microdiff.storage.fetched_source import remedy

_ENCRYPTED, _UTF8 = 0x1, 0x800
_AES = 99
_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 10: "PKWARE DCL", 20: "Zstandard", 93: "Zstandard", 94: "MP3"}
_METHODS |= {95: "XZ", 96: "JPEG", 97: "WavPack", 98: "PPMd", _AES: "AES encryption"}
_PIECE_BYTES = 2**16
_FIELD = struct.Struct("<HH")  # kind and size of an extra field
_UNICODE_PATH = 0x7075
_LZMA_HEADER = struct.Struct("<BBHBI")  # version, size of the properties, and these: lc, lp, pb in one; dictionary
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, UnicodeDecodeError)


class BadMemberError(Exception):
    """A member is damaged."""


class UnsupportedMemberError(Exception):
    """A member is encrypted, or compressed in a way that cannot be read."""


class LargeMemberError(Exception):
    """A member is larger than the caller allows."""


class Refusal(NamedTuple):
    """Why a member cannot become a picture: the reason, and its cause in words where there is more to say."""

    reason: Reason
    cause: str = ""


@dataclass(frozen=True)
class ZipMember:
    """A member of a zip archive.

    Attributes:
        name: Its path with `/`; that of a folder ends in one.
        info: What the archive's directory says of it.
        path: Its path without `.` and empty parts.
    """

    name: str
    info: zipfile.ZipInfo
    path: str

    def is_same(self, other: "ZipMember") -> bool:
        """Tell whether two members have the same bytes, by what the directory says, which is checked on reading."""
        return (self.info.CRC, self.info.file_size) == (other.info.CRC, other.info.file_size)


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive.

    Raises:
        SourceError: It is not a zip archive, or its beginning or end is missing.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:  # what zipfile raises
        raise SourceError(f"{path}: not a complete zip archive ({error}). {remedy(path)}") from error
    with archive:
        if any(member.header_offset < 0 for member in archive.infolist()):
            raise SourceError(f"{path}: not a complete zip archive (its beginning is missing). {remedy(path)}")
        yield archive


def zip_members(archive: zipfile.ZipFile) -> list[ZipMember]:
    """List an archive's members in its order, folders and repeated names included."""
    return [ZipMember(name := _name(info), info, normal_path(name)) for info in archive.infolist()]


def read_member(archive: zipfile.ZipFile, member: ZipMember, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
    """Return a member's bytes.

    Raises:
        BadMemberError: It is damaged.
        UnsupportedMemberError: It is encrypted, or compressed in a way that cannot be read; the message says which.
        LargeMemberError: It has more than `max_bytes`, whatever its header says.
    """
    info = member.info
    read = {zipfile.ZIP_STORED: _read, zipfile.ZIP_DEFLATED: _read, zipfile.ZIP_BZIP2: _read_bzip2}
    read[zipfile.ZIP_LZMA] = _read_lzma
    if info.compress_type == _AES:
        raise UnsupportedMemberError("encrypted (AES)")
    if info.flag_bits & _ENCRYPTED:
        raise UnsupportedMemberError("encrypted")
    if info.compress_type not in read:
        method = _METHODS.get(info.compress_type, "an unknown one")
        raise UnsupportedMemberError(f"compressed by method {info.compress_type} ({method})")
    try:
        data = read[info.compress_type](archive, info, max_bytes + 1)
    except (NotImplementedError, RuntimeError) as error:  # by zipfile: a version it cannot read; a password is needed
        raise UnsupportedMemberError(str(error)) from error
    except _DAMAGE as error:
        raise BadMemberError(f"{member.name}: {error}") from error
    if len(data) > max_bytes:
        raise LargeMemberError(f"{member.name}: more than {max_bytes} bytes")
    return data


def read_picture(archive: zipfile.ZipFile, member: ZipMember) -> bytes | Refusal:
    """Return a member's bytes, or why it cannot become a picture.

    As in tar archives, a link or a member whose path is absolute or leads out of the archive is not followed.
    """
    if stat.S_ISLNK(member.info.external_attr >> 16) or is_unsafe(member.name):
        return Refusal(Reason.UNSAFE_MEMBER)
    try:
        return read_member(archive, member)
    except UnsupportedMemberError as error:
        return Refusal(Reason.UNSUPPORTED_MEMBER, str(error))
    except BadMemberError as error:
        return Refusal(Reason.UNDECODABLE, str(error))
    except LargeMemberError:
        return Refusal(Reason.TOO_LARGE)


def _name(info: zipfile.ZipInfo) -> str:
    name = info.orig_filename
    if not info.flag_bits & _UTF8 and not name.isascii():
        with suppress(UnicodeError):
            raw = name.encode("cp437")
            name = (_unicode_path(info.extra, zlib.crc32(raw)) or raw).decode()
    return name.replace("\\", "/")


def _unicode_path(extra: bytes, checksum: int) -> bytes | None:
    """Return the name in the Info-ZIP Unicode Path field, if there is one and it is of the name with this CRC-32."""
    while len(extra) >= _FIELD.size:
        kind, size = _FIELD.unpack(extra[: _FIELD.size])
        field, extra = extra[_FIELD.size : _FIELD.size + size], extra[_FIELD.size + size :]
        if kind == _UNICODE_PATH and field[:1] == b"\1" and field[1:5] == checksum.to_bytes(4, "little"):
            return field[5:]
    return None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    with archive.open(info) as file:
        return file.read(most)


def _read_bzip2(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    with _compressed(archive, info) as file:
        return _expand(bz2.BZ2Decompressor(), file, info, most)


def _read_lzma(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    with _compressed(archive, info) as file:
        _, _, _, packed, dictionary = _LZMA_HEADER.unpack(file.read(_LZMA_HEADER.size))
        settings: dict[str, Any] = {"id": lzma.FILTER_LZMA1, "dict_size": min(max(dictionary, 4096), max(most, 4096))}
        packed, settings["lc"] = divmod(packed, 9)
        settings["pb"], settings["lp"] = divmod(packed, 5)
        return _expand(lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[settings]), file, info, most)


def _compressed(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Open a member's bytes as they are in the archive: zipfile does not bound what one read expands."""
    raw = copy.copy(info)
    raw.compress_type, raw.file_size = zipfile.ZIP_STORED, info.compress_size
    del raw.CRC  # it is of the bytes expanded
    return archive.open(raw)


def _expand(decompressor: Any, file: IO[bytes], info: zipfile.ZipInfo, most: int) -> bytes:
    """Decompress up to `most` bytes, and check those of a whole member against its checksum.

    Raises:
        EOFError: The compressed bytes end too early.
        BadZipFile: The checksum is another one.
    """
    pieces: list[bytes] = []
    data, left = b"", most
    while left and not decompressor.eof:
        if decompressor.needs_input and not (data := file.read(_PIECE_BYTES)):
            break
        try:
            piece = decompressor.decompress(data, left)
        except OSError as error:  # so bz2 says that its data are damaged
            raise zipfile.BadZipFile(str(error)) from error
        data = b""
        pieces.append(piece)
        left -= len(piece)
    out = b"".join(pieces)
    if left and len(out) < info.file_size:
        raise EOFError("its end is missing")
    if left and zlib.crc32(out) != info.CRC:
        raise zipfile.BadZipFile("its checksum is another one")
    return out
