"""Decompress a zstd file without believing it: no more memory is taken than its reader expects it to fill.

The package `zstd`, by which streaming reads and writes such files, allocates what the file says that it holds, be it
exabytes. So what it says is looked at first: one frame that states its size, and nothing behind it.

Format: https://datatracker.ietf.org/doc/html/rfc8878#section-3.1.1
"""

import zstd

_MAGIC = b"\x28\xb5\x2f\xfd"
_SIZE_BYTES = (0, 2, 4, 8)  # of the content's size, by the first two bits of the descriptor
_DICTIONARY_BYTES = (0, 1, 2, 4)  # of its number, by the last two
_RLE, _RESERVED = 1, 3  # types of blocks
_CHECKSUM_BYTES = 4


def decompress(data: bytes, expected_bytes: int) -> bytes:
    """Return what one zstd frame holds.

    Raises:
        ValueError: It is no zstd frame of that content size, or is damaged.
    """
    stated, length = _stated(data)
    if stated != expected_bytes:
        raise ValueError(f"expected {expected_bytes} bytes when decompressed, got {stated}")
    if length != len(data):
        raise ValueError(f"expected a zstd frame of {len(data)} bytes, got one of {length}")
    try:
        found: bytes = zstd.decompress(data)
    except zstd.Error as error:
        raise ValueError(f"not zstd data ({error})") from None
    if len(found) != expected_bytes:
        raise ValueError(f"expected {expected_bytes} bytes when decompressed, got {len(found)}")
    return found


def _stated(data: bytes) -> tuple[int | None, int]:
    """Return what a frame says of its content's size, None if nothing, and its length.

    Raises:
        ValueError: It is no frame, or is cut off.
    """
    if data[:4] != _MAGIC or len(data) < len(_MAGIC) + 1:
        raise ValueError("not zstd data")
    descriptor = data[4]
    is_single = bool(descriptor & 32)
    size_bytes = _SIZE_BYTES[descriptor >> 6] or int(is_single)
    at = 5 + (not is_single) + _DICTIONARY_BYTES[descriptor & 3]
    stated = int.from_bytes(data[at : at + size_bytes], "little") + 256 * (size_bytes == 2)
    at += size_bytes
    is_last = False
    while not is_last:
        if at + 3 > len(data):
            raise ValueError("zstd data that is cut off")
        block = int.from_bytes(data[at : at + 3], "little")
        is_last, kind, length = bool(block & 1), block >> 1 & 3, block >> 3
        if kind == _RESERVED:
            raise ValueError("not zstd data, or damaged")
        at += 3 + (1 if kind == _RLE else length)
    return stated if size_bytes else None, at + (_CHECKSUM_BYTES if descriptor & 4 else 0)
