"""What files say of their colours: a profile, or numbers that describe one (PNG, AVIF).

A statement that viewers follow is followed; which ones that are not is in docs/sources.md.
"""

import struct
from collections.abc import Callable

import numpy as np
from PIL import Image

from microdiff.images import boxes, png
from microdiff.images.primaries import CODED_PRIMARIES, SRGB, Primaries, matrix_profile
from microdiff.images.refusals import UnsupportedPicture

Stated = tuple[bytes, bool]  # a profile, empty if broken, and whether it is made of numbers

# Curves by their numbers in ITU-T H.273. Those that cameras apply are shown as sRGB's.
_LIKE_SRGB, _CAMERAS = (2, 13), (1, 6, 14, 15)
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_ORDINARY = (1, 2, 5, 6)  # primaries of pictures that are not of a wide gamut
_GAMMA_TOLERANCE = 0.05  # what libpng takes for the same
_POINT_TOLERANCE = 0.01  # likewise
_ENUMERATED, _PROFILES, _KNOWN_SPACES = "1", ("2", "3"), (12, 16, 17, 18)  # of JP2: CMYK, sRGB, its grey and its YCC
_BROKEN: Stated = (b"", False)


def stated_profile(image: Image.Image, data: bytes) -> Stated | None:
    """Return the profile of a picture's levels; None where it is sRGB by statement or for want of one.

    Args:
        image: As opened from the data.
        data: The file.

    Raises:
        UnsupportedPicture: They are light that sRGB cannot show, or in a space that is not known.
    """
    special: dict[str, Callable[[Image.Image, bytes], Stated | None]] = {
        "PNG": _of_png,
        "AVIF": _of_avif,
        "JPEG2000": _of_jp2,
        "BMP": _of_bmp,
    }
    return special.get(image.format or "", _embedded)(image, data)


def _embedded(image: Image.Image, _: bytes) -> Stated | None:
    if "icc_profile" not in image.info:
        return None
    return image.info["icc_profile"] or b"", False  # Pillow has None where parts are missing


def _of_png(image: Image.Image, data: bytes) -> Stated | None:
    chunks = png.png_facts(data).chunks
    if len(code := chunks.get(b"cICP", b"")) == 4:
        if code[2:] != b"\0\1":
            raise UnsupportedPicture("no RGB of full range")
        return _coded(code[0], code[1])
    if b"iCCP" in chunks or b"sRGB" in chunks or b"gAMA" not in chunks:
        return _embedded(image, data) if b"iCCP" in chunks else None
    gamma = int.from_bytes(chunks[b"gAMA"][:4], "big") / 100_000
    if not gamma:
        return _BROKEN
    points = _points(chunks.get(b"cHRM", b""))
    is_usual = abs(gamma * 2.2 - 1) < _GAMMA_TOLERANCE
    is_srgb = np.abs(np.subtract(points, SRGB)).max() <= _POINT_TOLERANCE
    if is_usual and is_srgb:
        return None
    return _made(points, None if is_usual else 1 / gamma)


def _points(chunk: bytes) -> Primaries:
    """Return the primaries of a cHRM chunk, sRGB's where it is missing."""
    if len(chunk) != 32:
        return SRGB
    numbers = [number / 100_000 for number in struct.unpack(">8I", chunk)]
    white, red, green, blue = zip(numbers[::2], numbers[1::2], strict=True)
    return white, red, green, blue


def _of_avif(image: Image.Image, data: bytes) -> Stated | None:
    if "icc_profile" in image.info:
        return _embedded(image, data)
    for box in boxes.avif_colours(data):
        if box.method == "nclx" and len(box.content) >= 6:
            return _coded(*struct.unpack(">2H", box.content[:4]))
    return None


def _of_jp2(_: Image.Image, data: bytes) -> Stated | None:
    colours = boxes.jp2_colours(data)
    for box in colours:
        if box.method == _ENUMERATED and int.from_bytes(box.content[:4], "big") in _KNOWN_SPACES:
            return None
        if box.method in _PROFILES:
            return box.content, False
    if colours:
        raise UnsupportedPicture("a colour space that is not known")
    return None


def _of_bmp(_: Image.Image, data: bytes) -> Stated | None:
    if data[14:18] != b"\x7c\0\0\0" or data[70:74] != b"DEBM":
        return None
    start, length = struct.unpack_from("<2I", data, 126)
    return data[14 + start : 14 + start + length], False


def _coded(primaries: int, curve: int) -> Stated | None:
    """Return what numbers of ITU-T H.273 mean.

    Raises:
        UnsupportedPicture: Brighter light than white, or something unknown.
    """
    points = CODED_PRIMARIES.get(primaries)
    is_like_srgb = curve in _LIKE_SRGB or (curve in _CAMERAS and primaries in _ORDINARY)
    if points is None or not (is_like_srgb or curve in _GAMMAS):
        raise UnsupportedPicture(f"colours of primaries {primaries} and curve {curve}")
    if points == SRGB and is_like_srgb:
        return None
    return _made(points, None if is_like_srgb else _GAMMAS[curve])


def _made(points: Primaries, gamma: float | None) -> Stated:
    try:
        return matrix_profile(points, gamma), True
    except (ValueError, struct.error):
        return _BROKEN
