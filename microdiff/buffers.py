"""Memory for batches that is used again, warm, once nothing refers to the batch that it last held.

Most of the time of a read into fresh memory goes to page faults. So batches lie in blocks that return here, by
themselves, when the last tensor, view or array over them is gone: a batch may be kept as long as one likes, and while
it is kept, the next one comes in a fresh block.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch


class Buffers(Protocol):
    """Gives memory for the values of one column in a batch. Safe to use from several threads."""

    def take(self) -> tuple[torch.Tensor, Sequence[memoryview]]:
        """Return memory as a flat uint8 tensor, and the part of it for each sample, to be dropped when filled."""


class RecycledBuffers:
    """Blocks of one size, some of them idle.

    Args:
        num_rows: Samples of a batch.
        row_bytes: Bytes of a sample's value.
        max_idle: How many unused blocks to keep.
    """

    def __init__(self, num_rows: int, row_bytes: int, max_idle: int = 4) -> None:
        self._num_rows, self._row_bytes = num_rows, row_bytes
        self._idle: deque[_Block] = deque(maxlen=max_idle)

    def take(self) -> tuple[torch.Tensor, Sequence[memoryview]]:
        """Return memory that nothing else refers to; it comes back when the tensor and its views are gone."""
        try:
            block = self._idle.pop()
        except IndexError:
            block = _Block(self._num_rows, self._row_bytes)
        return torch.from_numpy(np.asarray(_Lease(block, self._idle))), block.rows


class PinnedBuffers:
    """Page-locked memory from torch, which itself uses it again, and not before copies from it to a GPU are done.

    Args:
        num_rows: Samples of a batch.
        row_bytes: Bytes of a sample's value.
    """

    def __init__(self, num_rows: int, row_bytes: int) -> None:
        self._num_rows, self._row_bytes = num_rows, row_bytes

    def take(self) -> tuple[torch.Tensor, Sequence[memoryview]]:
        """Return page-locked memory."""
        tensor = torch.empty(self._num_rows * self._row_bytes, dtype=torch.uint8, pin_memory=True)
        return tensor, _rows(tensor.numpy(), self._row_bytes)


class _Block:
    def __init__(self, num_rows: int, row_bytes: int) -> None:
        self.memory = np.empty(num_rows * row_bytes, np.uint8)
        self.rows = _rows(self.memory, row_bytes)


class _Lease:
    """What a tensor over a block refers to, and all that is made from that tensor: it goes with the last of them."""

    def __init__(self, block: _Block, idle: "deque[_Block]") -> None:
        self.__array_interface__ = block.memory.__array_interface__
        self._block, self._idle = block, idle

    def __del__(self) -> None:
        self._idle.append(self._block)  # atomic: this runs in whatever thread drops the batch


def _rows(memory: Any, row_bytes: int) -> list[memoryview]:
    whole = memoryview(memory)
    return [whole[begin : begin + row_bytes] for begin in range(0, len(whole), row_bytes)]
