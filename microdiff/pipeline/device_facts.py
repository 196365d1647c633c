"""What computes latents here, as far as it decides their bytes: torch's version and the kind of device."""

import platform
from functools import cache
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


@cache
def device_facts() -> dict[str, str]:
    """Return `torch`, its version, and `device`: a GPU's name, or the CPU's kind.

    Kinds of CPU differ in the last bits of a sum: by maker, whose libraries choose other kernels, and by instructions.
    """
    import torch

    if torch.cuda.is_available():
        device = f"cuda {torch.cuda.get_device_name()}"
    else:
        device = f"cpu {platform.machine()} {_maker()} {torch.backends.cpu.get_cpu_capability()}"
    return {"torch": torch.__version__, "device": device}


def _maker() -> str:
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "unknown")
