"""Perceptual hashes: near-identical pictures have nearly equal ones, however they were scaled or compressed.

The hash is ImageHash's `phash` of 256 bits: the signs of the lowest 16 x 16 frequencies of the grey picture, scaled to
64 x 64, against their median (https://github.com/JohannesBuchner/imagehash). Two pictures are told apart by the number
of bits that differ, see `docs/decisions/evaluation-sets.md` for what was measured.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microdiff.images.crops import STORED_FORMATS
from microdiff.images.ops import flatten
from microdiff.images.refusals import DAMAGED

HASH_BYTES = 32
_SIDE = 16
_FEWEST_ABOVE = 120  # frequencies above the median: half of the 256, unless many are equal
_DRAFT_PX = 128  # libjpeg scales down to no less while it decodes


def perceptual_hash(data: bytes) -> bytes | None:
    """Return a stored picture's hash, 32 bytes.

    None where it cannot be decoded, or shows too little to be told from others: of an even area or a gradient most
    frequencies are equal, so that all such pictures have nearly the same hash.
    """
    import imagehash

    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=STORED_FORMATS)
        image.draft("RGB", (_DRAFT_PX, _DRAFT_PX))
        found = imagehash.phash(flatten(image), hash_size=_SIDE)
    except DAMAGED:
        return None
    if found.hash.sum() < _FEWEST_ABOVE:
        return None
    return np.packbits(found.hash).tobytes()


def near(hashes: NDArray[np.uint8], others: NDArray[np.uint8], distance: int) -> NDArray[np.bool_]:
    """Tell which hashes are near to any of others.

    Args:
        hashes: uint8 (N, 32).
        others: uint8 (M, 32).
        distance: Most bits that may differ, 0 to 256.

    Returns:
        bool (N,).
    """
    found = np.zeros(len(hashes), bool)
    for columns in _blocks(len(others)):
        signs = _signs(others[columns]).T
        for rows in _blocks(len(hashes)):
            # The product of two rows of +1 and -1 is 256 less twice the bits that differ; float32 holds it exactly.
            equal = _signs(hashes[rows]) @ signs
            found[rows] |= (equal >= 8 * HASH_BYTES - 2 * distance).any(axis=1)
    return found


def _signs(hashes: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def _blocks(length: int, size: int = 2048) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]
