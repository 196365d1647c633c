"""Picture files made by hand, for what Pillow does not write: PNG chunks, TIFF tags, ICC tables, boxes."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Levels = NDArray[np.generic]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    rows: bytes,
    size: tuple[int, int],
    bits: int,
    kind: int,
    *,
    before: Sequence[tuple[bytes, bytes]] = (),
    interlaced: bool = False,
) -> bytes:
    """Return a PNG of filtered rows; kinds are 0 grey, 2 RGB, 3 palette, 4 and 6 with alpha."""
    header = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def plain_rows(levels: Levels) -> bytes:
    """Return unfiltered PNG rows of levels (H, W[, channels]), uint8 or uint16."""
    big = levels.astype(">u2") if levels.dtype.itemsize == 2 else levels.astype(np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in big)


def with_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    """Return a PNG with a further chunk behind its header."""
    return data[:33] + chunk(name, content) + data[33:]


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += length + 12


_TYPES = {"B": 1, "H": 3, "I": 4, "Q": 16}


def tiff(
    blocks: Sequence[bytes],
    size: tuple[int, int],
    tags: dict[int, tuple[str, Sequence[int]]],
    order: str = "<",
    *,
    big: bool = False,
    byte_counts: Sequence[int] | None = None,
) -> bytes:
    """Return a TIFF of strips (or, where tag 322 is given, tiles); tags are numbers with their type for `struct`."""
    header = {"<": b"II", ">": b"MM"}[order] + (
        struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    )
    is_tiled = 322 in tags
    entries: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", [size[0]]),
        257: ("I", [size[1]]),
        **({} if is_tiled or 278 in tags else {278: ("I", [-(-size[1] // len(blocks))])}),
        **tags,
        325 if is_tiled else 279: ("I", list(byte_counts or map(len, blocks))),
        324 if is_tiled else 273: ("I", [0] * len(blocks)),
    }
    width, count, entry, inline = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    table_end = len(header) + struct.calcsize(order + count) + entry * len(entries) + struct.calcsize(order + width)
    extra, place = b"", table_end
    sizes = {tag: struct.calcsize(order + kind) * len(values) for tag, (kind, values) in entries.items()}
    data_start = table_end + sum(number for number in sizes.values() if number > inline)
    starts = [data_start + sum(map(len, blocks[:n])) for n in range(len(blocks))]
    entries[324 if is_tiled else 273] = ("I", starts)
    table = struct.pack(order + count, len(entries))
    for tag in sorted(entries):
        kind, values = entries[tag]
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(packed) > inline:
            extra, packed, place = extra + packed, struct.pack(order + width, place), place + len(packed)
        table += struct.pack(order + "HH" + width, tag, _TYPES[kind], len(values)) + packed.ljust(inline, b"\0")
    return header + table + struct.pack(order + width, 0) + extra + b"".join(blocks)


def cmyk_profile() -> bytes:
    """Return a printer's profile by which ink is paler than by convention.

    Its table maps the 16 corners of CMYK to Lab, of which only L changes, by 20 for each ink and 40 for black.
    """
    light = [max(0, 100 - 20 * (c + m + y) - 40 * k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    return _table_profile(b"CMYK", b"prtr", light)


def rgb_table_profile(darkest: int) -> bytes:
    """Return a profile whose table has all colours grey, from a lightness L to white."""
    light = [darkest + (100 - darkest) * (r + g + b) // 3 for r in (0, 1) for g in (0, 1) for b in (0, 1)]
    return _table_profile(b"RGB ", b"mntr", light)


def _table_profile(space: bytes, kind: bytes, light: Sequence[int]) -> bytes:
    channels = len(light).bit_length() - 1
    corners = b"".join(bytes([round(level * 255 / 100), 128, 128]) for level in light)
    identity = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([channels, 3, 2, 0])
    table += struct.pack(">9i", *(65536 if n % 4 == 0 else 0 for n in range(9)))
    table += identity * channels + corners + identity * 3
    table += bytes(-len(table) % 4)
    start = 128 + 4 + 24
    header = struct.pack(">I4sI4s4s4s", start + len(table), b"", 0x02400000, kind, space, b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    tags = b"".join(struct.pack(">4sII", name, start, len(table)) for name in (b"A2B0", b"A2B1"))  # for each intent
    return header.ljust(128, b"\0") + struct.pack(">I", 2) + tags + table


def grey_profile(gamma: float) -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    start = 128 + 4 + 24
    header = struct.pack(">I4sI4s4s4s", start + 36, b"", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I4sII4sII", 2, b"kTRC", start, 16, b"wtpt", start + 16, 20)
    return header.ljust(128, b"\0") + tags + curve + white


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content
