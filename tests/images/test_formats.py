"""Each format is read from real bytes: its first frame, upright; all others are refused."""

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import Reason
from microdiff.images.normalize import RefusedImage, StoredImage, store_image
from microdiff.images.ops import decode
from picture_files import box, chunk, encoded, tiff, with_chunk

SETTINGS = DownloadSettings(min_side_px=32, max_side_px=64, jpeg_quality=95)


def corners(width: int = 60, height: int = 40) -> Image.Image:
    image = Image.new("RGB", (width, height), (200, 30, 30))
    image.paste((30, 200, 30), (width // 2, 0, width, height // 2))
    image.paste((30, 30, 200), (0, height // 2, width // 2, height))
    image.paste((200, 200, 200), (width // 2, height // 2, width, height))
    return image


def stored(data: bytes) -> StoredImage:
    outcome = store_image(data, SETTINGS)
    assert isinstance(outcome, StoredImage), outcome
    return outcome


def assert_corners(data: bytes, expected: Image.Image | None = None) -> None:
    outcome = stored(data)
    expected = expected or corners()
    assert (outcome.original_width, outcome.original_height) == expected.size
    difference = np.asarray(decode(outcome.data)).astype(int) - np.asarray(expected.convert("RGB"))
    assert np.abs(difference).mean() < 5


def two() -> dict[str, Any]:
    """Return how to save two frames. Pillow remembers at an image how it was saved: each needs its own."""
    return {"save_all": True, "append_images": [Image.new("RGB", (60, 40), (9, 9, 9))]}


READ: dict[str, bytes] = {
    "JPEG": encoded(corners(), "JPEG"),
    "JFIF without a version": encoded(corners(), "JPEG").replace(b"JFIF\0\1\1", b"JFIF\0\1\0"),
    "MPO": encoded(corners(), "MPO", **two()),
    "PNG": encoded(corners(), "PNG"),
    "APNG": encoded(corners(), "PNG", **two()),
    "APNG with another picture for other readers": encoded(corners(), "PNG", default_image=True, **two()),
    "WebP": encoded(corners(), "WEBP"),
    "animated WebP": encoded(corners(), "WEBP", lossless=True, **two()),
    "GIF": encoded(corners().quantize(16), "GIF"),
    "animated GIF": encoded(corners(), "GIF", **two()),
    "BMP": encoded(corners(), "BMP"),
    "TIFF": encoded(corners(), "TIFF"),
    "TIFF of two pages": encoded(corners(), "TIFF", **two()),
    "AVIF": encoded(corners(), "AVIF"),
    "animated AVIF": encoded(corners(), "AVIF", **two()),
    "JP2": encoded(corners(), "JPEG2000"),
    "JPEG 2000 codestream": encoded(corners(), "JPEG2000", no_jp2=True),
}


@pytest.mark.parametrize("data", READ.values(), ids=READ.keys())
def test_the_first_frame_of_each_format_is_read(data: bytes) -> None:
    assert_corners(data)


HEIC = box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"meta", bytes(200)) + box(b"mdat", bytes(2000))
OTHERS: dict[str, bytes] = {
    "ICO": encoded(corners().resize((64, 64)), "ICO"),
    "HEIC": HEIC,
    "HEIC in a neutral brand": HEIC.replace(b"ftypheic", b"ftypmif1"),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="9" height="9"/></svg>',
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(20_000),
    "EPS": encoded(corners(), "EPS"),
    "ICNS": encoded(corners().resize((64, 64)), "ICNS"),
    "TGA": encoded(corners(), "TGA"),
    "PPM": encoded(corners(), "PPM"),
    "PCX": encoded(corners(), "PCX"),
    "JPEG XL": b"\xff\x0a" + bytes(3000),
    "MP4": box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41") + box(b"mdat", bytes(2000)),
    "HTML": b"<!DOCTYPE html><title>404</title>",
    "gzip": zlib.compress(b"x" * 1000, wbits=31),
    "a compressed picture": zlib.compress(encoded(corners(), "PNG"), wbits=31),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS.keys())
def test_other_formats_are_refused(data: bytes) -> None:
    outcome = store_image(data, SETTINGS)
    assert isinstance(outcome, RefusedImage)
    assert outcome.reason in (Reason.UNDECODABLE, Reason.UNSUPPORTED_PICTURE)


# --- upright

_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # the stored picture is turned the other way than a viewer turns it
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("MPO", "RGB", {}),
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("WEBP", "RGB", {"quality": 95}),
        ("TIFF", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "I;16", {}),
        ("AVIF", "RGB", {"quality": 95}),
    ],
)
@pytest.mark.parametrize(("orientation", "turn"), _TURNS.items())
def test_pictures_are_turned_once(
    orientation: int, turn: Image.Transpose | None, form: str, mode: str, options: dict[str, Any]
) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    image = corners() if turn is None else corners().transpose(turn)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.quantize(16) if mode == "P" else image.convert(mode)
    assert_corners(
        encoded(image, form, exif=tags, **options), corners().convert("L") if mode in ("L", "I;16") else None
    )


def test_exif_data_behind_the_pixels_of_a_png_count() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    data = encoded(corners().transpose(Image.Transpose.ROTATE_90), "PNG")
    assert_corners(data[:-12] + chunk(b"eXIf", tags.tobytes()[6:]) + data[-12:])


def test_exif_data_of_an_avif_do_not_count_beside_its_own_way_to_say_it() -> None:
    tags = Image.Exif()
    tags[0x0128] = 6  # Pillow does not write an orientation into the EXIF data of an AVIF: this becomes one
    data = encoded(corners(), "AVIF", exif=tags)
    order = "<" if b"II*\0" in data else ">"
    unit, orientation = (struct.pack(f"{order}HHI", tag, 3, 1) for tag in (0x0128, 0x0112))
    assert data.count(unit) == 1
    data = data.replace(unit, orientation)
    assert_corners(data)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("AVIF", {}),
    ],
)
def test_the_orientation_in_xmp_data_does_not_count(form: str, options: dict[str, Any]) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    if form == "PNG":
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
        data = with_chunk(encoded(corners(), form), b"iTXt", text)
    elif form == "TIFF":
        data = encoded(corners(), form, tiffinfo={700: xmp}, **options)
    else:
        data = encoded(corners(), form, xmp=xmp, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[0x0112] == 6  # by Pillow
    assert_corners(data)


# --- what was made to take long


@pytest.mark.parametrize(
    "data",
    [
        encoded(corners(), "JPEG")[:-40] + b"\xff" * 1_000_000 + b"\0" + encoded(corners(), "JPEG")[-30:],
        b"\xff\xd8" + b"\xff" * 2_000_000 + b"\0\xff\xd9",
        encoded(corners(), "JPEG", progressive=True)[:-2] + b"\xff\xda\0\x08\1\1\0\1\x3f\0" * 20_000 + b"\xff\xd9",
        *(
            tiff([bytes(500_000)], (2000, 2000), {258: ("H", [1]), 259: ("H", [compression]), 262: ("H", [0])})
            for compression in (2, 3, 4)
        ),
        tiff([zlib.compress(bytes(50_000_000))], (64, 64), {258: ("H", [8]), 259: ("H", [8]), 262: ("H", [1])}),
    ],
    ids=["fill bytes in a scan", "fill bytes", "scans", "fax rows", "fax 3", "fax 4", "a bomb in a strip"],
)
def test_strange_files_take_no_time(data: bytes) -> None:
    start = time.process_time()
    assert store_image(data, SETTINGS) == RefusedImage(Reason.UNDECODABLE)
    assert time.process_time() - start < 5
    assert Image.open(io.BytesIO(encoded(corners(), "PNG"))).size == corners().size
