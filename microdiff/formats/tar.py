"""Read a tar archive from its beginning to its end: in one pass, in bounded memory, and past damage where that can be.

tarfile remembers every member (gigabytes, for ten million of them), takes a damaged header for the end of the archive,
reads headers of any size, and is slow where members are small.

Formats: POSIX ustar and pax, GNU, V7. https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html,
https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import IO, Literal, NamedTuple, cast

_BLOCK = 512
_PIECE_BYTES = 2**20
_MAX_HEADER_BYTES = 2**20  # of a long name or an extended header
_MAX_PADDING = 2**16 + 2 * _BLOCK  # of zeros behind the last member: writers fill up records of 10 KiB, few larger ones
_MARK, _MARK_AT = b"ustar", 257
_REGULAR = (b"0", b"\0", b"7")
_FOLDER = b"5"
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", _FOLDER, b"6")  # links, devices, folders, pipes
_SPARSE = b"S"
_LONG_NAME = b"L"
_LONG_LINK = b"K"
_EXTENDED = (b"x", b"X")
_EXTENDED_FOR_ALL = b"g"


class Header(NamedTuple):
    """What an archive says of a member: its path, what it is, and how many bytes it has."""

    name: str
    kind: Literal["file", "folder", "other"]
    num_bytes: int


class _Raw(NamedTuple):
    """One header block."""

    name: bytes
    kind: bytes
    num_bytes: int
    more_sparse: bool


class TarReader:
    """The members of an archive, one after the other.

    Attributes:
        problem: What is wrong with the archive, as far as it has been read; None if nothing is.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.problem: str | None = None
        self._stream = stream
        self._piece = b""  # what has been read, of which `_at` bytes have been taken
        self._at = 0
        self._position = 0
        self._data = 0  # bytes of the current member not yet taken
        self._padding = 0

    def headers(self) -> Iterator[Header]:
        """Yield every member's header; `read` and `lines` then give its data.

        Behind a damaged header the search goes on for the next good one.
        """
        name: bytes | None = None
        facts: dict[bytes, bytes] = {}
        ended = lost = is_any = False
        end_at = 0
        while block := self._next_block(searching=ended or lost):
            if not block.strip(b"\0"):
                ended, end_at = True, end_at if ended else self._position
                continue
            if ended:
                self._note(f"data behind the end of the archive, before byte {self._position}")
            # The sum of any block is right now and then: one found by searching must have the mark as well.
            is_marked = block[_MARK_AT : _MARK_AT + len(_MARK)] == _MARK
            raw = _parse(block) if is_marked or not (ended or lost) else None
            if raw is None or (_is_extension(raw) and raw.num_bytes > _MAX_HEADER_BYTES):
                self._note(f"a damaged header before byte {self._position}")
                lost, name, facts = True, None, {}
                continue
            ended = lost = False
            self._begin(0 if raw.kind in _WITHOUT_DATA else raw.num_bytes)
            if raw.kind == _LONG_NAME:
                name = self.read().rstrip(b"\0")
            elif raw.kind in _EXTENDED:
                facts = self._extended()
            elif not _is_extension(raw):
                while raw.more_sparse:  # blocks that continue the header
                    more = self._take(_BLOCK)
                    raw = raw._replace(more_sparse=len(more) == _BLOCK and more[504] != 0)
                yield self._header(raw, name, facts)
                name, facts, is_any = None, {}, True
        if not ended:
            self._note(f"no end of archive after {self._position} bytes")
        elif is_any and self._position - end_at > _MAX_PADDING:
            # A transfer that broke off, or a hole in a disk, leaves zeros where members were.
            self._note(f"{self._position - end_at} bytes of zeros behind the last member")

    def read(self) -> bytes:
        """Return what is left of the current member's data: less than its header says where the archive ends."""
        data = self._take(self._data)
        self._data -= len(data)
        return data

    def lines(self, max_bytes: int) -> Iterator[bytes]:
        """Yield the lines of the current member; one of more than `max_bytes` is cut off there."""
        with io.BufferedReader(cast("io.RawIOBase", _Data(self)), _PIECE_BYTES) as file:
            while line := file.readline(max_bytes):
                yield line
                while len(line) == max_bytes and not line.endswith(b"\n"):
                    line = file.readline(max_bytes)

    def take(self, most: int) -> bytes:
        """Return up to `most` bytes of the current member's data; none at its end."""
        data = self._take(min(most, self._data))
        self._data -= len(data)
        return data

    def _header(self, raw: _Raw, name: bytes | None, facts: dict[bytes, bytes]) -> Header:
        """Put together what a header block and the extensions before it say, and set the size of the data."""
        num_bytes = raw.num_bytes
        if b"size" in facts and raw.kind not in _WITHOUT_DATA:
            num_bytes = int(facts[b"size"])
            self._begin(num_bytes)
        sparse = raw.kind == _SPARSE or any(key.startswith(b"GNU.sparse.") for key in facts)
        path = facts.get(b"GNU.sparse.name") or facts.get(b"path") or name or raw.name
        text = path.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if raw.kind == _FOLDER or (raw.kind in _REGULAR and text.endswith("/")):
            return Header(text.rstrip("/"), "folder", num_bytes)
        return Header(text, "file" if raw.kind in _REGULAR and not sparse else "other", num_bytes)

    def _extended(self) -> dict[bytes, bytes]:
        """Return the records of an extended header: `<length> <key>=<value>` and a line feed, length of it all."""
        data, at = self.read(), 0
        facts: dict[bytes, bytes] = {}
        try:
            while at < len(data) and data[at]:
                blank = data.index(b" ", at, at + 20)
                end = at + int(data[at:blank])
                if not blank < end <= len(data):
                    raise ValueError(f"a record of {end - at} bytes")
                key, _, value = data[blank + 1 : end - 1].partition(b"=")
                facts[key] = value
                at = end
            if int(facts.get(b"size", b"0")) < 0:
                raise ValueError("a negative size")
        except ValueError as error:
            self._note(f"a damaged extended header before byte {self._position} ({error})")
            facts.pop(b"size", None)
        return facts

    def _begin(self, num_bytes: int) -> None:
        self._data = num_bytes
        self._padding = -num_bytes % _BLOCK

    def _next_block(self, searching: bool) -> bytes:
        """Return the block behind the current member's data; none at the archive's end.

        Args:
            searching: Whether to leave out blocks of zeros, and those that lack a header's mark if one is seen.
        """
        skipped = self._data + self._padding
        self._data = self._padding = 0
        while skipped and (piece := self._take(min(skipped, _PIECE_BYTES))):
            skipped -= len(piece)
        if searching:
            self._search()
        return self._take(_BLOCK)

    def _search(self) -> None:
        """Skip what has been read up to a block with a header's mark, or as far as it goes; note what is not zero."""
        start = self._at
        found = self._piece.find(_MARK, start + _MARK_AT)
        while found >= 0 and (found - _MARK_AT - start) % _BLOCK:
            found = self._piece.find(_MARK, found + 1)
        end = found - _MARK_AT if found >= 0 else len(self._piece) - (len(self._piece) - start) % _BLOCK
        self._at = end
        self._position += end - start
        if self._piece.count(0, start, end) < end - start:
            self._note(f"data behind the end of the archive, before byte {self._position}")

    def _take(self, size: int) -> bytes:
        """Return the next bytes of the archive: `size`, or fewer at its end."""
        data = self._piece[self._at : self._at + size]
        self._at += len(data)
        if len(data) < size:
            pieces = [data]
            size -= len(data)
            while size and self._refill():
                pieces.append(self._piece[:size])
                self._at = len(pieces[-1])
                size -= self._at
            data = b"".join(pieces)
        self._position += len(data)
        return data

    def _refill(self) -> bool:
        """Read on; damaged compression is the end."""
        self._piece, self._at = b"", 0
        if self._stream.closed:
            return False
        try:
            # Only what one read of the file gives, so that damage costs nothing that comes before it.
            self._piece = cast("io.BufferedReader", self._stream).read1(_PIECE_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self._note(f"{error}, after {self._position} bytes")
            self._stream.close()
        return len(self._piece) > 0

    def _note(self, problem: str) -> None:
        self.problem = self.problem or problem


class _Data(io.RawIOBase):
    """The current member's data as a file."""

    def __init__(self, tar: TarReader) -> None:
        self._tar = tar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._tar.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _is_extension(raw: _Raw) -> bool:
    return raw.kind in (_LONG_NAME, _LONG_LINK, _EXTENDED_FOR_ALL, *_EXTENDED)


def _parse(block: bytes) -> _Raw | None:
    """Return what a header block says, or None if it is none."""
    if len(block) < _BLOCK:
        return None
    try:
        if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            return None
        num_bytes = _number(block[124:136])
    except ValueError:
        return None
    name, kind = block[:100].partition(b"\0")[0], block[156:157]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return _Raw(name, kind, num_bytes, more_sparse=kind == _SPARSE and block[482] != 0)


def _number(field: bytes) -> int:
    """Return a number: octal digits, or binary behind a byte of 0x80.

    Raises:
        ValueError: It is neither, or negative.
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits and not digits.isdigit():
        raise ValueError(f"not a number: {field!r}")
    return int(digits or b"0", 8)
