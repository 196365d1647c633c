"""Levels of every mode, depth and form that a file can have: the right 8 bits on white, or `unsupported_picture`."""

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import Reason
from microdiff.images.normalize import RefusedImage, StoredImage, store_image
from microdiff.images.ops import decode, flatten
from picture_files import Levels, box, encoded, plain_rows, png, tiff

SETTINGS = DownloadSettings(min_side_px=32, max_side_px=64, jpeg_quality=100)
SIDE = 40
SIZE = (SIDE, SIDE)
WHITE = (255, 255, 255)
Pixel = tuple[int, ...]


def quarters(*levels: Sequence[float], dtype: Any = np.uint8) -> Levels:
    """Return pixels of four levels, one in each quarter."""
    pixels = np.zeros((SIDE, SIDE, len(levels[0])), dtype)
    half = SIDE // 2
    for place, level in enumerate(levels):
        row, column = divmod(place, 2)
        pixels[row * half : (row + 1) * half, column * half : (column + 1) * half] = level
    return pixels


def assert_quarters(data: bytes, expected: Sequence[Pixel], tolerance: int = 3) -> None:
    """Check the colours in the middle of the quarters of what is stored, but for what JPEG costs."""
    outcome = store_image(data, SETTINGS)
    assert isinstance(outcome, StoredImage), outcome
    pixels = np.asarray(decode(outcome.data)).astype(int)
    found = [pixels[row, column] for row in (10, 30) for column in (10, 30)]
    assert np.abs(np.array(found) - [colour * 3 if len(colour) == 1 else colour for colour in expected]).max() <= (
        tolerance
    ), [tuple(map(int, colour)) for colour in found]


def greys(*levels: int) -> list[Pixel]:
    return [(level,) for level in levels]


# --- PNG

WORDS = quarters([0], [25_700], [51_400], [65_535], dtype=np.uint16)
DEEP = quarters([0x80FF, 0, 0], [0x8000, 0, 0], [0, 0, 0xFF00], [65_535] * 3, dtype=np.uint16)
COLOURS = quarters([200, 10, 10], [10, 200, 10], [10, 10, 200], [90, 90, 90])
PLETE = [(b"PLTE", bytes([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9]))]
INDICES = quarters([0], [1], [2], [3])
BITS_1 = (b"\0" + bytes([0, 0, 15, 255, 255])) * SIDE  # left black, right white
BITS_2 = (b"\0" + bytes([0x55] * 5 + [0xAA] * 5)) * SIDE  # left 1 of 3, right 2 of 3
BITS_4 = (b"\0" + bytes([0x55] * 10 + [0xAA] * 10)) * SIDE  # left 5 of 15, right 10 of 15


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


