"""Where this process computes."""

import torch


def device() -> torch.device:
    """Return this process's GPU, or the CPU with one thread: more would make sums depend on the number of cores."""
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32; matrix products have this by default
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(1)
    return torch.device("cpu")
