"""Who works on a step's units: how many processes, with which device each, and how many units each has in hand."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from microdiff.core.prefetch import THREADS_VARIABLE
from microdiff.errors import ParamsError

_SAMPLES_PER_WORKER = 256  # starting a process costs seconds, more with torch
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # one of them is there where a GPU is: Linux, WSL, AMD


@dataclass(frozen=True)
class WorkerPlan:
    """Worker processes.

    Attributes:
        workers: How many; a single one that has one unit in hand is this process itself.
        in_hand: Units that each works on at once, on threads.
        environments: Variables for each worker, by its index.
    """

    workers: int
    in_hand: int = 1
    environments: tuple[Mapping[str, str], ...] = ()


def workers_asked_for() -> int | None:
    """Return MICRODIFF_WORKERS, or None where it is not set.

    Raises:
        ParamsError: It is not a positive integer, or MICRODIFF_EXECUTOR is unknown.
    """
    executor = os.environ.get("MICRODIFF_EXECUTOR", "local")
    if executor != "local":
        raise ParamsError(f"MICRODIFF_EXECUTOR: expected 'local', got {executor!r}")
    text = os.environ.get("MICRODIFF_WORKERS", "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ParamsError(f"MICRODIFF_WORKERS: expected a positive integer, got {text!r}")
    return int(text)


def num_workers() -> int:
    """Return the number of worker processes: as many as asked for, or one per available core."""
    return workers_asked_for() or num_cores()


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def plan_workers(num_units: int, num_samples: int | None, *, on_device: bool = False) -> WorkerPlan:
    """Return who should work on some units.

    Args:
        num_units: Number of units.
        num_samples: Samples in all of them, if known.
        on_device: Whether they use a GPU where there is one: then there is a worker for each GPU, with the next
            partition in hand while one is computed.
    """
    gpus = visible_gpus() if on_device else []
    if not gpus:
        workers = num_workers()
        if workers_asked_for() is None and num_samples is not None:
            workers = min(workers, max(1, num_samples // _SAMPLES_PER_WORKER))
        return _plan(min(workers, num_units), 1, [])
    return _plan(min(workers_asked_for() or len(gpus), num_units), 2, gpus)


def _plan(workers: int, in_hand: int, gpus: list[str]) -> WorkerPlan:
    threads = os.environ.get(THREADS_VARIABLE) or str(max(1, num_cores() // max(1, workers)))
    environments = [{THREADS_VARIABLE: threads} for _ in range(workers)]
    for index, environment in enumerate(environments):
        if gpus:
            environment[_VISIBLE] = gpus[index % len(gpus)]
    return WorkerPlan(workers, in_hand, tuple(environments))


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, each as CUDA_VISIBLE_DEVICES would name it alone."""
    if not any(Path(name).exists() for name in _DRIVERS):
        return []
    import torch  # takes seconds, so only where there is a driver

    count = torch.cuda.device_count()  # does not start CUDA in this process, which would take memory of a GPU
    names = os.environ.get(_VISIBLE, "").split(",") if _VISIBLE in os.environ else [str(n) for n in range(count)]
    return [name.strip() for name in names[:count]]