PNGS: dict[str, tuple[bytes, list[Pixel]]] = {
    "1 bit": (png(BITS_1, SIZE, 1, 0), greys(0, 255, 0, 255)),
    "1 bit, black transparent": (png(BITS_1, SIZE, 1, 0, before=[(b"tRNS", words(0))]), greys(255, 255, 255, 255)),
    "1 bit, white transparent": (png(BITS_1, SIZE, 1, 0, before=[(b"tRNS", words(1))]), greys(0, 255, 0, 255)),
    "2 bits": (png(BITS_2, SIZE, 2, 0), greys(85, 170, 85, 170)),
    "2 bits, one transparent": (png(BITS_2, SIZE, 2, 0, before=[(b"tRNS", words(2))]), greys(85, 255, 85, 255)),
    "4 bits": (png(BITS_4, SIZE, 4, 0), greys(85, 170, 85, 170)),
    "4 bits, one transparent": (png(BITS_4, SIZE, 4, 0, before=[(b"tRNS", words(5))]), greys(255, 170, 255, 170)),
    "8 bits, one transparent": (
        png(plain_rows(quarters([0], [100], [200], [255])), SIZE, 8, 0, before=[(b"tRNS", words(100))]),
        greys(0, 255, 200, 255),
    ),
    "16 bits": (png(plain_rows(WORDS), SIZE, 16, 0), greys(0, 100, 200, 255)),
    "16 bits, one transparent": (
        png(plain_rows(WORDS), SIZE, 16, 0, before=[(b"tRNS", words(25_700))]),
        greys(0, 255, 200, 255),
    ),
    "16 bits, nearly one transparent": (
        png(plain_rows(WORDS), SIZE, 16, 0, before=[(b"tRNS", words(25_701))]),
        greys(0, 100, 200, 255),
    ),
    "RGB, one transparent": (
        png(plain_rows(COLOURS), SIZE, 8, 2, before=[(b"tRNS", words(10, 200, 10))]),
        [(200, 10, 10), WHITE, (10, 10, 200), (90, 90, 90)],
    ),
    "RGB, one transparent by its low bytes": (
        png(plain_rows(COLOURS), SIZE, 8, 2, before=[(b"tRNS", words(0x010A, 200, 10))]),
        [(200, 10, 10), WHITE, (10, 10, 200), (90, 90, 90)],
    ),
    "RGB of 16 bits": (png(plain_rows(DEEP), SIZE, 16, 2), [(128, 0, 0), (128, 0, 0), (0, 0, 254), WHITE]),
    "RGB of 16 bits, one transparent": (
        png(plain_rows(DEEP), SIZE, 16, 2, before=[(b"tRNS", words(0x80FF, 0, 0))]),
        [WHITE, (128, 0, 0), (0, 0, 254), WHITE],
    ),
    "RGBA": (
        png(plain_rows(quarters([200, 10, 10, 255], [10, 200, 10, 0], [10, 10, 200, 51], [0, 0, 0, 255])), SIZE, 8, 6),
        [(200, 10, 10), WHITE, (206, 206, 244), (0, 0, 0)],
    ),
    "RGBA of 16 bits": (
        png(
            plain_rows(
                quarters([0x80FF, 0, 0, 65535], [1, 2, 3, 0], [0, 0, 0xFF00, 0x8000], [65535] * 4, dtype=np.uint16)
            ),
            SIZE,
            16,
            6,
        ),
        [(128, 0, 0), WHITE, (127, 127, 254), WHITE],
    ),
    "grey with alpha": (
        png(plain_rows(quarters([100, 255], [50, 128], [10, 0], [90, 255])), SIZE, 8, 4),
        greys(100, 152, 255, 90),
    ),
    "grey with alpha of 16 bits": (
        png(plain_rows(quarters([0x80FF, 65535], [1, 0], [0, 0x8000], [65535] * 2, dtype=np.uint16)), SIZE, 16, 4),
        greys(128, 255, 127, 255),
    ),
    "palette": (
        png(plain_rows(INDICES), SIZE, 8, 3, before=PLETE),
        [(200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9)],
    ),
    "palette, one transparent": (
        png(plain_rows(INDICES), SIZE, 8, 3, before=[*PLETE, (b"tRNS", b"\xff\0\xff\xff")]),
        [(200, 0, 0), WHITE, (0, 0, 200), (9, 9, 9)],
    ),
    "palette, some half transparent": (
        png(plain_rows(INDICES), SIZE, 8, 3, before=[*PLETE, (b"tRNS", b"\xff\0\x80")]),
        [(200, 0, 0), WHITE, (127, 127, 227), (9, 9, 9)],
    ),
}


@pytest.mark.parametrize(("data", "expected"), PNGS.values(), ids=PNGS.keys())
def test_png_of_every_depth(data: bytes, expected: list[Pixel]) -> None:
    assert_quarters(data, expected)


# --- TIFF


def tiff_of(
    levels: Levels,
    photometric: int,
    bits: Sequence[int],
    order: str = "<",
    *,
    kind: int | None = None,
    extra: Sequence[int] | None = None,
    separate: bool = False,
    deflated: bool = False,
    big: bool = False,
    more: dict[int, tuple[str, Sequence[int]]] | None = None,
) -> bytes:
    levels = levels.astype(levels.dtype.newbyteorder(order))
    planes = [np.ascontiguousarray(levels[..., n]) for n in range(levels.shape[2])] if separate else [levels]
    blocks = [zlib.compress(plane.tobytes()) if deflated else plane.tobytes() for plane in planes]
    tags: dict[int, tuple[str, Sequence[int]]] = {
        258: ("H", bits),
        259: ("H", [8 if deflated else 1]),
        262: ("H", [photometric]),
        277: ("H", [len(bits)]),
        278: ("I", [SIDE]),
        **({339: ("H", [kind] * len(bits))} if kind else {}),
        **({338: ("H", extra)} if extra is not None else {}),
        **({284: ("H", [2])} if separate else {}),
        **(more or {}),
    }
    return tiff(blocks, SIZE, tags, order, big=big)


