"""A model that only computes: in the dtype asked for, compiled on request, and in float32 where that one fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from microdiff.device import device


class FrozenModel:
    """A model in evaluation mode on this process's device.

    Args:
        load: Returns the model in a dtype, on the CPU.
        dtype: To compute in.
        compiled_batch: Batches of this size go through `torch.compile`, made for their exact shape; None for none.
            Others, such as the last one of a partition, are not worth a compilation of their own.

    Attributes:
        dtype: It computes in.
        device: Where it computes.
    """

    def __init__(
        self, load: Callable[[torch.dtype], nn.Module], dtype: torch.dtype, compiled_batch: int | None
    ) -> None:
        self.dtype = dtype
        self.device = device()
        self._load = load
        self._module = _frozen(load(dtype)).to(self.device)
        self._compiled_batch = compiled_batch
        self._compiled: Any = None if compiled_batch is None else torch.compile(self._module, dynamic=False)
        self._float32: nn.Module | None = None

    def __call__(self, batch_size: int, *inputs: Any) -> Any:
        """Compute on a batch."""
        if batch_size == self._compiled_batch:
            return self._compiled(*inputs)
        return self._module(*inputs)

    @contextmanager
    def in_float32(self) -> Iterator[nn.Module]:
        """Give the model in float32, read again from its files, which may hold more than `dtype` does.

        Between uses that copy waits in host memory, so that the device's holds it only while it computes.
        """
        if self.dtype == torch.float32:
            yield self._module
            return
        if self._float32 is None:
            self._float32 = _frozen(self._load(torch.float32))
        try:
            yield self._float32.to(self.device)
        finally:
            self._float32.to("cpu")


def _frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(requires_grad=False)
