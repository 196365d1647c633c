"""Reduce pictures: bicubic with antialiasing, in 8-bit fixed point, the same bits everywhere.

The arithmetic is that of torch's uint8 `interpolate(mode="bicubic", antialias=True)`, which took it from Pillow-SIMD:
Pillow's filter (Keys' cubic with a = -1/2, stretched by the scale), first along rows, then along columns, with weights
as 16-bit integers and each axis rounded to 8 bits. Pillow's own results differ by 1 of 255 here and there, rarely
by 2. Sums of integers are exact, so a picture has one result, whatever the processor, the number of threads, and the
library.

Two implementations give the same bits. torch is four times as fast but takes seconds and hundreds of MiB to import, so
a process starts with NumPy and switches after NUMPY_FIRST_S of resizing: one that got so far has thousands to do.
"""

import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMPY_FIRST_S = 1.0  # of processor time; the import takes about 4
_LARGEST_WEIGHT = 2**15 - 1
_MOST_FRACTION_BITS = 22
_MIDDLE = 128  # of the levels: sums of signed levels are half as large
_AT_ONCE = 16  # columns or rows of the result per product of matrices: the more, the more weights are zeros
_MOST_PRODUCTS = 2**17  # per product of matrices: they stay in a cache, and OpenBLAS starts no threads

Pixels = NDArray[np.uint8]