SHADES = quarters([0], [100], [200], [255])
OPACITY = quarters([100, 10, 10, 255], [10, 50, 10, 128], [10, 10, 200, 0], [90, 90, 90, 255])
OPAQUE = [(100, 10, 10), (10, 50, 10), (10, 10, 200), (90, 90, 90)]
ON_WHITE = [(100, 10, 10), (132, 152, 132), WHITE, (90, 90, 90)]
MULTIPLIED = [(100, 10, 10), (137, 177, 137), WHITE, (90, 90, 90)]
GREY_OPACITY = quarters([100, 255], [50, 128], [10, 0], [90, 255])
INK = quarters([255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 128])
INK_SHOWN = [(0, 255, 255), (255, 0, 255), (255, 255, 0), (127, 127, 127)]
YCC = quarters([81, 90, 240], [145, 54, 34], [41, 240, 110], [128, 128, 128])
YCC_SHOWN = [(238, 14, 14), (13, 237, 14), (16, 14, 239), (128, 128, 128)]
LAB = quarters([128, 0, 0], [138, 81, 70], [136, 256 - 40, 30], [255, 0, 0])  # a and b are signed
LAB_SHOWN = [(119, 119, 119), (255, 0, 0), (55, 144, 72), WHITE]
MAP = [channel * 257 for first in ([200, 0, 0, 9], [0, 200, 0, 9], [0, 0, 200, 9]) for channel in first + [0] * 252]
MAP_SHOWN = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9)]
DEEP_SHOWN = [(128, 0, 0), (128, 0, 0), (0, 0, 254), WHITE]
COLOURS_SHOWN = [tuple(map(int, COLOURS[row, column])) for row in (10, 30) for column in (10, 30)]
PACKED_12 = bytes([0x00, 0x08, 0x00] * 10 + [0xFF, 0xFF, 0xFF] * 10) * SIDE  # 0 and 2048 in turn, then 4095
TIFFS: dict[str, tuple[bytes, list[Pixel]]] = {
    **{
        f"{name}{' deflated' * deflated}, {'little' if order == '<' else 'big'}-endian": (
            tiff_of(levels, photometric, bits, order, deflated=deflated),
            shown,
        )
        for order in "<>"
        for deflated in (False, True)
        for name, levels, photometric, bits, shown in (
            ("grey", SHADES, 1, [8], greys(0, 100, 200, 255)),
            ("white is zero", SHADES, 0, [8], greys(255, 155, 55, 0)),
            ("16 bits", WORDS, 1, [16], greys(0, 100, 200, 255)),
            ("RGB", COLOURS, 2, [8] * 3, COLOURS_SHOWN),
            ("RGB of 16 bits", DEEP, 2, [16] * 3, DEEP_SHOWN),
            ("CMYK", INK, 5, [8] * 4, INK_SHOWN),
            ("CMYK of 16 bits", INK.astype(np.uint16) * 257, 5, [16] * 4, INK_SHOWN),
            ("Lab", LAB, 8, [8] * 3, LAB_SHOWN),
        )
    },
    "16 bits, white is zero": (tiff_of(WORDS, 0, [16]), greys(255, 155, 55, 0)),
    "16 bits, white is zero, deflated": (tiff_of(WORDS, 0, [16], deflated=True), greys(255, 155, 55, 0)),
    "1 bit": (
        tiff([BITS_1.replace(b"\0\0\0\x0f", b"\0\0\x0f")], SIZE, {258: ("H", [1]), 262: ("H", [1])}),
        greys(0, 255, 0, 255),
    ),
    "1 bit, white is zero": (
        tiff([BITS_1.replace(b"\0\0\0\x0f", b"\0\0\x0f")], SIZE, {258: ("H", [1]), 262: ("H", [0])}),
        greys(255, 0, 255, 0),
    ),
    "4 bits, white is zero": (
        tiff([bytes([0x55] * 10 + [0xAA] * 10) * SIDE], SIZE, {258: ("H", [4]), 262: ("H", [0])}),
        greys(170, 85, 170, 85),
    ),
    "BigTIFF": (tiff_of(COLOURS, 2, [8] * 3, big=True), COLOURS_SHOWN),
    "separate planes": (tiff_of(COLOURS, 2, [8] * 3, separate=True), COLOURS_SHOWN),
    "separate planes, deflated": (tiff_of(COLOURS, 2, [8] * 3, separate=True, deflated=True), COLOURS_SHOWN),
    "separate planes of 16 bits, deflated": (tiff_of(DEEP, 2, [16] * 3, separate=True, deflated=True), DEEP_SHOWN),
    "separate planes of CMYK": (tiff_of(INK, 5, [8] * 4, separate=True), INK_SHOWN),
    "separate opacity": (tiff_of(OPACITY, 2, [8] * 4, extra=[2], separate=True), ON_WHITE),
    "a fourth sample that is none": (tiff_of(OPACITY, 2, [8] * 4, extra=[0]), OPAQUE),
    "opacity apart": (tiff_of(OPACITY, 2, [8] * 4, extra=[2]), ON_WHITE),
    "opacity apart, deflated": (tiff_of(OPACITY, 2, [8] * 4, extra=[2], deflated=True), ON_WHITE),
    "opacity multiplied in": (tiff_of(OPACITY, 2, [8] * 4, extra=[1]), MULTIPLIED),
    "a fourth sample of no name, all opaque": (
        tiff_of(np.concatenate([COLOURS, np.full((SIDE, SIDE, 1), 255, np.uint8)], axis=2), 2, [8] * 4),
        COLOURS_SHOWN,
    ),
    "grey with a sample that is none": (tiff_of(GREY_OPACITY, 1, [8] * 2, extra=[0]), greys(100, 50, 10, 90)),
    "grey with opacity": (tiff_of(GREY_OPACITY, 1, [8] * 2, extra=[2]), greys(100, 152, 255, 90)),
    "grey with opacity multiplied in": (tiff_of(GREY_OPACITY, 1, [8] * 2, extra=[1]), greys(100, 177, 255, 90)),
    "YCbCr": (tiff_of(YCC, 6, [8] * 3, more={530: ("H", [1, 1])}), YCC_SHOWN),
    "YCbCr, deflated": (tiff_of(YCC, 6, [8] * 3, deflated=True, more={530: ("H", [1, 1])}), YCC_SHOWN),
    "palette": (tiff_of(INDICES, 3, [8], more={320: ("H", MAP)}), MAP_SHOWN),
    "palette with opacity": (
        tiff_of(quarters([0, 255], [1, 128], [2, 0], [3, 255]), 3, [8] * 2, extra=[2], more={320: ("H", MAP)}),
        [(200, 0, 0), (127, 227, 127), WHITE, (9, 9, 9)],
    ),
    "tiles": (
        tiff(
            [
                np.pad(COLOURS, ((0, 24), (0, 24), (0, 0)))[row : row + 32, column : column + 32].tobytes()
                for row in (0, 32)
                for column in (0, 32)
            ],
            SIZE,
            {258: ("H", [8] * 3), 262: ("H", [2]), 277: ("H", [3]), 322: ("I", [32]), 323: ("I", [32])},
        ),
        COLOURS_SHOWN,
    ),
}


