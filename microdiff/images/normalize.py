"""Bring a picture into the form it is stored in: one decode, at most one resize, at most one lossy encode.

Bytes that need no change are kept as they are. Others are decoded, turned upright, flattened on white, reduced, and
saved once as JPEG 4:4:4. Nothing is ever enlarged.
"""

import io
import threading
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import Reason
from microdiff.images.bicubic import resize_rgb
from microdiff.images.ops import DAMAGED, decode_rgb, flatten, has_transparency, is_whole, reduced_size

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
_SIDEWAYS = {_TO_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}


class _Quiet:
    """Ignores warnings while at least one thread is inside: Python's filters belong to the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_QUIET = _Quiet()


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
    """Check and, where needed, change a picture. Several threads may do so at once.

    Args:
        data: Encoded bytes of any format Pillow reads; the first frame counts.
        settings: Limits and quality.

    Returns:
        The picture to store, or why it is refused: undecodable, too small, or too large.
    """
    with _QUIET:  # Pillow warns of odd metadata; what matters here is whether pixels come out
        return _store_image(data, settings)


def _store_image(data: bytes, settings: DownloadSettings) -> StoredImage | RefusedImage:
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            return RefusedImage(Reason.TOO_LARGE, image.width, image.height)
        is_rgb_jpeg = image.format in ("JPEG", "MPO") and image.mode == "RGB"
        if not is_rgb_jpeg:
            image.load()
        to_upright = _TO_UPRIGHT.get(_orientation(image))
        fits = to_upright is None and min(image.size) <= settings.max_side_px
        extension = _extension_to_keep(image) if fits else None
        rgb = decode_rgb(data, image.size) if is_rgb_jpeg and not extension else None
        if is_rgb_jpeg and rgb is None and not (extension and is_whole(data, image.size)):
            image.load()  # Pillow tolerates some damage
    except Image.DecompressionBombError:
        return RefusedImage(Reason.TOO_LARGE)
    except DAMAGED:
        return RefusedImage(Reason.UNDECODABLE)
    width, height = image.size[::-1] if to_upright in _SIDEWAYS else image.size
    if min(width, height) < settings.min_side_px:
        return RefusedImage(Reason.TOO_SMALL, width, height)
    if extension:
        return StoredImage(data, extension, width, height, width, height)

    size = reduced_size(image.size, settings.max_side_px)
    if max(size) > _MAX_JPEG_SIDE:
        return RefusedImage(Reason.TOO_LARGE, width, height)
    if rgb is None:
        rgb = np.asarray(flatten(image))
    changed = Image.fromarray(rgb if size == image.size else resize_rgb(rgb, size))
    if to_upright is not None:
        changed = changed.transpose(to_upright)
    out = io.BytesIO()
    # By Pillow: below quality 96 simplejpeg computes less exactly, which costs half a decibel and saves little time.
    changed.save(out, "JPEG", quality=settings.jpeg_quality, subsampling="4:4:4")
    return StoredImage(out.getvalue(), "jpg", changed.width, changed.height, width, height)


def _orientation(image: Image.Image) -> int:
    """Return a picture's EXIF orientation, 1 (upright) if it has none that can be read.

    Of other formats than JPEG only after decoding: Pillow turns a TIFF upright while it decodes.
    """
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except DAMAGED:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _extension_to_keep(image: Image.Image) -> str | None:
    """Return the file name extension if the picture's bytes may be stored as they are, whatever its size."""
    animated = image.format == "WEBP" and getattr(image, "is_animated", False)
    if image.mode != "RGB" or has_transparency(image) or animated:
        return None
    return _EXTENSIONS.get(image.format or "")
