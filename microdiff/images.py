"""Bring a picture into the form it is stored in: one decode, at most one resize, at most one lossy encode.

Bytes that need no change are kept as they are. Others are decoded, turned upright, flattened on white, reduced, and
saved once as JPEG 4:4:4. Nothing is ever enlarged.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from microdiff.ledger import Reason
from microdiff.pixels import flatten, has_transparency, reduce
from microdiff.settings import DownloadSettings

MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: a quarter GiB of RGB
_EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
}  # MPO: a JPEG with more frames behind it
_ORIENTATION = 0x0112


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
        image: Image.Image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            return RefusedImage(Reason.TOO_LARGE, image.width, image.height)
        orientation = image.getexif().get(_ORIENTATION, 1)
        image.load()
    except Image.DecompressionBombError:
        return RefusedImage(Reason.TOO_LARGE)
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
    ):
        # Pillow's decoders raise all of these on damaged input (IndexError and TypeError in some of its plugins).
        return RefusedImage(Reason.UNDECODABLE)
    width, height = image.size if orientation not in (5, 6, 7, 8) else image.size[::-1]
    if min(width, height) < settings.min_side_px:
        return RefusedImage(Reason.TOO_SMALL, width, height)

    extension = _EXTENSIONS.get(image.format or "")
    unchanged = extension and image.mode == "RGB" and orientation in (0, 1) and not _animated(image)
    if unchanged and not has_transparency(image) and min(width, height) <= settings.max_side_px:
        return StoredImage(data, extension or "", width, height, width, height)
    image = flatten(ImageOps.exif_transpose(image))
    image = reduce(image, settings.max_side_px)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=settings.jpeg_quality, subsampling="4:4:4")
    return StoredImage(out.getvalue(), "jpg", image.width, image.height, width, height)


def _animated(image: Image.Image) -> bool:
    return image.format == "WEBP" and bool(getattr(image, "is_animated", False))
