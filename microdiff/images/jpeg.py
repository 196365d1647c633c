"""Decode JPEGs with libjpeg-turbo itself, and tell damage from oddities that do no harm.

It is faster than through Pillow, gives the same pixels, and passes on what the decoder remarks. A remark means that
data are missing, or bits are wrong; but some are about nothing that a pixel depends on: bytes between segments, a
missing end marker, a newer version of JFIF, a little padding after a scan. Since libjpeg reports only the first, such a
file is tidied, which leaves out what was remarked, and has to decode without any.

Of two kinds of missing data libjpeg says nothing: colours whose scan is not there, and refinements of a progressive
picture. Those are read from the headers of the scans.
"""

import re
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from microdiff.images.refusals import UnsupportedPicture

Pixels = NDArray[np.uint8]

CHANNELS = {"RGB": 3, "GRAY": 1, "CMYK": 4}
_SCALE = 8  # the smallest picture that the decoder gives
_MOST_TRIES = 64  # to find the scans of one file that have padding behind them
_MOST_PADDING = 16  # bytes after a scan; where bits are wrong, more is left over as a rule

_NEXT = re.compile(rb"\xff([^\x00\xff])")
_AFTER_SCAN = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # neither stuffing nor a restart
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_START, _END, _SCAN, _JFIF, _ADOBE, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE, 0xFE
_SHORTEST = {_JFIF: 7, 0xE2: 14, 0xED: 2**16, _ADOBE: 7}  # bytes of JFIF, ICC, Photoshop (needless) and Adobe segments
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = 0xC2
_READABLE = (0xC0, 0xC1, _PROGRESSIVE)
_NEVER = -1
_CODED = 0  # stands for the marker of coded data


def decode_jpeg(data: bytes, size: tuple[int, int], space: str = "RGB") -> Pixels | None:
    """Decode a JPEG that is whole.

    Args:
        data: The file.
        size: Width and height that its header announces.
        space: `RGB`, `GRAY` or `CMYK`.

    Returns:
        uint8 (H, W, channels), CMYK as it is in the file; None where the decoder remarks anything.
    """
    return _decode(data, size, space, 1)[0]


def is_whole(data: bytes, size: tuple[int, int], space: str = "RGB") -> bool:
    """Tell whether `decode_jpeg` would succeed, for less time.

    All data are read, as for a full decode, but only an eighth of the pixels is computed along each side.
    """
    return _decode(data, size, space, _SCALE)[0] is not None


def tidied(data: bytes, size: tuple[int, int], space: str = "RGB") -> bytes | None:
    """Return a file that decodes without a remark to the pixels of one that does not.

    Args:
        data: The file.
        size: Width and height that its header announces.
        space: As for `decode_jpeg`.

    Returns:
        The same less what does no harm; None where the picture is damaged.
    """
    pieces = _pieces(data)
    remark, first, left = _remark(pieces, size, space), 0, _MOST_TRIES
    while remark:
        if (found := _LEFT_OVER.search(remark)) is None:
            return None
        number, marker = int(found[1]), int(found[2], 16)
        # The remark names no scan; to take bytes from one that has none to spare is remarked, too.
        for place in range(first, len(pieces) - 1):
            is_scan = pieces[place][0] == _CODED and pieces[place + 1][0] == marker
            if left and is_scan and _is_padding(pieces[place][1], number):
                shorter = [*pieces[:place], (_CODED, pieces[place][1][:-number]), *pieces[place + 1 :]]
                remark, left = _remark(shorter, size, space), left - 1
                if not remark or _LEFT_OVER.search(remark):
                    pieces, first = shorter, place
                    break
        else:
            return None
    return _joined(pieces)


def without_stumps(data: bytes) -> bytes:
    """Return a JPEG without application segments that are too short for what they begin with: Pillow stops there."""
    kept, place = [], 0
    for marker, start, end in _segments(data):
        if end - start - 4 < _SHORTEST.get(marker, 0):
            kept.append(data[place:start])
            place = end
    return b"".join([*kept, data[place:]])


def with_end(data: bytes) -> bytes:
    """Return a JPEG with an end marker, which Pillow wants to see."""
    has_end = any(marker == _END for marker, _, _ in _segments(data))
    return data if has_end else data + b"\xff\xd9"


