"""Memory for batches that is used again, warm, once nothing refers to the batch that it last held.

Most of the time of a read into fresh memory goes to page faults. So batches lie in blocks that return here, by
themselves, when the last tensor, view or array over them is gone: a batch may be kept as long as one likes, and while
it is kept, the next one comes in a fresh block.
"""

from collections import deque
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from microdiff.loader.column_types import StoredArray


class Buffers(Protocol):
    """Gives memory for the values of one column in batches. Safe to use from several threads."""

    def take(self, num_rows: int) -> tuple[torch.Tensor, NDArray[np.uint8]]:
        """Return memory for that many values: as a tensor (num_rows, *shape), and as bytes (num_rows, bytes)."""


class RecycledBuffers:
    """Blocks of memory, some of them idle.

    Args:
        max_rows: Values that a block has room for.
        array: What a value is.
        max_idle: How many unused blocks to keep.
    """

    def __init__(self, max_rows: int, array: StoredArray, max_idle: int) -> None:
        self._max_rows, self._array = max_rows, array
        self._idle: deque[NDArray[np.uint8]] = deque(maxlen=max_idle)

    def take(self, num_rows: int) -> tuple[torch.Tensor, NDArray[np.uint8]]:
        """Return memory that nothing else refers to; it comes back when the tensor and its views are gone."""
        try:
            block = self._idle.pop()
        except IndexError:
            block = np.empty((self._max_rows, self._array.row_bytes), np.uint8)
        leased = np.asarray(_Lease(block, self._idle))[:num_rows]
        dtype, shape = self._array.dtype, (num_rows, *self._array.shape)
        if dtype == "bfloat16":  # which NumPy has not
            return torch.from_numpy(leased).view(torch.bfloat16).reshape(shape), leased
        return torch.from_numpy(leased.view(dtype).reshape(shape)), leased


class PinnedBuffers:
    """Page-locked memory from torch, which itself uses it again, and not before copies from it to a GPU are done.

    Args:
        max_rows: Values that a block has room for.
        array: What a value is.
    """

    def __init__(self, max_rows: int, array: StoredArray) -> None:
        self._max_rows, self._array = max_rows, array

    def take(self, num_rows: int) -> tuple[torch.Tensor, NDArray[np.uint8]]:
        """Return page-locked memory."""
        block = torch.empty((self._max_rows, self._array.row_bytes), dtype=torch.uint8, pin_memory=True)[:num_rows]
        tensor = block.view(getattr(torch, self._array.dtype)).reshape(num_rows, *self._array.shape)
        return tensor, block.numpy()


class _Lease:
    """What a tensor over a block refers to, and all that is made from that tensor: it goes with the last of them."""

    def __init__(self, block: NDArray[np.uint8], idle: "deque[NDArray[np.uint8]]") -> None:
        self.__array_interface__ = block.__array_interface__
        self._block, self._idle = block, idle

    def __del__(self) -> None:
        self._idle.append(self._block)  # atomic: this runs in whatever thread drops the batch
