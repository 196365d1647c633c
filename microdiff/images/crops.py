"""A stored picture as the square crops that are encoded: one decode, every resolution it has, 8 bits all the way.

The geometry is that of Pillow's `resize` and `crop` (`ops.centre_crop`), the filter is `bicubic`. Several threads
may do this at once; decoder and filter run without Python's lock.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microdiff.images.bicubic import resize_rgb
from microdiff.images.jpeg import decode_jpeg
from microdiff.images.ops import flatten, reduced_size
from microdiff.images.refusals import DAMAGED

Pixels = NDArray[np.uint8]

STORED_FORMATS = ("JPEG", "PNG", "WEBP")  # that pictures are stored in


def center_crops(data: bytes, resolutions: Sequence[int]) -> dict[int, Pixels] | None:
    """Decode a picture, reduce it, and cut out the middle.

    Args:
        data: The stored file.
        resolutions: Pixels.

    Returns:
        By resolution uint8 (px, px, 3), perhaps views of larger arrays; only resolutions that the picture has. None
        where it cannot be decoded.
    """
    rgb = decode_pixels(data)
    if rgb is None:
        return None
    height, width = rgb.shape[:2]
    return {px: _centre(rgb, px) for px in resolutions if px <= min(width, height)}


def decode_pixels(data: bytes) -> Pixels | None:
    """Return a picture as uint8 (H, W, 3), or None where it is damaged."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=STORED_FORMATS)
        if image.format in ("JPEG", "MPO") and image.mode == "RGB":  # MPO: a JPEG with more frames behind it
            rgb = decode_jpeg(data, image.size)
            if rgb is not None:
                return rgb
        image.load()
        return np.asarray(flatten(image))
    except DAMAGED:
        return None


def _centre(rgb: Pixels, side: int) -> Pixels:
    width, height = reduced_size((rgb.shape[1], rgb.shape[0]), side)
    reduced = rgb if (height, width) == rgb.shape[:2] else resize_rgb(rgb, (width, height))
    left, top = (width - side) // 2, (height - side) // 2
    return reduced[top : top + side, left : left + side]
