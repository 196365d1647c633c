"""TIFF forms that Pillow would read wrongly, and pixel data that libtiff does not find missing."""

import io
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image, TiffImagePlugin

from microdiff.images.jpeg import check_headers, frame_size, is_whole, tidied
from microdiff.images.refusals import DAMAGED, UnsupportedPicture

_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _ROWS, _PLANES = 258, 259, 262, 266, 277, 278, 284
_STRIPS, _STRIP_BYTES, _TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_BYTES = 273, 279, 322, 323, 324, 325
_COLOUR_MAP, _INKS, _EXTRA, _FORMAT, _JPEG_TABLES = 320, 332, 338, 339, 347
_COEFFICIENTS, _SUBSAMPLING, _REFERENCE = 529, 530, 532
_RAW, _FAX_ROWS, _GROUP_3, _GROUP_4, _JPEG, _DEFLATES = 1, 2, 3, 4, 7, (8, 32946)
_UNCLEAR = (6, 32809, 34676, 34677, 50001)  # JPEG as of TIFF 6.0, ThunderScan, light without a white, and WebP
_WHITE_IS_ZERO, _CMYK, _YCBCR, _LAB = 0, 5, 6, 8
_SEPARATE = 2
_STARTS, _BIG_ENDIAN_BIG_TIFF, _BIG = (b"II*\0", b"MM\0*", b"II+\0"), b"MM\0+", 43
_UNSIGNED = (1, 4)  # 4: of no stated kind
_FULL_RANGE = (0, 255, 128, 255, 128, 255)
_END_OF_LINE = "000000000001"  # no code has so many zeros
_MOST_ZEROS = 24  # that codes, and padding to a byte, have between them
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def is_strange_tiff(data: bytes) -> bool:
    """Tell whether a TIFF that Pillow does not open is whole, but of a form that it does not know."""
    if data[:4] == _BIG_ENDIAN_BIG_TIFF:
        return True
    if data[:4] not in _STARTS:
        return False
    file = io.BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2] == _BIG else 8])
        file.seek(tags.next)
        tags.load(file)
        places = _all(tags, _TILES, _all(tags, _STRIPS, ()))
        sizes = _all(tags, _TILE_BYTES, _all(tags, _STRIP_BYTES, ()))
        ends = [place + size for place, size in zip(places, sizes, strict=True)]
    except DAMAGED:
        return False
    return 256 in tags and 257 in tags and bool(ends) and max(ends) <= len(data)


def check_form(image: Image.Image) -> None:
    """Refuse what would be a guess: samples that are no shades from black to white, or that Pillow mistakes.

    Raises:
        UnsupportedPicture: Says what it is.
    """
    tags = _tags(image)
    separate, is_raw = _one(tags, _PLANES, 1) == _SEPARATE, _one(tags, _COMPRESSION, _RAW) == _RAW
    photometric, bits = _one(tags, _PHOTOMETRIC, _WHITE_IS_ZERO), set(_all(tags, _BITS, (1,)))
    if any(kind not in _UNSIGNED for kind in _all(tags, _FORMAT, (1,))) or image.mode in ("I", "F"):
        raise UnsupportedPicture("numbers with a sign, a fraction, or more than 16 bits")
    if _one(tags, _COMPRESSION, _RAW) in _UNCLEAR:
        raise UnsupportedPicture("a compression that is not read")
    if photometric == _CMYK and _one(tags, _INKS, 1) != 1:
        raise UnsupportedPicture("inks other than CMYK")
    if photometric == _YCBCR and is_raw and not _is_plain_ycbcr(tags):
        raise UnsupportedPicture("YCbCr with subsampling, coefficients or ranges of its own")
    extra = _all(tags, _EXTRA, ())
    if separate and (photometric == _LAB or 1 in extra or (is_raw and (bits != {8} or 0 in extra))):
        raise UnsupportedPicture("separate planes that Pillow mistakes")
    colours = _all(tags, _COLOUR_MAP, ())
    if image.mode in ("P", "PA") and 0 < max(colours, default=0) < 256:
        raise UnsupportedPicture("a palette that may have 8 or 16 bits")


def names_its_opacity(image: Image.Image) -> bool:
    """Tell whether a fourth sample, which Pillow takes for opacity, is that by the file."""
    return bool(_all(_tags(image), _EXTRA, ()))