def resize_rgb(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    """Reduce a picture.

    Args:
        rgb: uint8 (H, W, 3).
        size: Width and height of the result, neither larger than before.

    Returns:
        uint8 (height, width, 3), contiguous.

    Raises:
        ValueError: The pixels or the size are others.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    if not (0 < size[0] <= rgb.shape[1] and 0 < size[1] <= rgb.shape[0]):
        raise ValueError(f"expected at most {rgb.shape[1]} by {rgb.shape[0]} pixels, got {size[0]} by {size[1]}")
    return RESIZER.resize(rgb, size)


class Resizer:
    """Resizes with NumPy until torch is worth loading.

    Attributes:
        torch: The module, once it is used.
        spent_s: Processor time spent in NumPy.
    """

    def __init__(self) -> None:
        self.torch: Any = None
        self.spent_s = 0.0
        self._refused = False

    def resize(self, rgb: Pixels, size: tuple[int, int]) -> Pixels:
        """Do what `resize_rgb` says."""
        if self.torch is None and (self.spent_s >= NUMPY_FIRST_S or "torch" in sys.modules):
            self.use_torch()
        if self.torch is not None:
            return resize_with_torch(self.torch, rgb, size)
        start = time.thread_time()
        result = resize_with_numpy(rgb, size)
        self.spent_s += time.thread_time() - start
        return result

    def use_torch(self) -> None:
        """Use torch from now on, if it computes what it should."""
        if self._refused:
            return
        had_it = "torch" in sys.modules
        import torch  # the whole point is to do it here

        if not had_it:
            torch.set_num_threads(1)  # a worker process is there for each core
        self._refused = not _as_expected(torch)
        self.torch = None if self._refused else torch


RESIZER = Resizer()  # of this process


def _as_expected(torch: Any) -> bool:
    """Tell whether this build of torch gives NumPy's pixels for noise, the hardest of pictures."""
    rgb = np.random.default_rng(0).integers(0, 256, (150, 203, 3), dtype=np.uint8)
    sizes = ((202, 149), (71, 52), (20, 150))
    return all(np.array_equal(resize_with_torch(torch, rgb, size), resize_with_numpy(rgb, size)) for size in sizes)


def resize_with_torch(torch: Any, rgb: Pixels, size: tuple[int, int]) -> Pixels:
    """Do what `resize_rgb` says with torch, which takes interleaved channels as they lie.

    The batch dimension is added before the channels move: added afterwards, its stride hides from torch that the
    channels are interleaved, and it takes them apart and together again, for two thirds more time.
    """
    rgb = np.require(rgb, requirements=["C", "W"])  # a copy of Pillow's: tensors cannot be read-only
    picture = torch.from_numpy(rgb)[None].permute(0, 3, 1, 2)
    reduced = torch.nn.functional.interpolate(picture, (size[1], size[0]), mode="bicubic", antialias=True)
    pixels: Pixels = reduced[0].permute(1, 2, 0).contiguous().numpy()
    return pixels


def resize_with_numpy(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    """Do what `resize_rgb` says with products of small matrices."""
    width, height = size
    across, down = _kernel(rgb.shape[1], width), _kernel(rgb.shape[0], height)
    narrow = np.empty((3, rgb.shape[0], width), np.uint8)
    for rows in _blocks(rgb.shape[0], across.most_lines):
        planes = _signed(np.ascontiguousarray(rgb[rows].transpose(2, 0, 1)), across.dtype)
        sums = np.empty((*planes.shape[:2], width), across.dtype)
        for part in across.parts:
            np.matmul(planes[:, :, part.source], part.weights, out=sums[:, :, part.result])
        narrow[:, rows] = _levels(sums, across.offsets)
    result = np.empty((height, width, 3), np.uint8)
    for part in down.parts:
        planes = _signed(narrow[:, part.source], down.dtype)
        for columns in _blocks(width, down.most_lines):
            sums = np.matmul(part.weights.T, planes[:, :, columns])
            levels = _levels(sums, down.offsets[part.result, None])
            result[part.result, columns] = levels.transpose(1, 2, 0)
    return result


def _signed(levels: Pixels, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    signed = levels.astype(dtype)
    signed -= _MIDDLE
    return signed


def _levels(sums: NDArray[Any], offsets: NDArray[Any]) -> Pixels:
    sums += offsets
    return np.clip(sums, 0, 255, out=sums).astype(np.uint8)  # which cuts off the fraction


@dataclass(frozen=True)
class _Part:
    """Neighbouring places of the result, the places of the source they depend on, and how (source, result)."""

    result: slice
    source: slice
    weights: NDArray[Any]


@dataclass(frozen=True)
class _Kernel:
    """How one axis is reduced.

    Attributes:
        parts: All places of the result.
        offsets: Per place of the result: what turns sums over signed levels into levels, and a half to round by.
        dtype: Floats that hold all sums exactly.
        most_lines: Lines along the axis that should be multiplied at once.
    """

    parts: tuple[_Part, ...]
    offsets: NDArray[Any]
    dtype: type[np.floating[Any]]
    most_lines: int


@lru_cache(maxsize=64)
def _kernel(before: int, after: int) -> _Kernel:
    """Return how to bring an axis from `before` places to `after`."""
    scale = before / after
    real = []
    for place in range(after):
        centre = (place + 0.5) * scale
        first = max(0, int(centre - 2 * scale + 0.5))
        distances = (np.arange(first, min(before, int(centre + 2 * scale + 0.5))) - centre + 0.5) / scale
        weights = _cubic(np.abs(distances))
        real.append((first, weights / weights.sum()))
    largest = max(weights.max() for _, weights in real)
    bits = max(bits for bits in range(_MOST_FRACTION_BITS + 1) if int(largest * 2**bits + 0.5) <= _LARGEST_WEIGHT)
    fixed = [(first, np.trunc(weights * 2**bits + np.copysign(0.5, weights)) / 2**bits) for first, weights in real]
    largest_sum = max(np.abs(weights).sum() for _, weights in fixed) * _MIDDLE * 2**bits
    dtype = np.float32 if largest_sum < 2**24 else np.float64
    parts = []
    for result in _blocks(after, _AT_ONCE):
        places = fixed[result]
        source = slice(places[0][0], max(first + len(weights) for first, weights in places))
        matrix = np.zeros((source.stop - source.start, len(places)), dtype)
        for column, (first, weights) in zip(matrix.T, places, strict=True):
            column[first - source.start :][: len(weights)] = weights
        parts.append(_Part(result, source, matrix))
    offsets = np.array([_MIDDLE * weights.sum() + 0.5 for _, weights in fixed], dtype)
    most_lines = max(1, _MOST_PRODUCTS // max(part.weights.size for part in parts))
    return _Kernel(tuple(parts), offsets, dtype, most_lines)


def _cubic(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Keys' cubic convolution kernel (a = -1/2) at distances of 0 and more."""
    near = (1.5 * distances - 2.5) * distances * distances + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    return np.where(distances < 1, near, np.where(distances < 2, far, 0))


def _blocks(length: int, most: int) -> list[slice]:
    return [slice(start, start + most) for start in range(0, length, most)]
