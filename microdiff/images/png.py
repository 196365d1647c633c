"""What Pillow does not look at in PNG files: checksums of the pixel data, and colours that are stated by numbers."""

import struct
import zlib
from dataclasses import dataclass

_SIGNATURE = 8  # bytes
_CHUNK = struct.Struct(">I4s")


@dataclass(frozen=True)
class PngFacts:
    """What the chunks before the pixel data say.

    Attributes:
        bits: A sample.
        chunks: The first chunk of each name.
    """

    bits: int
    chunks: dict[bytes, bytes]


def png_facts(data: bytes) -> PngFacts:
    """Read the chunks that precede the pixel data."""
    chunks: dict[bytes, bytes] = {}
    place = _SIGNATURE
    while place + _CHUNK.size <= len(data):
        length, name = _CHUNK.unpack_from(data, place)
        if name == b"IDAT":
            break
        chunks.setdefault(name, data[place + 8 : place + 8 + length])
        place += length + 12
    header = chunks.get(b"IHDR", b"")
    return PngFacts(header[8] if len(header) > 8 else 0, chunks)


def with_empty_profile(data: bytes) -> bytes:
    """Return a PNG whose profile is there, but empty: Pillow opens none with a profile that it cannot unpack."""
    place = _SIGNATURE
    while place + _CHUNK.size <= len(data):
        length, name = _CHUNK.unpack_from(data, place)
        if name == b"IDAT":
            break
        if name == b"iCCP":
            content = b"iCCP" + b"broken\0\0" + zlib.compress(b"")
            chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
            return data[:place] + chunk + data[place + length + 12 :]
        place += length + 12
    return data


def check_pixel_data(data: bytes) -> None:
    """Compare the checksums of the pixel data, as other decoders than Pillow's do.

    Raises:
        OSError: Some were changed.
    """
    view = memoryview(data)
    place, begun = _SIGNATURE, False
    while place + _CHUNK.size <= len(data):
        length, name = _CHUNK.unpack_from(data, place)
        if name == b"IDAT":
            begun = True
        elif begun:
            return
        end = place + 8 + length
        # Where even the checksum is cut off, the decoder says whether pixels are missing.
        is_there = begun and end + 4 <= len(data)
        if is_there and zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise OSError("pixel data of another checksum")
        place = end + 4
