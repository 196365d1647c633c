"""A model that only computes: in the dtype asked for, compiled on request, and in float32 where that one fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from microdiff.config.settings import ImageEncoderSettings, TextEncoderSettings
from microdiff.models.device import device

_Settings = ImageEncoderSettings | TextEncoderSettings


class FrozenModel:
    """A model in evaluation mode on this process's device.

    Args:
        load: Returns the model in a dtype, on the CPU.
        settings: The dtype to compute in, and whether batches of the full size go through `torch.compile`, made for
            their exact shape. Others, such as the last one of a partition, are not worth a compilation of their own.

    Attributes:
        dtype: It computes in.
        device: Where it computes.
    """

    def __init__(self, load: Callable[[torch.dtype], nn.Module], settings: _Settings) -> None:
        self.dtype = getattr(torch, settings.dtype)
        self.device = device()
        self._load = load
        self._module = _frozen(load(self.dtype)).to(self.device)
        self._compiled_batch = settings.batch_size if settings.compile else None
        self._has_graphs = settings.cuda_graphs
        if settings.compile:
            mode = "reduce-overhead" if settings.cuda_graphs else None  # torch's name for CUDA graphs
            self._compiled: Any = torch.compile(self._module, dynamic=False, mode=mode)
        self._float32: nn.Module | None = None

    def __call__(self, batch_size: int, *inputs: Any) -> tuple[Tensor, ...]:
        """Compute on a batch; return the module's outputs."""
        is_compiled = batch_size == self._compiled_batch
        outputs: tuple[Tensor, ...] = self._compiled(*inputs) if is_compiled else self._module(*inputs)
        if is_compiled and self._has_graphs:  # whose memory the next batch is written to
            return tuple(output.clone() for output in outputs)
        return outputs

    @contextmanager
    def in_float32(self) -> Iterator[nn.Module]:
        """Give the model in float32, read again from its files: they may be more precise than `dtype`.

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