@pytest.mark.parametrize(("data", "expected"), TIFFS.values(), ids=TIFFS.keys())
def test_tiff_of_every_form(data: bytes, expected: list[Pixel]) -> None:
    assert_quarters(data, expected)


def test_tiff_of_12_bits() -> None:
    data = tiff([PACKED_12], SIZE, {258: ("H", [12]), 262: ("H", [1])})
    outcome = store_image(data, SETTINGS)
    assert isinstance(outcome, StoredImage)
    row = np.asarray(decode(outcome.data))[20, :, 0].astype(int)
    assert np.abs(row[:16:2] - 0).max() <= 6
    assert np.abs(row[1:16:2] - 128).max() <= 6
    assert np.abs(row[24:] - 255).max() <= 6


FRACTIONS = quarters([0.0], [0.25], [0.5], [1.0], dtype=np.float32)
NUMBERS = quarters([0], [10_000], [70_000], [2**31 - 1], dtype=np.int32)
SIGNED = quarters([-5], [0], [5], [100], dtype=np.int8)
UNSUPPORTED: dict[str, bytes] = {
    "half floats": tiff_of(FRACTIONS.astype(np.float16), 1, [16], kind=3),
    "floats": tiff_of(FRACTIONS, 1, [32], kind=3),
    "floats up to 255": tiff_of(FRACTIONS * 255, 1, [32], kind=3),
    "big-endian floats": tiff_of(FRACTIONS, 1, [32], ">", kind=3),
    "doubles": tiff_of(FRACTIONS.astype(np.float64), 1, [64], kind=3),
    "RGB floats": tiff_of(np.repeat(FRACTIONS, 3, axis=2), 2, [32] * 3, kind=3),
    "32 bits": tiff_of(NUMBERS.astype(np.uint32), 1, [32]),
    "32 bits with a sign": tiff_of(NUMBERS, 1, [32], kind=2),
    "16 bits with a sign": tiff_of(SIGNED.astype(np.int16), 1, [16], kind=2),
    "8 bits with a sign": tiff_of(SIGNED, 1, [8], kind=2),
    "RGB with a sign": tiff_of(np.repeat(SIGNED, 3, axis=2), 2, [8] * 3, kind=2),
    "complex numbers": tiff_of(quarters([1j], [2], [3], [4], dtype=np.complex64), 1, [64], kind=6),
    "separate planes of 16 bits": tiff_of(DEEP, 2, [16] * 3, separate=True),
    "inks other than CMYK": tiff_of(INK, 5, [8] * 4, more={332: ("H", [2])}),
    "a fourth sample of no name": tiff_of(OPACITY, 2, [8] * 4),
    "YCbCr that does not say how it is subsampled": tiff_of(YCC, 6, [8] * 3),
    "YCbCr of a range of its own": tiff_of(
        YCC, 6, [8] * 3, more={530: ("H", [1, 1]), 532: ("I", [16, 235, 128, 240, 128, 240])}
    ),
    "a palette of 8 bits": tiff_of(INDICES, 3, [8], more={320: ("H", [level // 257 for level in MAP])}),
    "Lab as ICC has it": tiff_of(LAB, 9, [8] * 3),
    "16 bits, white is zero, big-endian": tiff_of(WORDS, 0, [16], ">"),
    "JPEG in TIFF as of 6.0": tiff(
        [b"\xff\xd8" + bytes(99)], SIZE, {258: ("H", [8] * 3), 259: ("H", [6]), 277: ("H", [3])}
    ),
    "big-endian BigTIFF": tiff_of(COLOURS, 2, [8] * 3, ">", big=True),
}


@pytest.mark.parametrize("data", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_would_be_a_guess_is_refused(data: bytes) -> None:
    assert store_image(data, SETTINGS) == RefusedImage(Reason.UNSUPPORTED_PICTURE)


# --- JPEG

PICTURE = Image.fromarray(COLOURS.astype(np.uint8))


def adobe(data: bytes, transform: int) -> bytes:
    """Return a JPEG whose Adobe marker says otherwise how its colours are coded."""
    place = data.index(b"Adobe") + 11
    return data[:place] + bytes([transform]) + data[place + 1 :]


def without_adobe(data: bytes) -> bytes:
    place = data.index(b"\xff\xee")
    return data[:place] + data[place + 2 + int.from_bytes(data[place + 2 : place + 4], "big") :]


def test_jpeg_of_every_colour_space() -> None:
    best = {"quality": 100, "subsampling": 0}
    assert_quarters(encoded(PICTURE, "JPEG", **best), COLOURS_SHOWN)
    assert_quarters(encoded(PICTURE, "JPEG", keep_rgb=True, quality=100), COLOURS_SHOWN)
    assert_quarters(encoded(Image.fromarray(SHADES[..., 0]), "JPEG", quality=100), greys(0, 100, 200, 255))
    ink = Image.fromarray(INK.astype(np.uint8), "CMYK")
    assert_quarters(encoded(ink, "JPEG", quality=100), INK_SHOWN)
    for progressive in (False, True):
        plain = encoded(ink, "JPEG", quality=100, progressive=progressive)
        assert_quarters(plain, INK_SHOWN)
        assert store_image(without_adobe(plain), SETTINGS) == RefusedImage(Reason.UNSUPPORTED_PICTURE)


def test_ycck_is_read() -> None:
    """Its first three planes are YCbCr of what Adobe's CMYK has in them, which is light."""
    planes = quarters([81, 90, 240, 255], [145, 54, 34, 255], [41, 240, 110, 255], [128, 128, 128, 100])
    inverted = Image.fromarray(255 - planes.astype(np.uint8), "CMYK")  # Pillow inverts what it writes
    data = adobe(encoded(inverted, "JPEG", quality=100), 2)
    # YCCK's ink is what RGB lacks; the file holds it inverted, so that light comes out.
    assert_quarters(data, [*(tuple(255 - level for level in colour) for colour in YCC_SHOWN[:3]), (50, 50, 50)], 5)


@pytest.mark.parametrize(("marker", "bits"), [(0xC1, 12), (0xC0, 12), (0xC9, 8), (0xCA, 8), (0xC3, 8)])
def test_jpegs_that_browsers_do_not_read_are_refused(marker: int, bits: int) -> None:
    data = bytearray(encoded(PICTURE, "JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 1], data[place + 4] = marker, bits
    assert store_image(bytes(data), SETTINGS) == RefusedImage(Reason.UNSUPPORTED_PICTURE)


# --- others


def bmp(pixels: bytes, bits: int, masks: Sequence[int]) -> bytes:
    """Return a BMP of version 5 with these masks of red, green, blue and alpha."""
    header = struct.pack("<IiiHHIIiiII", 124, SIDE, -SIDE, 1, bits, 3, len(pixels), 0, 0, 0, 0)
    header = (header + struct.pack("<4I", *masks)).ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + 124 + len(pixels), 0, 0, 14 + 124) + header + pixels


RGBA_MASKS = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)


def test_bmp_with_opacity() -> None:
    assert_quarters(bmp(OPACITY.tobytes(), 32, RGBA_MASKS), ON_WHITE)
    invisible = OPACITY.copy()
    invisible[..., 3] = 0
    assert_quarters(bmp(invisible.tobytes(), 32, RGBA_MASKS), OPAQUE)  # as viewers show what would be nothing


def test_bmp_of_16_bits_and_of_masks_that_are_not_known() -> None:
    shades = (quarters([31], [0], [16], [8], dtype=np.uint16) << 11).astype("<u2")
    assert_quarters(
        bmp(shades.tobytes(), 16, (0xF800, 0x7E0, 0x1F, 0)), [(255, 0, 0), (0, 0, 0), (132, 0, 0), (66, 0, 0)]
    )
    data = bmp(OPACITY.tobytes(), 32, (0x3FF, 0xFFC00, 0x3FF00000, 0))
    assert store_image(data, SETTINGS) == RefusedImage(Reason.UNSUPPORTED_PICTURE)


@pytest.mark.parametrize("bare", [False, True], ids=["JP2", "codestream"])
def test_jpeg_2000_of_every_mode(bare: bool) -> None:
    for image, expected in (
        (PICTURE, COLOURS_SHOWN),
        (Image.fromarray(SHADES[..., 0]), greys(0, 100, 200, 255)),
        (Image.fromarray(WORDS[..., 0]), greys(0, 100, 200, 255)),
    ):
        assert_quarters(encoded(image, "JPEG2000", no_jp2=bare), expected)
    for image, expected in (
        (Image.fromarray(OPACITY.astype(np.uint8)), ON_WHITE),
        (Image.fromarray(GREY_OPACITY.astype(np.uint8), "LA"), greys(100, 152, 255, 90)),
    ):
        data = encoded(image, "JPEG2000", no_jp2=bare)
        if bare:  # where nothing says what the last channel is
            assert store_image(data, SETTINGS) == RefusedImage(Reason.UNSUPPORTED_PICTURE)
        else:
            assert_quarters(data, expected)


@pytest.mark.parametrize("image", [PICTURE, Image.fromarray(WORDS[..., 0])], ids=["RGB", "16 bits"])
def test_jpeg_2000_with_a_sign_is_refused(image: Image.Image) -> None:
    data = bytearray(encoded(image, "JPEG2000"))
    data[data.index(b"\xff\x4f\xff\x51") + 42] |= 0x80
    assert store_image(bytes(data), SETTINGS) == RefusedImage(Reason.UNSUPPORTED_PICTURE)


def with_space(data: bytes, space: int) -> bytes:
    place = data.index(b"colr") + 7
    return data[:place] + struct.pack(">I", space) + data[place + 4 :]


def test_jpeg_2000_of_other_colour_spaces() -> None:
    data = encoded(Image.fromarray(YCC.astype(np.uint8)), "JPEG2000", mct=0)
    assert_quarters(with_space(data, 18), YCC_SHOWN, 5)  # sYCC
    for space in (14, 20, 21):  # CIELab, e-sRGB, ROMM
        assert store_image(with_space(data, space), SETTINGS) == RefusedImage(Reason.UNSUPPORTED_PICTURE)
    assert box(b"jP  ", b"\r\n\x87\n") == data[:12]


def test_webp_and_avif_with_opacity() -> None:
    picture = Image.fromarray(OPACITY.astype(np.uint8))
    assert_quarters(encoded(picture, "WEBP", lossless=True, exact=True), ON_WHITE)
    assert_quarters(encoded(picture, "AVIF", quality=100), ON_WHITE, 6)


# Made with imagecodecs 2026.3.6, of the four colours of COLOURS in 10 bits: without and with an opacity of a half.
AVIF_10 = (
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAO"
    "cGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAQQAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAA"
    "AABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAAKAAAACgAAAAQcGl4aQAAAAADCgoKAAAADGF2MUOBIEAAAAAAE2NvbHJuY2x4AAIAAgAA"
    "gAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAASW1kYXQSAAoJOBVnn5wICAJAMjJEAADlgwelrOAM7zB9UGRPE8FSttZs9+ATcYBoXEpVdZwt"
    "ZiQd0KZf7JLoEKqB8LsTPA=="
)
AVIF_10_RGBA = (
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAAGGbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAO"
    "cGl0bQAAAAAAAQAAACxpbG9jAAAAAEQAAAIAAQAAAAEAAAG+AAAAQQACAAAAAQAAAa4AAAAQAAAAQmlpbmYAAAAAAAIAAAAaaW5mZQIAAAAA"
    "AQAAYXYwMUNvbG9yAAAAABppbmZlAgAAAAACAABhdjAxQWxwaGEAAAAAGmlyZWYAAAAAAAAADmF1eGwAAgABAAEAAADDaXBycAAAAJ1pcGNv"
    "AAAAFGlzcGUAAAAAAAAAKAAAACgAAAAQcGl4aQAAAAADCgoKAAAADGF2MUOBIEAAAAAAE2NvbHJuY2x4AAIAAgAAgAAAAA5waXhpAAAAAAEK"
    "AAAADGF2MUOBAFwAAAAAOGF1eEMAAAAAdXJuOm1wZWc6bXBlZ0I6Y2ljcDpzeXN0ZW1zOmF1eGlsaWFyeTphbHBoYQAAAAAeaXBtYQAAAAAA"
    "AAACAAEEAQKDBAACBAEFhgcAAABZbWRhdBIACgYYFWefnUAyBBAATXoSAAoJOBVnn5wICAJAMjJEAADlgwelrOAM7zB9UGRPE8FSttZs9+AT"
    "cYBoXEpVdZwtZiQd0KZf7JLoEKqB8LsTPA=="
)
JPEG_12 = (  # the same in 12 bits
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKBggL"
    "DAsKDAkKCgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgr/wQAR"
    "DAAoACgDASIAAhEBAxEB/8QAGAABAQEBAQAAAAAAAAAAAAAAAAsMCg3/xAApEAEAAAIIBAcAAAAAAAAAAAAADBETG0pqiKjH5gILFRcSGBoq"
    "SGFm/8QAGgEAAgMBAQAAAAAAAAAAAAAACw0JCgwIDv/EADsRAAACBgQJCAsAAAAAAAAAAAAFBAYHCAsVAwkKExQWFxscJFin1wIMJSY4OTtZ"
    "PISFh4imtba3uNb/2gAMAwEAAhEDEQA/AMFmAz/Yb4AtrQc3aLcIutK2siUwc3aLcIutK2sEa2nnvyGs+wftkmHn0Tnv36UKV+/wr/pS7iAC"
    "BEZRYeb31/rdNM9+xSv9bppnv2KnNh/F6LpQKnykd/TznGgNu/SNiMweZ9uVd44SjW6QZlz4zu/6j/2rPTuneT/5x01JSd7fxHDKXg+5zXEK"
    "8juv2dbZbJiwWTaUsHOuC6UwmMZTg1kNwqWoke/G5q5q45iqzZVcmcqKspjYTTBZox5n5yna8ctAMTKnvzIxTEnWUymur65obtHo6Ki5Afy1"
    "I2W6olicFe01y0sWlhkeX19hvsgx/X+frOok/wARFYJWaKr1VZodKapJVKlJU1WyXoVWy7DpdMTHDDZMT09K78K8juv2dbZY4DwMPzXrYXdk"
    "r59ab/Ziv9maCGz7DW81sPEEYWsA7rxI6LpUFk2lLBzrgulAXF8ec8V8rEvdJ+C2Yi3LVhdhtUvX/qaaAAQeO9x//9k="
)


def test_files_of_10_and_12_bits() -> None:
    assert_quarters(base64.b64decode(AVIF_10), COLOURS_SHOWN, 6)
    half = [tuple(round(level / 2 + 127.5) for level in colour) for colour in COLOURS_SHOWN]
    assert_quarters(base64.b64decode(AVIF_10_RGBA), half, 6)
    assert store_image(base64.b64decode(JPEG_12), SETTINGS) == RefusedImage(Reason.UNSUPPORTED_PICTURE)


PILLOW_MODES: dict[str, tuple[Any, Pixel | None]] = {
    "1": (1, (255, 255, 255)),
    "L": (70, (70, 70, 70)),
    "P": (0, (0, 0, 0)),
    "RGB": ((1, 2, 200), (1, 2, 200)),
    "RGBA": ((10, 20, 200, 51), (206, 208, 244)),
    "RGBX": ((1, 2, 200, 0), (1, 2, 200)),
    "RGBa": ((2, 4, 40, 51), (206, 208, 244)),
    "CMYK": ((255, 0, 0, 0), (0, 255, 255)),
    "YCbCr": ((81, 90, 240), (238, 14, 14)),
    "HSV": ((0, 255, 255), (255, 0, 0)),
    "LA": ((100, 51), (224, 224, 224)),
    "La": ((20, 51), (224, 224, 224)),
    "PA": ((0, 0), (255, 255, 255)),
    "I;16": (25_700, (100, 100, 100)),
    "I;16L": (25_700, (100, 100, 100)),
    "I;16B": (25_700, (100, 100, 100)),
    "I;16N": (25_700, (100, 100, 100)),
    "I": (100, None),
    "F": (100.0, None),
}


@pytest.mark.parametrize("mode", PILLOW_MODES)
def test_every_mode_of_pillow_is_flattened_or_refused(mode: str) -> None:
    colour, expected = PILLOW_MODES[mode]
    image = Image.new(mode, (2, 2), colour)
    if expected is None:
        with pytest.raises(ValueError, match="levels of mode"):
            flatten(image)
        return
    flat = flatten(image)
    assert flat.mode == "RGB"
    assert np.abs(np.asarray(flat).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("mode", "colour", "mark"),
    [("1", 1, 255), ("L", 70, 70), ("P", 0, 0), ("P", 0, b"\0"), ("RGB", (1, 2, 3), (1, 2, 3)), ("I;16", 700, 700)],
)
def test_a_marked_colour_is_white(mode: str, colour: Any, mark: Any) -> None:
    image = Image.new(mode, (2, 2), colour)
    image.info["transparency"] = mark
    assert np.asarray(flatten(image)).min() == 255
    other = Image.new(mode, (2, 2), (9, 9, 9) if mode == "RGB" else 0 if mode != "P" else 1)
    other.info["transparency"] = mark
    assert np.asarray(flatten(other)).max() < 20


def test_pixels_are_those_of_the_first_page() -> None:
    pages = [Image.new("RGB", SIZE, (10, 20, 30)), Image.new("RGB", SIZE, (200, 200, 200))]
    for form, options in (("TIFF", {}), ("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("MPO", {})):
        data = encoded(pages[0], form, save_all=True, append_images=pages[1:], **options)
        with Image.open(io.BytesIO(data)) as image:
            assert getattr(image, "n_frames", 1) == 2
        assert_quarters(data, [(10, 20, 30)] * 4, 4)
