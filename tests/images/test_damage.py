"""Pictures of which pixels are missing are refused, whatever decodes them; whole ones with oddities are kept."""

import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import Reason
from microdiff.images.jpeg import check_headers, decode_jpeg, is_whole, tidied
from microdiff.images.normalize import RefusedImage, StoredImage, store_image
from microdiff.images.ops import decode
from picture_files import chunk, encoded, plain_rows, png, png_chunks, tiff, with_chunk

KEEP = DownloadSettings(min_side_px=32, max_side_px=4096, jpeg_quality=95)
REDUCE = DownloadSettings(min_side_px=32, max_side_px=64, jpeg_quality=95)
BOTH = pytest.mark.parametrize("settings", [KEEP, REDUCE], ids=["kept", "reduced"])
UNDECODABLE = RefusedImage(Reason.UNDECODABLE)
END = b"\xff\xd9"


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with zipfile.ZipFile(Path(__file__).resolve().parents[2] / "samples/coco/zips/val2014.zip") as archive:
        data = archive.read("val2014/COCO_val2014_000000607116.jpg")
    return Image.open(io.BytesIO(data)).convert("RGB").resize((320, 240))


def levels(data: bytes) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.asarray(decode(data)).astype(np.int16)


def assert_whole(data: bytes, plain: bytes, settings: DownloadSettings) -> None:
    """Check that a file is stored with the pixels of another."""
    outcome, expected = store_image(data, settings), store_image(plain, settings)
    assert isinstance(outcome, StoredImage), outcome
    assert isinstance(expected, StoredImage), expected
    if expected.data == plain:
        assert outcome.data in (data, data + END)  # without one, Pillow would not read it again
    np.testing.assert_array_equal(levels(outcome.data), levels(expected.data))


# --- damage of any kind, in any format

JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {"quality": 90},
    "4:4:4": {"quality": 95, "subsampling": 0},
    "optimized": {"quality": 85, "optimize": True},
    "progressive": {"quality": 90, "progressive": True},
    "restarts": {"quality": 90, "restart_marker_blocks": 20},
}
FORMS: dict[str, tuple[str, str, dict[str, Any], bytes]] = {
    **{f"JPEG {name}": ("JPEG", "RGB", options, END) for name, options in JPEGS.items()},
    "JPEG grey": ("JPEG", "L", {"quality": 90}, END),
    "JPEG grey progressive": ("JPEG", "L", {"progressive": True}, END),
    "JPEG CMYK": ("JPEG", "CMYK", {"quality": 90}, END),
    "MPO": ("MPO", "RGB", {"quality": 90}, END),
    "PNG": ("PNG", "RGB", {}, chunk(b"IEND", b"")),
    "PNG palette": ("PNG", "P", {}, chunk(b"IEND", b"")),
    "PNG grey": ("PNG", "L", {}, chunk(b"IEND", b"")),
    "GIF": ("GIF", "P", {}, b"\0;"),
    "GIF interlaced": ("GIF", "P", {"interlace": 1}, b"\0;"),
    "BMP": ("BMP", "RGB", {}, b""),
    **{
        f"TIFF {name}": ("TIFF", "RGB", {"compression": name}, b"")
        for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd")
    },
    **{f"TIFF {name}": ("TIFF", "1", {"compression": name}, b"") for name in ("group3", "group4", "tiff_ccitt")},
    "WebP": ("WEBP", "RGB", {"quality": 90}, b""),
    "WebP lossless": ("WEBP", "RGB", {"lossless": True}, b""),
    "WebP with opacity": ("WEBP", "RGBA", {"quality": 90}, b""),
    "AVIF": ("AVIF", "RGB", {"speed": 10}, b""),
    "JPEG 2000": ("JPEG2000", "RGB", {}, END),
    "JPEG 2000 tiles": ("JPEG2000", "RGB", {"no_jp2": True, "tile_size": (128, 128)}, END),
}
# Zeros in these are pixels like others, or codes that nothing checks.
UNCHECKED = ("BMP", "TIFF raw", "TIFF packbits", "TIFF zstd", "WebP", "AVIF", "JPEG 2000")