def check_headers(data: bytes) -> None:
    """Check what a JPEG's decoder does not mind: that each colour has its scan, and a progressive one all refinements.

    Raises:
        UnsupportedPicture: It is coded in a way whose damage does not show.
        OSError: Scans are missing.
    """
    levels: dict[int, list[int]] = {}  # by component, per coefficient: the lowest bit that has been sent
    is_progressive = False
    for marker, start, end in _segments(data):
        if marker in _FRAMES:
            if not _is_readable(data, marker, start):
                raise UnsupportedPicture("a JPEG that does not tell damage")
            levels = {data[start + 10 + 3 * n]: [_NEVER] * 64 for n in range(data[start + 9])}
            is_progressive = marker == _PROGRESSIVE
        elif marker == _SCAN:
            number = data[start + 4]
            if not is_progressive and number == len(levels):
                return  # the one scan of most files
            begin, last, bits = data[end - 3 : end]
            for component in data[start + 5 : start + 5 + 2 * number : 2]:
                places = slice(begin, last + 1) if is_progressive else slice(0, 64)
                sent = levels.get(component, [])
                sent[places] = [bits & 15 if is_progressive else 0] * len(sent[places])
    if not levels or any(level != 0 for sent in levels.values() for level in sent):
        raise OSError("scans are missing")


def is_strange_jpeg(data: bytes) -> bool:
    """Tell whether data are a JPEG, but coded in a way that is not read."""
    frame = _frame(data) if data[:2] == b"\xff\xd8" else None
    return frame is not None and not _is_readable(data, *frame)


def frame_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height by the frame header of a JPEG; None if it has none."""
    if (frame := _frame(data)) is None:
        return None
    sides = data[frame[1] + 5 : frame[1] + 9]
    return int.from_bytes(sides[2:], "big"), int.from_bytes(sides[:2], "big")


def _is_readable(data: bytes, marker: int, start: int) -> bool:
    """Tell whether a frame is coded in a way whose damage shows: by Huffman codes, 8 bits a sample.

    Arithmetic codes look whole wherever they end, and no browser reads them.
    """
    return marker in _READABLE and data[start + 4] == 8


def _frame(data: bytes) -> tuple[int, int] | None:
    """Return the marker of a JPEG's frame header, which says how it is coded, and its place."""
    frames = ((marker, start) for marker, start, end in _segments(data) if marker in _FRAMES and end - start >= 10)
    return next(frames, None)


def _decode(data: bytes, size: tuple[int, int], space: str, scale: int) -> tuple[Pixels | None, str]:
    """Return pixels, or the first remark that the decoder makes."""
    width, height = (-(-side // scale) for side in size)
    smallest = 0 if scale == 1 else 1
    # Space for what is announced and no more: a file may announce one size to Pillow and another to libjpeg.
    pixels = np.empty((height, width, CHANNELS[space]), np.uint8)
    try:
        decoded = simplejpeg.decode_jpeg(data, space, min_height=smallest, min_width=smallest, buffer=pixels)
    except ValueError as error:
        return None, str(error)
    return (pixels, "") if decoded.shape == pixels.shape else (None, "another size")


def _remark(pieces: list[tuple[int, bytes]], size: tuple[int, int], space: str) -> str:
    return _decode(_joined(pieces), size, space, _SCALE)[1]


def _joined(pieces: list[tuple[int, bytes]]) -> bytes:
    return b"".join(piece for _, piece in pieces)


def _is_padding(scan: bytes, number: int) -> bool:
    """Tell whether bytes left over after a scan are few, or zeros of which none was taken for picture data."""
    zeros = len(scan) - len(scan.rstrip(b"\0"))
    return number <= _MOST_PADDING or number <= zeros <= number + _MOST_PADDING


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker, where it starts, and where it ends, up to the end of the picture."""
    place, following = 2, _NEXT
    while (found := following.search(data, place)) is not None:
        marker, place = found[1][0], found.end()
        if marker not in _ALONE and marker != _END:
            length = int.from_bytes(data[place : place + 2], "big")
            place += length
            if length < 2 or place > len(data):
                return
        yield marker, found.end() - 2, place
        if marker == _END:
            return
        following = _AFTER_SCAN if marker == _SCAN else _NEXT


def _pieces(data: bytes) -> list[tuple[int, bytes]]:
    """Return what pixels depend on: segments with their markers, and coded data; and an end."""
    pieces = [(_START, data[:2])]
    scan = None  # where coded data begin
    for marker, start, end in _segments(data):
        if scan is not None:
            pieces.append((_CODED, data[scan:start].rstrip(b"\xff")))
        scan = end if marker == _SCAN else None
        if marker == _JFIF and data[start + 4 : start + 9] == b"JFIF\0":
            pieces.append((marker, data[start : start + 9] + b"\x01\x01" + data[start + 11 : end]))
        elif marker not in (_END, _COMMENT) and (marker == _ADOBE or not _JFIF <= marker <= _JFIF + 15):
            pieces.append((marker, data[start:end]))
    if scan is not None:  # no end marker
        pieces.append((_CODED, data[scan:]))
    return [*pieces, (_END, b"\xff\xd9")]
