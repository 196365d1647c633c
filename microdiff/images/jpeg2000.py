"""What the codestream of a JPEG 2000 picture says that Pillow does not look at: signs, and tiles that are missing."""

import struct
from collections import Counter

_START = b"\xff\x4f\xff\x51"  # and the segment of sizes
_TILE_PART, _END = b"\xff\x90", b"\xff\xd9"


def is_signed(data: bytes) -> bool:
    """Tell whether samples have a sign, so that it is not known which of them are black and white."""
    start = data.find(_START)
    number = int.from_bytes(data[start + 40 : start + 42], "big")
    return any(depth & 0x80 for depth in data[start + 42 : start + 42 + 3 * number : 3])


def lacks_tiles(data: bytes) -> bool:
    """Tell whether a tile, or a part of one, is missing from a file that decodes: its pixels are black, or blurred."""
    start = data.find(_START)
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", data, start + 8)
    number = -(-(right - left) // width) * -(-(bottom - top) // height)
    found: Counter[int] = Counter()
    announced: dict[int, int] = {}  # parts, by tile
    place = start + 2
    while place + 12 <= len(data) and data[place : place + 2] != _END:
        if data[place : place + 2] == _TILE_PART:
            tile, length, _, parts = struct.unpack_from(">HIBB", data, place + 4)
            found[tile] += 1
            announced[tile] = max(parts, announced.get(tile, 0))
            place += length or len(data)  # 0: to the end
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return len(found) < number or any(found[tile] < parts for tile, parts in announced.items())