def example(photo: Image.Image, form: str) -> bytes:
    name, mode, options, _ = FORMS[form]
    return encoded(photo.quantize(64) if mode == "P" else photo.convert(mode), name, **options)


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_missing_data_are_noticed(photo: Image.Image, form: str, settings: DownloadSettings) -> None:
    data = example(photo, form)
    assert isinstance(store_image(data, settings), StoredImage)
    end = FORMS[form][3]
    start = min(1000, len(data) // 4)
    for place in np.linspace(start, len(data) - 100, 9).astype(int):
        lost = data[:place] + data[min(place + 4096, len(data) - 40) :]
        for damaged in (data[:place], data[:place] + end, lost):
            assert store_image(damaged, settings) == UNDECODABLE, (place, len(data))


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith(UNCHECKED)])
def test_wrong_data_are_noticed_where_something_tells(photo: Image.Image, form: str) -> None:
    """In JPEGs, by chance, a few look right to the last bit."""
    data = example(photo, form)
    plain = store_image(data, KEEP)
    assert isinstance(plain, StoredImage)
    kept = 0
    for place in np.linspace(1000, len(data) - 2400, 20).astype(int):
        outcome = store_image(data[:place] + bytes(2048) + data[place + 2048 :], KEEP)
        kept += isinstance(outcome, StoredImage) and not np.array_equal(levels(outcome.data), levels(plain.data))
    assert kept <= (3 if form.startswith(("JPEG", "MPO")) else 0)


@BOTH
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_jpeg_with_an_end_marker_is_refused(photo: Image.Image, share: float, settings: DownloadSettings) -> None:
    for options in JPEGS.values():
        data = encoded(photo, "JPEG", **options)
        assert store_image(data[: int(len(data) * share)] + END, settings) == UNDECODABLE


# --- JPEG


def segments(data: bytes) -> list[int]:
    """Return where a JPEG's segments start."""
    places = [2]
    while data[places[-1] + 1] != 0xDA:
        places.append(places[-1] + 2 + int.from_bytes(data[places[-1] + 2 : places[-1] + 4], "big"))
    return places


