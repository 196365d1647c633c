"""Decode JPEGs with libjpeg-turbo itself, faster than through Pillow and to the same pixels.

Only what it decodes without a single remark counts. Damaged data, other colours than RGB, and sizes other than
announced are left to Pillow, which tolerates some damage: so Pillow's verdict is the one that holds.
"""

import numpy as np
import simplejpeg
from numpy.typing import NDArray

_SCALE = 8  # the smallest picture that the decoder gives


def decode_rgb(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Decode a JPEG of three colours.

    Args:
        data: The file.
        size: Width and height that its header announces.

    Returns:
        uint8 (H, W, 3), or None where Pillow has to decide.
    """
    return _decode(data, size, 1)


def is_whole(data: bytes, size: tuple[int, int]) -> bool:
    """Tell whether `decode_rgb` would succeed, for half its time.

    All data are read, as for a full decode, but only an eighth of the pixels is computed along each side.
    """
    return _decode(data, size, _SCALE) is not None


def _decode(data: bytes, size: tuple[int, int], scale: int) -> NDArray[np.uint8] | None:
    width, height = (-(-side // scale) for side in size)
    smallest = 0 if scale == 1 else 1
    # Space for what is announced and no more: a file may announce one size to Pillow and another to libjpeg.
    pixels = np.empty((height, width, 3), np.uint8)
    try:
        decoded = simplejpeg.decode_jpeg(data, "RGB", min_height=smallest, min_width=smallest, buffer=pixels)
    except ValueError:
        return None
    return pixels if decoded.shape == pixels.shape else None
