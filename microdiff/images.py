"""Bring a picture into the form it is stored in: one decode, at most one resize, at most one lossy encode.

Bytes that need no change are kept as they are. Others are decoded, turned upright, flattened on white, reduced, and
saved once as JPEG 4:4:4. Nothing is ever enlarged.
"""

import io
import struct
import warnings
from dataclasses import dataclass

from PIL import Image

from microdiff.ledger import Reason
from microdiff.pixels import flatten, has_transparency, reduce
from microdiff.settings import DownloadSettings

MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: a quarter GiB of RGB
_MAX_JPEG_SIDE = 65_500  # libjpeg's limit
# Pillow reads more than these: some formats start other programs (EPS), some take almost any bytes (TGA).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
_EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
}  # MPO: a JPEG with more frames behind it
_ORIENTATION = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises for damaged input besides OSError: IndexError, KeyError and TypeError in some of its plugins,
# struct.error for short headers, RuntimeError in AVIF.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, RuntimeError)


@dataclass(frozen=True)
class StoredImage:
    """A picture as it is stored.

    Attributes:
        data: Encoded bytes, RGB, upright.
        extension: `jpg`, `png` or `webp`, by content.
        width: Pixels.
        height: Pixels.
        original_width: Pixels of the source picture, upright.
        original_height: Likewise.
    """

    data: bytes
    extension: str
    width: int
    height: int
    original_width: int
    original_height: int


@dataclass(frozen=True)
class RefusedImage:
    """A picture that is not stored, and why; sizes are 0 where they are unknown."""

    reason: Reason
    original_width: int = 0
    original_height: int = 0


def store_image(data: bytes, settings: DownloadSettings) -> StoredImage | RefusedImage:
    """Check and, where needed, change a picture.

    Args:
        data: Encoded bytes of any format Pillow reads; the first frame counts.
        settings: Limits and quality.

    Returns:
        The picture to store, or why it is refused: undecodable, too small, or too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters here is whether pixels come out
        return _store_image(data, settings)


def _store_image(data: bytes, settings: DownloadSettings) -> StoredImage | RefusedImage:
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            return RefusedImage(Reason.TOO_LARGE, image.width, image.height)
        image.load()
    except Image.DecompressionBombError:
        return RefusedImage(Reason.TOO_LARGE)
    except _DAMAGED:
        return RefusedImage(Reason.UNDECODABLE)
    to_upright = _TO_UPRIGHT.get(_orientation(image))
    upright = image if to_upright is None else image.transpose(to_upright)
    width, height = upright.size
    if min(width, height) < settings.min_side_px:
        return RefusedImage(Reason.TOO_SMALL, width, height)

    extension = _EXTENSIONS.get(image.format or "")
    unchanged = extension and image.mode == "RGB" and to_upright is None and not _animated(image)
    if unchanged and not has_transparency(image) and min(width, height) <= settings.max_side_px:
        return StoredImage(data, extension or "", width, height, width, height)
    reduced = reduce(flatten(upright), settings.max_side_px)
    if max(reduced.size) > _MAX_JPEG_SIDE:
        return RefusedImage(Reason.TOO_LARGE, width, height)
    out = io.BytesIO()
    # Pillow would copy the source's comment, and refuse one longer than a JPEG marker.
    reduced.save(out, "JPEG", quality=settings.jpeg_quality, subsampling="4:4:4", comment=b"")
    return StoredImage(out.getvalue(), "jpg", reduced.width, reduced.height, width, height)


def _orientation(image: Image.Image) -> int:
    """Return a decoded picture's EXIF orientation, 1 (upright) if it has none that can be read.

    Only after decoding: Pillow turns a TIFF upright while it decodes.
    """
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except _DAMAGED:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _animated(image: Image.Image) -> bool:
    return image.format == "WEBP" and bool(getattr(image, "is_animated", False))