@BOTH
@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_what_harms_no_pixel_of_a_jpeg_is_kept(
    photo: Image.Image, kind: str, mode: str, settings: DownloadSettings
) -> None:
    plain = encoded(photo.convert(mode), "JPEG", **JPEGS[kind])
    scan = segments(plain)[-1]
    oddities = {
        "bytes behind it": plain + b"trailing" * 500,
        "another picture behind it": plain + plain,
        "zeros before its end": plain[:-2] + bytes(3000) + END,
        "a few bytes before its end": plain[:-2] + b"\x12\x34\x56" + END,
        "more of them": plain[:-2] + b"a few bytes more" + END,
        "no end": plain[:-2],
        "half an end": plain[:-1],
        "fill bytes": plain[:scan] + b"\xff" * 9 + plain[scan:],
        "an APP segment of nonsense": plain[:2] + b"\xff\xe5\0\x07hello" + plain[2:],
        "EXIF data of nonsense": plain[:2] + b"\xff\xe1\0\x10Exif\0\0garbage!"[:18] + plain[2:],
        **{
            f"bytes before segment {number}": plain[:place] + b"\0some bytes" * 50 + plain[place:]
            for number, place in enumerate(segments(plain)[1:], 2)
        },
    }
    if b"JFIF" in plain:
        oddities["a later JFIF"] = plain.replace(b"JFIF\0\1\1", b"JFIF\0\3\1")
    for what, data in oddities.items():
        outcome = store_image(data, settings)
        assert isinstance(outcome, StoredImage), what
        assert_whole(data, plain, settings)
        damaged = data[: scan + len(data) // 3] + END
        assert store_image(damaged, settings) == UNDECODABLE, what


@BOTH
def test_segments_that_are_too_short_are_left_out(photo: Image.Image, settings: DownloadSettings) -> None:
    plain = encoded(photo, "JPEG")
    for marker, begin, length in ((0xE0, b"JFIF", 6), (0xE2, b"ICC_PROFILE\0", 13), (0xEE, b"Adobe", 6)):
        for size in range(len(begin), length + 1):
            stump = bytes([0xFF, marker, 0, size + 2]) + begin.ljust(size, b"\0")
            outcome = store_image(plain[:2] + stump + plain[2:], settings)
            assert outcome == store_image(plain, settings)


@BOTH
def test_padding_behind_every_scan_is_no_damage(photo: Image.Image, settings: DownloadSettings) -> None:
    plain = encoded(photo, "JPEG", quality=90, progressive=True)
    padded = re.sub(rb"(?<!^)\xff(?=[\xc4\xda\xd9])", b"sixteen bytes ...\xff", plain[200:])
    assert padded.count(b"sixteen") > 5
    first = segments(plain)
    start = first[-1] + 10  # within the first scan
    padded = plain[:start] + re.sub(rb"\xff(?=[\xc4\xda\xd9])", b"16 bytes behind it\xff"[2:], plain[start:])
    assert_whole(padded, plain, settings)


@BOTH
def test_scans_that_are_missing_as_a_whole_are_missed(photo: Image.Image, settings: DownloadSettings) -> None:
    data = encoded(photo, "JPEG", quality=90, progressive=True)
    starts = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    assert len(starts) == 10
    check_headers(data)
    for start in starts[1:]:
        damaged = data[:start] + END
        assert is_whole(damaged, photo.size)  # by libjpeg, which says nothing
        with pytest.raises(OSError, match="scans are missing"):
            check_headers(damaged)
        assert store_image(damaged, settings) == UNDECODABLE


def test_a_colour_without_its_scan_is_missed(photo: Image.Image) -> None:
    """Of a file with a scan for each colour, which is made of three grey ones."""
    planes = [encoded(plane, "JPEG", quality=90) for plane in photo.convert("YCbCr").split()]
    scans = [plane[segments(plane)[-1] :][:-2] for plane in planes]
    head = planes[0][: segments(planes[0])[-1]]
    frame = head.index(b"\xff\xc0")
    height_width = head[frame + 5 : frame + 9]
    three = b"\xff\xc0\0\x11\x08" + height_width + b"\x03\x01\x11\0\x02\x11\0\x03\x11\0"
    head = head[:frame] + three + head[frame + 2 + int.from_bytes(head[frame + 2 : frame + 4], "big") :]
    named = [scan[:5] + bytes([number]) + scan[6:] for number, scan in enumerate(scans, 1)]
    data = head + b"".join(named) + END
    assert np.abs(levels(data) - np.asarray(photo)).mean() < 4
    assert store_image(data, KEEP) == StoredImage(data, "jpg", *photo.size, *photo.size)
    for missing in range(3):
        rest = b"".join(scan for number, scan in enumerate(named) if number != missing)
        assert store_image(head + rest + END, KEEP) == UNDECODABLE


def test_a_tidied_file_has_the_pixels_of_the_untidy_one(photo: Image.Image) -> None:
    for options in JPEGS.values():
        plain = encoded(photo, "JPEG", **options)
        scan = segments(plain)[-1]
        untidy = plain[:scan] + b"junk" + plain[scan:-2] + b"\0\0\0padding" + END
        assert decode_jpeg(untidy, photo.size) is None
        tidy = tidied(untidy, photo.size)
        assert tidy is not None
        pixels = decode_jpeg(tidy, photo.size)
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(untidy))))
        assert tidied(untidy[: len(plain) // 2], photo.size) is None


def test_much_that_is_left_over_is_damage(photo: Image.Image) -> None:
    plain = encoded(photo, "JPEG", quality=90)
    assert store_image(plain[:-2] + random.Random(0).randbytes(200).replace(b"\xff", b"") + END, KEEP) == UNDECODABLE
    # Zeros up to the end, some of which were taken for pixels.
    assert store_image(plain[:-900] + bytes(20_000) + END, KEEP) == UNDECODABLE


# --- PNG


def rebuilt(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


PNG_MODES = ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"]


@BOTH
@pytest.mark.parametrize("mode", PNG_MODES)
@pytest.mark.parametrize("rows", [1, 10, 239])
def test_a_png_with_fewer_rows_than_it_says_is_refused(
    photo: Image.Image, mode: str, rows: int, settings: DownloadSettings
) -> None:
    """All its chunks are valid, and so is the compressed stream."""
    image = photo.quantize(16) if mode == "P" else photo.convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    chunks = list(png_chunks(encoded(image, "PNG")))
    raw = zlib.decompress(b"".join(content for name, content in chunks if name == b"IDAT"))
    assert len(raw) % photo.height == 0
    cut = zlib.compress(raw[: rows * (len(raw) // photo.height)])
    head = [each for each in chunks if each[0] not in (b"IDAT", b"IEND")]
    assert store_image(rebuilt([*head, (b"IDAT", cut), (b"IEND", b"")]), settings) == UNDECODABLE
    whole = rebuilt([*head, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])
    assert_whole(whole, encoded(image, "PNG"), settings)


def interlaced_rows(pixels: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    """Return the rows of Adam7."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    return b"".join(plain_rows(pixels[top::down, left::across]) for top, left, down, across in passes)


@BOTH
def test_an_interlaced_png_is_read_and_missed_if_it_is_short(photo: Image.Image, settings: DownloadSettings) -> None:
    rows = interlaced_rows(np.asarray(photo))
    whole = png(rows, photo.size, 8, 2, interlaced=True)
    assert_whole(whole, encoded(photo, "PNG"), settings)
    row = photo.width * 3 + 1
    for missing in (row, 50 * row, len(rows) - 100 * (photo.width // 8 * 3 + 1) // 4):
        assert store_image(png(rows[:-missing], photo.size, 8, 2, interlaced=True), settings) == UNDECODABLE


@BOTH
@pytest.mark.parametrize("colour", [(254, 1, 254), (0, 255, 0), (0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P"])
def test_no_colour_of_the_last_row_looks_missing(
    colour: tuple[int, int, int], mode: str, settings: DownloadSettings
) -> None:
    image = Image.new("RGB", (50, 40), colour)
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    for form in ("PNG", "GIF"):
        assert isinstance(store_image(encoded(image, form), settings), StoredImage)


def test_an_animated_png_whose_first_frame_is_too_small_is_refused(photo: Image.Image) -> None:
    data = encoded(photo, "PNG")
    for box, is_whole_picture in (((100, 100, 0, 140), False), ((*photo.size, 0, 0), True)):
        control = struct.pack(">5I2H2B", 0, *box, 1, 10, 0, 0)
        animated = with_chunk(with_chunk(data, b"fcTL", control), b"acTL", struct.pack(">2I", 1, 0))
        assert isinstance(store_image(animated, KEEP), StoredImage) == is_whole_picture


def test_a_palette_that_is_missing_is_no_black_picture() -> None:
    rows = plain_rows(np.ones((40, 40), np.uint8))
    assert isinstance(store_image(png(rows, (40, 40), 8, 3, before=[(b"PLTE", b"abcdef")]), KEEP), StoredImage)
    assert store_image(png(rows, (40, 40), 8, 3), KEEP) == UNDECODABLE
    data = gif(rows_of(48, 40), (0, 0, 48, 40))
    without = data[:10] + b"\0" + data[11:13] + data[13 + 48 :]
    assert store_image(without, KEEP) == RefusedImage(Reason.UNSUPPORTED_PICTURE)
    local = without[:22] + bytes([0x83]) + data[13 : 13 + 48] + without[23:]
    assert_whole(local, data, KEEP)
    grey = b"".join(bytes([level] * 3) for level in range(16))
    assert isinstance(store_image(without[:22] + bytes([0x83]) + grey + without[23:], KEEP), StoredImage)


@BOTH
def test_oddities_of_a_png_that_harm_no_pixel(photo: Image.Image, settings: DownloadSettings) -> None:
    plain = encoded(photo, "PNG")
    chunks = list(png_chunks(plain))
    data = b"".join(content for name, content in chunks if name == b"IDAT")
    head, end = [chunks[0]], (b"IEND", b"")
    pieces = [(b"IDAT", data[start : start + 8192]) for start in range(0, len(data), 8192)]
    for odd in (
        plain + b"trailing",
        plain[:-12],
        rebuilt([*head, (b"tEXt", b"Comment\0hello"), *pieces, end]),
        rebuilt([*head, (b"IDAT", b""), *pieces, (b"IDAT", b""), end]),
        rebuilt([*head, (b"IDAT", data + b"behind the stream"), end]),
        rebuilt([*head, (b"IDAT", data[:-4]), end]),  # without the stream's checksum
        rebuilt([*head, (b"IDAT", zlib.compress(zlib.decompress(data) + bytes(9 * 961))), end]),  # more rows
        rebuilt([*head, *pieces, (b"tEXt", b"Comment\0hello"), end]),
    ):
        assert_whole(odd, plain, settings)
    for place in range(1, len(pieces) - 1, 3):
        assert store_image(rebuilt([*head, *pieces[:place], *pieces[place + 1 :], end]), settings) == UNDECODABLE
    changed = bytearray(plain)
    changed[-17] ^= 1  # the checksum of the last chunk of pixel data
    assert store_image(bytes(changed), settings) == UNDECODABLE


# --- GIF


def gif_codes(pixels: bytes, bits: int) -> bytes:
    """Return LZW blocks that never use a code of more bits: they clear the table before it grows."""
    clear, stop = 1 << bits, (1 << bits) + 1
    codes: list[int] = []
    for place, pixel in enumerate(pixels):
        codes += [clear, pixel] if place % (clear - 2) == 0 else [pixel]
    packed = 0
    for place, code in enumerate([*codes, stop]):
        packed |= code << place * (bits + 1)
    data = packed.to_bytes(((len(codes) + 1) * (bits + 1) + 7) // 8, "little")
    blocks = [data[start : start + 255] for start in range(0, len(data), 255)]
    return bytes([bits]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def gif(
    pixels: bytes,
    box: tuple[int, int, int, int],
    *,
    canvas: tuple[int, int] = (48, 40),
    transparent: int | None = None,
    interlaced: bool = False,
) -> bytes:
    """Return a GIF of 16 greys in steps of 10, from 100, with one frame."""
    palette = b"".join(bytes([100 + 10 * n, 0, 0]) for n in range(16))
    control = b"" if transparent is None else b"!\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    left, top, width, height = box
    frame = b"," + struct.pack("<4HB", left, top, width, height, 0x40 if interlaced else 0)
    return (
        b"GIF89a" + struct.pack("<2HBBB", *canvas, 0xF3, 0, 0) + palette + control + frame + gif_codes(pixels, 4) + b";"
    )


def rows_of(width: int, height: int) -> bytes:
    return b"".join(bytes([row % 16]) * width for row in range(height))


@BOTH
@pytest.mark.parametrize("transparent", [None, 3, 15])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("rows", [1, 20, 39])
def test_a_gif_with_fewer_rows_than_it_says_is_refused(
    rows: int, interlaced: bool, transparent: int | None, settings: DownloadSettings
) -> None:
    options: dict[str, Any] = {"transparent": transparent, "interlaced": interlaced}
    pixels = rows_of(48, 40)
    assert isinstance(store_image(gif(pixels, (0, 0, 48, 40), **options), settings), StoredImage)
    assert store_image(gif(pixels[: rows * 48], (0, 0, 48, 40), **options), settings) == UNDECODABLE


@pytest.mark.parametrize("transparent", [None, 3])
def test_what_a_gifs_frame_leaves_out_is_white(transparent: int | None) -> None:
    best = DownloadSettings(min_side_px=32, max_side_px=64, jpeg_quality=100)
    outcome = store_image(gif(rows_of(16, 16), (16, 8, 16, 16), transparent=transparent), best)
    assert isinstance(outcome, StoredImage)
    assert (outcome.width, outcome.height) == (48, 40)
    red = levels(outcome.data)
    for place in ((2, 2), (2, 40), (38, 2), (38, 40), (4, 24), (28, 24)):
        assert red[place].min() > 245
    found = red[8:24, 24, 0]
    expected = np.array([255 if row == transparent else 100 + 10 * row for row in range(16)])
    assert np.abs(found - expected).max() < 40  # rows of other shades next to each other, in JPEG
    assert np.abs(found - expected).mean() < 12


def webp_frame(picture: Image.Image, left: int, top: int) -> bytes:
    """Return a frame of an animation, which lasts for 100 ms."""
    content = encoded(picture, "WEBP", lossless=True)[12:]
    sides = b"".join((side - 1).to_bytes(3, "little") for side in picture.size)
    place = b"".join((offset // 2).to_bytes(3, "little") for offset in (left, top))
    frame = place + sides + (100).to_bytes(3, "little") + b"\x02" + content
    return b"ANMF" + struct.pack("<I", len(frame)) + frame


@pytest.mark.parametrize("has_opacity", [False, True])
def test_what_a_webps_first_frame_leaves_out_is_white(has_opacity: bool) -> None:
    small, large = (Image.new("RGB", size, (200, 0, 0)) for size in ((16, 16), (48, 40)))
    flags = 0x12 if has_opacity else 0x02
    head = b"VP8X" + struct.pack("<II", 10, flags) + (47).to_bytes(3, "little") + (39).to_bytes(3, "little")
    chunks = head + b"ANIM" + struct.pack("<IIH", 6, 0, 0) + webp_frame(small, 16, 8) + webp_frame(large, 0, 0)
    outcome = store_image(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks, KEEP)
    assert isinstance(outcome, StoredImage)
    pixels = levels(outcome.data)
    assert pixels.shape == (40, 48, 3)
    for row, column in ((2, 2), (2, 40), (38, 2), (38, 40), (4, 24), (28, 24)):
        assert pixels[row, column].min() > 245
    assert np.abs(pixels[10:22, 18:30] - [200, 0, 0]).max() < 16


# --- TIFF


def tiff_blocks(photo: Image.Image, rows: int) -> list[bytes]:
    pixels = np.asarray(photo)
    return [pixels[start : start + rows].tobytes() for start in range(0, photo.height, rows)]


COMPRESSIONS: dict[int, Callable[[bytes], bytes]] = {1: bytes, 8: zlib.compress, 32946: zlib.compress}


@BOTH
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_tiff_strips_that_are_short_or_missing(
    photo: Image.Image, compression: int, settings: DownloadSettings
) -> None:
    tags: dict[int, tuple[str, list[int]]] = {
        258: ("H", [8] * 3),
        259: ("H", [compression]),
        262: ("H", [2]),
        277: ("H", [3]),
        278: ("I", [64]),
    }
    raw = tiff_blocks(photo, 64)  # the last has 48 rows
    pack = COMPRESSIONS[compression]
    blocks = list(map(pack, raw))
    whole = tiff(blocks, photo.size, tags)
    assert_whole(whole, encoded(photo, "TIFF"), settings)
    assert_whole(whole + b"trailing", encoded(photo, "TIFF"), settings)
    assert_whole(tiff([*blocks[:-1], pack(raw[-1] + bytes(16 * 960))], photo.size, tags), whole, settings)
    for damaged in (
        tiff(blocks[:-1], photo.size, tags),
        tiff([*blocks[:-1], pack(raw[-1][:-960])], photo.size, tags),
        tiff([pack(raw[0][:-960]), *blocks[1:]], photo.size, tags),
        tiff([blocks[0], b"", *blocks[2:]], photo.size, tags),
        tiff(blocks, (photo.width, photo.height + 64), tags),
        tiff(blocks, photo.size, tags, byte_counts=[len(blocks[0]) // 2, *map(len, blocks[1:])]),
        whole[:-500],
    ):
        assert store_image(damaged, settings) == UNDECODABLE


def test_old_tiffs_without_byte_counts_are_read(photo: Image.Image) -> None:
    tags: dict[int, tuple[str, list[int]]] = {258: ("H", [8] * 3), 262: ("H", [2]), 277: ("H", [3])}
    data = tiff([photo.tobytes()], photo.size, tags, byte_counts=[0])
    assert_whole(data, encoded(photo, "TIFF"), KEEP)


@BOTH
def test_a_missing_tile_is_missed(photo: Image.Image, settings: DownloadSettings) -> None:
    pixels = np.asarray(photo.resize((128, 96)))
    tiles = [pixels[y : y + 32, x : x + 32].tobytes() for y in range(0, 96, 32) for x in range(0, 128, 32)]
    tags: dict[int, tuple[str, list[int]]] = {258: ("H", [8] * 3), 262: ("H", [2]), 277: ("H", [3])}
    tags |= {322: ("I", [32]), 323: ("I", [32])}
    assert isinstance(store_image(tiff(tiles, (128, 96), tags), settings), StoredImage)
    assert store_image(tiff(tiles[:-1], (128, 96), tags), settings) == UNDECODABLE
    assert store_image(tiff([*tiles[:-1], tiles[-1][:-96]], (128, 96), tags), settings) == UNDECODABLE


# --- JPEG 2000


@BOTH
@pytest.mark.parametrize("bare", [False, True])
def test_a_missing_tile_of_jpeg_2000_is_missed(photo: Image.Image, bare: bool, settings: DownloadSettings) -> None:
    data = encoded(photo, "JPEG2000", no_jp2=bare, tile_size=(128, 128))
    place = data.index(b"\xff\x90")
    head, parts = data[:place], []
    while data[place : place + 2] == b"\xff\x90":
        length = int.from_bytes(data[place + 6 : place + 10], "big")
        parts.append(data[place : place + length])
        place += length
    assert len(parts) == 6
    assert isinstance(store_image(head + b"".join(parts) + data[place:], settings), StoredImage)
    for missing in range(6):
        rest = b"".join(part for number, part in enumerate(parts) if number != missing)
        assert store_image(head + rest + data[place:], settings) == UNDECODABLE
    announced = parts[2][:11] + b"\2" + parts[2][12:]  # one part of two
    assert store_image(head + b"".join([*parts[:2], announced, *parts[3:]]) + data[place:], settings) == UNDECODABLE


# --- BMP


def bmp_runs(runs: bytes) -> bytes:
    """Return a BMP of 40 by 40 pixels, 8 bits, compressed by runs."""
    palette = b"".join(bytes([n, n, 200, 0]) for n in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 40, 40, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + palette + runs


def test_a_bmp_of_runs_that_end_early_is_refused() -> None:
    row = bytes([40, 7, 0, 0])
    assert isinstance(store_image(bmp_runs(row * 40 + b"\0\1"), KEEP), StoredImage)
    assert store_image(bmp_runs(row * 20 + b"\0\1"), KEEP) == UNDECODABLE
    assert store_image(bmp_runs(row * 20), KEEP) == UNDECODABLE
