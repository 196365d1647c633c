"""Bring a picture into the form it is stored in: one decode, at most one resize, at most one lossy encode.

Bytes that need no change are kept as they are. Others are decoded, turned upright, brought to sRGB, flattened on
white, reduced, and saved once as JPEG 4:4:4. Nothing is ever enlarged. A picture of which pixels are missing is
refused, and so is one whose levels have no known meaning.
"""

import io
import threading
import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import Reason
from microdiff.images.bicubic import resize_rgb
from microdiff.images.colour import Colours, colours_of
from microdiff.images.jpeg import (
    check_headers,
    decode_jpeg,
    is_strange_jpeg,
    is_whole,
    tidied,
    with_end,
    without_stumps,
)
from microdiff.images.opacity import is_opaque_rgb, on_white, split_opacity
from microdiff.images.ops import reduced_size
from microdiff.images.png import with_empty_profile
from microdiff.images.refusals import DAMAGED, UnsupportedPicture
from microdiff.images.tiff import is_strange_tiff
from microdiff.images.whole import load_whole

Pixels = NDArray[np.uint8]

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
        profile: What became of the source's colour profile: `converted` or `broken`; empty where it had none, or one
            that is sRGB in effect.
    """

    data: bytes
    extension: str
    width: int
    height: int
    original_width: int
    original_height: int
    profile: str = field(default="", compare=False)


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
        The picture to store, or why it is refused: undecodable, unsupported, too small, or too large.
    """
    with _QUIET:  # Pillow warns of odd metadata; what matters here is whether pixels come out
        return _store_image(data, settings)


def _store_image(data: bytes, settings: DownloadSettings) -> StoredImage | RefusedImage:
    try:
        image, data = _opened(data)
        if image.width * image.height > MAX_PIXELS:
            return RefusedImage(Reason.TOO_LARGE, image.width, image.height)
        is_jpeg = image.format in ("JPEG", "MPO")
        colours = colours_of(image, data)
        decoded: Image.Image | Pixels = image if is_jpeg else load_whole(image, data)
        to_upright = _TO_UPRIGHT.get(_orientation(image))
        is_as_stored = to_upright is None and min(image.size) <= settings.max_side_px and colours.transform is None
        extension = _extension_to_keep(image) if is_as_stored else None
        if is_jpeg:
            if image.mode == "CMYK" and "adobe" not in image.info:
                raise UnsupportedPicture("CMYK of which is not known whether 0 is no ink")
            check_headers(data)
            if extension is None:
                decoded = _load_jpeg(image, data)
            else:
                data = _whole_jpeg(image, data)
        width, height = image.size[::-1] if to_upright in _SIDEWAYS else image.size
        if min(width, height) < settings.min_side_px:
            return RefusedImage(Reason.TOO_SMALL, width, height)
        if extension is not None:
            return StoredImage(data, extension, width, height, width, height, colours.profile)
        size = reduced_size(image.size, settings.max_side_px)
        if max(size) > _MAX_JPEG_SIDE:
            return RefusedImage(Reason.TOO_LARGE, width, height)
        changed = _reduced_to_rgb(decoded, colours, size)
    except Image.DecompressionBombError:
        return RefusedImage(Reason.TOO_LARGE)
    except UnsupportedPicture:
        return RefusedImage(Reason.UNSUPPORTED_PICTURE)
    except DAMAGED as error:
        return RefusedImage(Reason.UNSUPPORTED_PICTURE if _is_strange(data, error) else Reason.UNDECODABLE)
    if to_upright is not None:
        changed = changed.transpose(to_upright)
    out = io.BytesIO()
    # By Pillow: below quality 96 simplejpeg computes less exactly, which costs half a decibel and saves little time.
    changed.save(out, "JPEG", quality=settings.jpeg_quality, subsampling="4:4:4")
    return StoredImage(out.getvalue(), "jpg", changed.width, changed.height, width, height, colours.profile)


def _opened(data: bytes) -> tuple[ImageFile.ImageFile, bytes]:
    """Open a picture; return it, and the file less segments or a profile with which Pillow does not open it."""
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS), data
    except (UnidentifiedImageError, ValueError):
        mended = without_stumps(data) if data.startswith(b"\xff\xd8") else with_empty_profile(data)
        if mended == data:
            raise
    data = mended
    return Image.open(io.BytesIO(data), formats=_FORMATS), data


def _whole_jpeg(image: Image.Image, data: bytes) -> bytes:
    """Return a JPEG of three colours as it is, but for its end marker where that is missing.

    Raises:
        OSError: Pixels are missing or damaged.
    """
    if is_whole(data, image.size):
        return data
    if tidied(data, image.size) is None:
        raise OSError("pixels are missing or damaged")
    return with_end(data)


def _load_jpeg(image: Image.Image, data: bytes) -> Image.Image | Pixels:
    """Return the pixels of a JPEG of three colours, or another one as a picture.

    Raises:
        OSError: Pixels are missing or damaged.
    """
    space = "GRAY" if image.mode == "L" else image.mode
    pixels = decode_jpeg(data, image.size, space)
    if pixels is None and (tidy := tidied(data, image.size, space)) is not None:
        pixels = decode_jpeg(tidy, image.size, space)
    if pixels is None:
        raise OSError("pixels are missing or damaged")
    if space == "RGB":
        return pixels
    return Image.fromarray(pixels[..., 0]) if space == "GRAY" else Image.fromarray(255 - pixels, "CMYK")


def _reduced_to_rgb(picture: Image.Image | Pixels, colours: Colours, size: tuple[int, int]) -> Image.Image:
    """Return a decoded picture in sRGB, on white, of a size; what can be is done with fewer pixels."""
    if isinstance(picture, Image.Image) and not is_opaque_rgb(picture):
        parts, opacity = split_opacity(picture)
        picture, colours = on_white(colours.apply(parts), opacity), Colours()
    pixels = np.asarray(picture)
    return colours.apply(Image.fromarray(pixels if pixels.shape[1::-1] == size else resize_rgb(pixels, size)))


def _is_strange(data: bytes, error: Exception) -> bool:
    """Tell whether a picture could not be opened although it is what it says, in a form that is not read."""
    if isinstance(error, UnidentifiedImageError):
        return is_strange_jpeg(data) or is_strange_tiff(data)
    return data[:2] == b"BM" and str(error).startswith("Unsupported BMP")


def _orientation(image: Image.Image) -> int:
    """Return a picture's EXIF orientation, 1 (upright) if it has none that can be read.

    XMP's, which Pillow would take in its stead, does not count, as it does not in browsers: it may be left from before
    the picture was turned. Of a PNG only after decoding; a TIFF Pillow turns upright while it decodes.
    """
    tags = Image.Exif()
    try:
        tags.load(image.info.get("exif") or b"")
        orientation = tags.get(_ORIENTATION)
    except DAMAGED:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _extension_to_keep(image: Image.Image) -> str | None:
    """Return the file name extension if the picture's bytes may be stored as they are, whatever its size."""
    animated = image.format == "WEBP" and getattr(image, "is_animated", False)
    if animated or not is_opaque_rgb(image):
        return None
    return _EXTENSIONS.get(image.format or "")
