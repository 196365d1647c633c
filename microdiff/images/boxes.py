"""What AVIF and JPEG 2000 files say of their colours in boxes, which Pillow does not pass on."""

from collections.abc import Iterator
from dataclasses import dataclass

_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"  # of JP2; a bare codestream has no boxes


@dataclass(frozen=True)
class ColourBox:
    """A `colr` box.

    Attributes:
        method: `nclx`, `prof` or `rICC` in AVIF; `1` (enumerated), `2`, `3` (profiles) or another number in JP2.
        content: What follows: numbers, or a profile.
    """

    method: str
    content: bytes


def avif_colours(data: bytes) -> list[ColourBox]:
    """Return the colour boxes of an AVIF file's items."""
    found = []
    for meta in _contents(data, b"meta"):
        for properties in _contents(meta[4:], b"iprp"):
            for container in _contents(properties, b"ipco"):
                found += [ColourBox(box[:4].decode("latin-1"), box[4:]) for box in _contents(container, b"colr")]
    return found


def jp2_colours(data: bytes) -> list[ColourBox]:
    """Return the colour boxes of a JP2 file; a reader is to take the first that it understands."""
    found = [box for header in _jp2_headers(data) for box in _contents(header, b"colr") if box]
    return [ColourBox(str(box[0]), box[3:]) for box in found]


def jp2_names_its_channels(data: bytes) -> bool:
    """Tell whether a JP2 file says which of its channels is opacity."""
    return any(True for header in _jp2_headers(data) for _ in _contents(header, b"cdef"))


def _jp2_headers(data: bytes) -> Iterator[bytes]:
    return _contents(data, b"jp2h") if data.startswith(_SIGNATURE) else iter(())


def _contents(data: bytes, wanted: bytes) -> Iterator[bytes]:
    """Yield the contents of all boxes of a type."""
    place = 0
    while place + 8 <= len(data):
        size, name, header = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8], 8
        if size == 1:
            size, header = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        elif size == 0:  # to the end
            size = len(data) - place
        if size < header:
            return
        if name == wanted:
            yield data[place + header : place + size]
        place += size
