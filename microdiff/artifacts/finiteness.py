"""Whether values are finite, in bounded memory.

A value is not if all bits of its exponent are set. The bits are looked at: numpy has no bfloat16, and converts float16.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microdiff.artifacts.latents import LatentsFile
from microdiff.errors import SchemaError

_ROWS_AT_ONCE_BYTES = 4 * 2**20  # what a core keeps near it
_EXPONENTS = {"float16": np.uint16(0x7C00), "bfloat16": np.uint16(0x7F80)}


def is_finite(values: NDArray[Any], dtype: str) -> bool:
    """Tell whether no value is NaN or infinite.

    Args:
        values: Of any shape; bfloat16 as the uint16 of its bits.
        dtype: `float16`, `float32`, `bfloat16`, or a whole-number type, whose values always are.
    """
    if dtype in _EXPONENTS and values.dtype.itemsize == 2:
        exponent = _EXPONENTS[dtype]
        # The largest exponent decides; `max` of 16-bit integers runs at the speed of memory.
        return values.size == 0 or bool((values.view(np.uint16) & exponent).max() != exponent)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def non_finite_rows(rows: NDArray[Any], dtype: str) -> Iterator[int]:
    """Yield the numbers of the rows that hold NaN or infinity."""
    step = max(1, _ROWS_AT_ONCE_BYTES // max(1, rows[:1].nbytes))
    for start in range(0, len(rows), step):
        block = np.asarray(rows[start : start + step])
        if not is_finite(block, dtype):
            yield from (start + number for number, row in enumerate(block) if not is_finite(row, dtype))


def check_finite(path: Path, tensor: str, latents: LatentsFile) -> None:
    """Check that a tensor of a latents file holds neither NaN nor infinity.

    Raises:
        SchemaError: It does; the message names the first sample.
    """
    number = next(non_finite_rows(latents.rows(tensor), latents.dtype(tensor)), None)
    if number is not None:
        raise SchemaError(f"{path}: sample {latents.keys(tensor)[number]}: {tensor} holds NaN or infinity")
