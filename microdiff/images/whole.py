"""Decode pictures other than JPEGs, and notice where pixels are missing, or are not what Pillow takes them for.

Most decoders fail where data end. Those of PNG and GIF do not if the compressed stream ends early, between two rows:
rows that are missing stay as they were. So they decode onto a canvas of an unlikely colour; where the last row has it,
decoding onto another one tells. What is wrong but not missing in formats without checksums (WebP, AVIF, BMP, JPEG 2000,
some TIFF) is noticed only where it is no code.
"""

import io

import numpy as np
from PIL import GifImagePlugin, Image, ImageFile

from microdiff.images import boxes, jpeg2000, png, tiff
from microdiff.images.refusals import UnsupportedPicture

_CANVASES = (254, 0)
_LOW_BYTES = "RGB;16L"  # makes Pillow take the low byte of PNG's big-endian samples for the high one


def load_whole(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """Decode a picture.

    Args:
        image: As opened from the data.
        data: The file.

    Returns:
        The picture, decoded, its levels from 0 to the most that its mode holds, its transparency as `split_opacity`
        takes it.

    Raises:
        UnsupportedPicture: Its colours would be a guess.
        OSError: Pixels are missing or damaged; other errors of Pillow's may say so, too (`refusals.DAMAGED`).
    """
    if image.format == "PNG":
        return _load_png(image, data)
    if image.format == "GIF":
        return _load_gif(image, data)
    if image.format == "TIFF":
        return _load_tiff(image, data)
    if image.format == "WEBP":
        return _load_webp(image, data)
    image.load()
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # written by programs that know of no opacity, and shown so
    if image.format == "JPEG2000":
        if jpeg2000.lacks_tiles(data):
            raise OSError("tiles are missing")
        if jpeg2000.is_signed(data):
            raise UnsupportedPicture("numbers with a sign")
        return image if boxes.jp2_names_its_channels(data) else _without_doubtful_opacity(image)
    return image


def _load_png(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    png.check_pixel_data(data)
    facts = png.png_facts(data)
    bits = facts.bits
    if image.mode == "P" and b"PLTE" not in facts.chunks:
        raise OSError("a palette is missing")
    tiles = image.tile
    if tiles[0].extents != (0, 0, *image.size):
        raise OSError("an animation whose first frame is not all of it")
    _load_on_canvas(image, data, (0, 0, *image.size), is_interlaced=bool(image.info.get("interlace")))
    mark = image.info.get("transparency")
    if mark is None:
        return image
    if image.mode == "L":  # marked by a level of as few bits as the file has
        image.info["transparency"] = (mark & (2**bits - 1)) * 255 // (2**bits - 1)
    elif image.mode == "RGB" and bits == 8:
        image.info["transparency"] = tuple(level & 255 for level in mark)
    elif image.mode == "RGB":
        low = _opened(image, data)
        low.tile = [tile._replace(args=_LOW_BYTES) for tile in tiles]
        low.load()
        levels = np.asarray(image).astype(np.uint16) * 256 + np.asarray(low)
        is_opaque = (levels != np.array(mark)).any(axis=2)
        del image.info["transparency"]
        image.putalpha(Image.fromarray(np.where(is_opaque, 255, 0).astype(np.uint8)))
    return image


def _load_gif(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """Decode the first frame; what it leaves out of the canvas is transparent."""
    tile = image.tile[0]
    if not _has_palette(data, tile.offset):
        raise UnsupportedPicture("a GIF without a palette")
    box = tile.extents or (0, 0, *image.size)
    is_interlaced = isinstance(tile.args, tuple) and bool(tile.args[1])
    _load_on_canvas(image, data, box, is_interlaced=is_interlaced)
    if box == (0, 0, *image.size):
        return image
    return _only(image, box)


def _load_webp(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """Decode the first frame; where it leaves something out, and there is no opacity to say so, Pillow has it black."""
    image.load()
    frame = data.find(b"ANMF", 30) + 8
    if image.mode != "RGB" or not getattr(image, "is_animated", False) or frame < 38:
        return image
    left, top, width, height = (
        int.from_bytes(data[place : place + 3], "little") for place in range(frame, frame + 12, 3)
    )
    box = (2 * left, 2 * top, 2 * left + width + 1, 2 * top + height + 1)
    return image if box == (0, 0, *image.size) else _only(image, box)


def _only(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return a picture that is transparent outside a box."""
    whole = Image.new("RGBA", image.size)
    whole.paste(image.convert("RGBA").crop(box), box)
    return whole


def _has_palette(data: bytes, codes: int) -> bool:
    """Tell whether a GIF has a palette; what its codes, which start at a place, mean without one is not said."""
    descriptor = codes - 11  # of a frame without a palette, behind which the codes' size and the codes follow
    is_bare = data[descriptor] == ord(",") and not data[descriptor + 9] & 0x80
    return bool(data[10] & 0x80) or not is_bare


def _load_tiff(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    tiff.check_form(image)
    tiff.check_pixel_data(image, data)
    image.info.pop("xmp", None)  # by which Pillow would turn it
    image.load()
    if image.mode.startswith("I;16"):
        whitest, is_inverted = tiff.grey_scale(image)
        levels = np.minimum(np.asarray(image).astype(np.uint32), whitest) * 65535 // whitest
        return Image.fromarray((65535 - levels if is_inverted else levels).astype(np.uint16))
    return image if tiff.names_its_opacity(image) else _without_doubtful_opacity(image)


def _without_doubtful_opacity(image: Image.Image) -> Image.Image:
    """Take a further channel away if it changes nothing.

    Raises:
        UnsupportedPicture: It would.
    """
    if image.mode not in ("RGBA", "LA"):
        return image
    if image.getchannel("A").getextrema() != (255, 255):
        raise UnsupportedPicture("a further channel that may be opacity")
    return image.convert(image.mode[:-1])


def _load_on_canvas(
    image: ImageFile.ImageFile, data: bytes, box: tuple[int, int, int, int], *, is_interlaced: bool
) -> None:
    """Decode a picture whose missing rows would go unnoticed.

    Args:
        image: As opened from the data.
        data: The file.
        box: Where its pixels are.
        is_interlaced: Whether odd rows come last.

    Raises:
        OSError: Some are missing.
    """
    colour = _load_on(image, _CANVASES[0])
    height = box[3] - box[1]
    last = box[1] + (height // 2 * 2 - 1 if is_interlaced else height - 1)
    row = np.asarray(image.crop((box[0], last, box[2], last + 1)))
    if height > 1 and not np.array_equal(row, np.asarray(Image.new(image.mode, (box[2] - box[0], 1), colour))):
        return
    again = _opened(image, data)
    _load_on(again, _CANVASES[1])
    if not np.array_equal(np.asarray(image.crop(box)), np.asarray(again.crop(box))):
        raise OSError("rows are missing")


def _load_on(image: ImageFile.ImageFile, level: int) -> int | tuple[int, ...]:
    """Decode a picture onto a canvas; return its colour."""
    number = len(image.getbands())
    colour = level if number == 1 else (level, 255 - level, level, 255 - level)[:number]
    image.im = Image.new(image.mode, image.size, colour).im
    if isinstance(image, GifImagePlugin.GifImageFile):
        image._frame_transparency = None  # where there is one, Pillow would make a canvas of its own
    image.load()
    return colour


def _opened(image: Image.Image, data: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data), formats=[image.format or ""])
