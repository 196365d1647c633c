"""Where this process computes."""

from functools import cache

import torch
from torch import Tensor


@cache
def device() -> torch.device:
    """Return this process's GPU, or the CPU with one thread: more would make sums depend on the number of cores.

    Beside a GPU torch gets one thread, too: what is left for it on the CPU is reducing pictures, on threads of ours.
    """
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32; matrix products have this by default
    torch.set_num_threads(1)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def new_host_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor on the CPU, in memory that a GPU, if there is one, reads and writes by itself."""
    return torch.empty(shape, dtype=dtype, pin_memory=device().type == "cuda")


def on_host(values: Tensor) -> Tensor:
    """Return values of the CPU in such memory."""
    return values.pin_memory() if device().type == "cuda" else values
