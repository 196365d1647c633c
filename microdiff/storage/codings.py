"""Content codings: what a server did to bytes for the way, although it was asked for them as they are.

`Content-Encoding` is also found, wrongly, on files that are themselves compressed: Apache's AddEncoding names the gzip
of a `.tgz`, some servers a character set. So the bytes decide along with the header: only what really is compressed is
decompressed, and a file that is called `.gz` or `.tgz` keeps the one compression that is its own.
"""

import re
import zlib
from collections.abc import Iterator

from microdiff.errors import SourceError
from microdiff.storage import TryAgain

_NONE = frozenset(("", "identity", "none", "binary", "7bit", "8bit", "utf-8", "utf8", "aws-chunked"))
_ALIASES = {"x-gzip": "gzip", "gzip": "gzip", "deflate": "deflate"}
_COMPRESSED = re.compile(r"\.(gz|tgz|taz|svgz)$", re.IGNORECASE)
GZIP_MAGIC = b"\x1f\x8b"
_PIECE_BYTES = 2**18
_LOOKED_AT_BYTES = 4096


class BadCoding(ValueError):
    """What is said to be compressed is damaged or ends early."""


class UnknownCoding(SourceError):
    """Bytes are compressed in a way that is not read here."""


def codings_of(header: str) -> list[str]:
    """Return the codings that a `Content-Encoding` header names, in the order they were applied: gzip, deflate.

    Raises:
        UnknownCoding: It names another.
    """
    names = coding_names(header)
    if unknown := [name for name in names if name not in _ALIASES]:
        raise UnknownCoding(
            f"the server sends it compressed by {unknown[0]!r} (Content-Encoding), which it was not asked for; "
            "gzip and deflate can be read"
        )
    return [_ALIASES[name] for name in names]


def coding_names(header: str) -> list[str]:
    """Return the codings that a `Content-Encoding` header names, whatever they are; words that mean none left out."""
    names = (name.strip().lower() for name in header.split(","))
    return [name for name in names if name not in _NONE]


def decoded(chunks: Iterator[bytes], codings: list[str], name: str) -> tuple[Iterator[bytes], bool]:
    """Return bytes without what was done to them for the way, and whether anything was.

    Args:
        chunks: As they come.
        codings: As from `codings_of`.
        name: The file's, which tells whether gzip is its own form.

    The iterator raises BadCoding where they are damaged or end early, and whatever `chunks` raises.
    """
    is_any = False
    for coding in reversed(codings):
        head, chunks = peek(chunks, _LOOKED_AT_BYTES)
        if _is_coded(head, coding, name):
            chunks, is_any = _decompressed(chunks, coding), True
    return chunks, is_any


def peek(chunks: Iterator[bytes], num_bytes: int) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes, fewer where there are no more, and an iterator that gives them all.

    Raises:
        TryAgain: They break off before the first; where they do later, the iterator raises it behind what came.
    """
    head, broken = b"", None
    try:
        while len(head) < num_bytes and (chunk := next(chunks, b"")):
            head += chunk
    except TryAgain as error:
        if not head:
            raise
        broken = error
    return head[:num_bytes], _from(head, chunks, broken)


def _from(head: bytes, rest: Iterator[bytes], broken: TryAgain | None) -> Iterator[bytes]:
    if head:
        yield head
    if broken is not None:
        raise broken
    yield from rest


def start_of_gzip(head: bytes, most: int) -> bytes:
    """Return the first bytes of what the beginning of a gzip file holds; none if it is damaged."""
    try:
        return zlib.decompressobj(31).decompress(head, most)
    except zlib.error:
        return b""


def is_own_coding(name: str) -> bool:
    """Tell by its name whether a file is compressed by gzip itself."""
    return _COMPRESSED.search(name) is not None


def _is_coded(head: bytes, coding: str, name: str) -> bool:
    if coding == "deflate":
        return _inflater(head) is not None
    if not head.startswith(GZIP_MAGIC):
        return False
    return not is_own_coding(name) or start_of_gzip(head, len(GZIP_MAGIC)) == GZIP_MAGIC


def _inflater(head: bytes) -> "zlib._Decompress | None":
    """Return what reads a beginning: zlib's form, as the standard says, or raw, as some servers send; or None."""
    for bits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        try:
            zlib.decompressobj(bits).decompress(head, _LOOKED_AT_BYTES)
        except zlib.error:
            continue
        return zlib.decompressobj(bits) if head else None
    return None


def _decompressed(chunks: Iterator[bytes], coding: str) -> Iterator[bytes]:
    """Yield what compressed bytes hold, never much of it at once."""
    head, chunks = peek(chunks, _LOOKED_AT_BYTES)
    reader = zlib.decompressobj(31) if coding == "gzip" else _inflater(head)
    try:
        for chunk in chunks:
            data = chunk
            while data and reader is not None:
                if reader.eof:  # gzip files may follow one another; zeros behind them are padding
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    if coding != "gzip":
                        raise BadCoding("data behind the end")
                    reader = zlib.decompressobj(31)
                if piece := reader.decompress(data, _PIECE_BYTES):
                    yield piece
                data = reader.unconsumed_tail or reader.unused_data
            while reader is not None and not reader.eof and (piece := reader.decompress(b"", _PIECE_BYTES)):
                yield piece
    except zlib.error as error:
        raise BadCoding(str(error)) from None
    if reader is None or not reader.eof:
        raise BadCoding("it ends early")