def grey_scale(image: Image.Image) -> tuple[int, bool]:
    """Return the whitest level of a picture with more than 8 bits, and whether 0 is white instead."""
    tags = _tags(image)
    whitest = 2 ** _one(tags, _BITS, 16) - 1
    return whitest, _one(tags, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO


def check_pixel_data(image: Image.Image, data: bytes) -> None:
    """Check that all strips or tiles are there and whole, where the decoder would not.

    Raises:
        OSError: They are not.
    """
    tags, compression = _tags(image), _one(_tags(image), _COMPRESSION, _RAW)
    tables = tags.get(_JPEG_TABLES, b"")
    for block, rows, row_bytes, most_rows in _blocks(tags, data):
        num_bytes = rows * row_bytes
        if compression == _RAW and len(block) < num_bytes:
            raise OSError("a strip with less data than it has pixels")
        if compression in _DEFLATES:
            _check_zlib(block, num_bytes, most_rows * row_bytes)
        elif compression == _JPEG:
            _check_jpeg(bytes(tables[:-2]) + block[2:] if tables else block)
        elif compression in (_FAX_ROWS, _GROUP_3, _GROUP_4):
            _check_fax(block, rows, compression, is_reversed=_one(tags, _FILL_ORDER, 1) == 2)


def _is_plain_ycbcr(tags: Mapping[int, Any]) -> bool:
    is_usual = [round(float(value), 3) for value in _all(tags, _COEFFICIENTS, (0.299, 0.587, 0.114))]
    return (
        _all(tags, _SUBSAMPLING, (2, 2)) == (1, 1)
        and is_usual == [0.299, 0.587, 0.114]
        and tuple(_all(tags, _REFERENCE, _FULL_RANGE)) == _FULL_RANGE
    )


def _blocks(tags: Mapping[int, Any], data: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield each strip's or tile's bytes, its rows, the bytes of a row when decoded, and the rows of a full one."""
    width, height = tags[256], tags[257]
    samples = _one(tags, _SAMPLES, 1)
    bits = _all(tags, _BITS, (1,))
    bits = bits * samples if len(bits) == 1 else bits
    planes = samples if _one(tags, _PLANES, 1) == _SEPARATE else 1
    pixel_bits = bits[0] if planes > 1 else sum(bits[:samples])
    if _TILES in tags:
        offsets, sizes = _all(tags, _TILES, ()), _all(tags, _TILE_BYTES, ())
        across, down = tags[_TILE_WIDTH], tags[_TILE_LENGTH]
        if not (across > 0 and down > 0):
            raise OSError("tiles without a size")
        number, each = -(-width // across) * -(-height // down), [down]
    else:
        offsets, sizes = _all(tags, _STRIPS, ()), _all(tags, _STRIP_BYTES, ())
        across, down = width, min(_one(tags, _ROWS, height), height) or height
        number = -(-height // down)
        each = [down] * (number - 1) + [height - down * (number - 1)]
    if len(offsets) < number * planes:
        raise OSError(f"{len(offsets)} strips or tiles of {number * planes}")
    if not any(sizes):  # which old writers leave out
        sizes = (len(data),) * len(offsets)
    for place, (offset, size) in enumerate(zip(offsets, sizes, strict=False)):
        rows = each[place % number % len(each)]
        yield data[offset : offset + size], rows, -(-across * pixel_bits // 8), down


def _check_zlib(block: bytes, num_bytes: int, most_bytes: int) -> None:
    """Decompress to the end, where the checksum is, to which libtiff does not get."""
    try:
        stream = zlib.decompressobj()
        decoded = stream.decompress(block, most_bytes + 1)
    except zlib.error as error:
        raise OSError(str(error)) from error
    if not (stream.eof and num_bytes <= len(decoded) <= most_bytes):
        raise OSError("a strip with other data than its pixels")


def _check_jpeg(data: bytes) -> None:
    check_headers(data)
    size = frame_size(data)
    if size is None or not (is_whole(data, size, "GRAY") or tidied(data, size, "GRAY")):
        raise OSError("a damaged JPEG")


def _check_fax(block: bytes, rows: int, compression: int, *, is_reversed: bool) -> None:
    """Look for the codes that end rows, or the block, and for what is none: libtiff decodes damage without a remark."""
    block = block.translate(_REVERSED) if is_reversed else block
    bits = f"{int.from_bytes(block, 'big'):0{8 * len(block)}b}"
    if compression == _FAX_ROWS:
        is_whole_strip = "0" * _MOST_ZEROS not in bits
    elif compression == _GROUP_3:
        is_whole_strip = bits.count(_END_OF_LINE) >= rows
    else:  # the first one has to be the first of the two that end the strip
        is_whole_strip = bits.startswith(_END_OF_LINE, bits.find("1", bits.find(_END_OF_LINE[:-1]) + 11) + 1)
    if not is_whole_strip:
        raise OSError("a strip without its ends, or with what is no code")


def _tags(image: Image.Image) -> Mapping[int, Any]:
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tags


def _all(tags: Mapping[int, Any], tag: int, default: tuple[Any, ...]) -> tuple[Any, ...]:
    value = tags.get(tag, default)
    return value if isinstance(value, tuple) else (value,)


def _one(tags: Mapping[int, Any], tag: int, default: int) -> int:
    return int(next(iter(_all(tags, tag, (default,))), default))
