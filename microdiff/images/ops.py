"""Decode pictures, convert them to RGB, reduce them, and crop them square.

JPEGs are decoded with libjpeg-turbo itself, faster than through Pillow and to the same pixels. Only what it decodes
without a single remark counts. Damaged data, other colours than RGB, and sizes other than announced are left to Pillow,
which tolerates some damage: so Pillow's verdict is the one that holds.
"""

import io
import struct

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

# What Pillow raises for damaged input besides OSError: IndexError, KeyError and TypeError in some of its plugins,
# struct.error for short headers, RuntimeError in AVIF.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, RuntimeError)
_SCALE = 8  # the smallest picture that the decoder gives


def decode(data: bytes) -> Image.Image:
    """Decode a stored picture to RGB.

    Raises:
        OSError: The bytes are damaged.
    """
    image: Image.Image = Image.open(io.BytesIO(data))
    image.load()
    return image if image.mode == "RGB" else flatten(image)


def flatten(image: Image.Image) -> Image.Image:
    """Return an RGB picture; transparent parts become white, 16-bit grey is scaled to 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.nan_to_num(np.asarray(image, dtype=np.float64))
        scale = 255.0 / 65535.0 if image.mode.startswith("I;16") or levels.max() > 255 else 1.0
        return Image.fromarray(np.clip(levels * scale, 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or has_transparency(image):
        if image.mode == "La":  # grey, already multiplied by its alpha, from which Pillow converts to nothing else
            image = image.convert("LA")
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def reduce(image: Image.Image, short_side: int) -> Image.Image:
    """Return the picture with its short side reduced to `short_side` (bicubic, antialiased); never enlarged."""
    size = reduced_size(image.size, short_side)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def reduced_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return width and height with the shorter of them reduced to `short_side`; never enlarged."""
    if min(size) <= short_side:
        return size
    scale = short_side / min(size)
    return max(short_side, round(size[0] * scale)), max(short_side, round(size[1] * scale))


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """Reduce to a short side of `side` pixels and cut out the middle square."""
    image = reduce(image, side)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def has_transparency(image: Image.Image) -> bool:
    """Tell whether a picture without an alpha channel marks a colour as transparent."""
    return "transparency" in image.info


def decode_rgb(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Decode a JPEG of three colours.

    Args:
        data: The file.
        size: Width and height that its header announces.

    Returns:
        uint8 (H, W, 3), or None where Pillow has to decide.
    """
    return _decode_jpeg(data, size, 1)


def is_whole(data: bytes, size: tuple[int, int]) -> bool:
    """Tell whether `decode_rgb` would succeed, for half its time.

    All data are read, as for a full decode, but only an eighth of the pixels is computed along each side.
    """
    return _decode_jpeg(data, size, _SCALE) is not None


def _decode_jpeg(data: bytes, size: tuple[int, int], scale: int) -> NDArray[np.uint8] | None:
    width, height = (-(-side // scale) for side in size)
    smallest = 0 if scale == 1 else 1
    # Space for what is announced and no more: a file may announce one size to Pillow and another to libjpeg.
    pixels = np.empty((height, width, 3), np.uint8)
    try:
        decoded = simplejpeg.decode_jpeg(data, "RGB", min_height=smallest, min_width=smallest, buffer=pixels)
    except ValueError:
        return None
    return pixels if decoded.shape == pixels.shape else None
