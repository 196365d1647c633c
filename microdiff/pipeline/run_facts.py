"""What a run says of itself: how much there is to do, and how fast devices were fed."""

from collections.abc import Sequence
from typing import Any

from microdiff.core.progress import Progress
from microdiff.pipeline.task import Task


def total_samples(tasks: Sequence[Task]) -> dict[str, int | None]:
    """Return how many samples there are of each kind, in order; None where a task does not know."""
    totals: dict[str, int | None] = {}
    for task in tasks:
        before = totals.get(task.unit, 0)
        totals[task.unit] = None if task.num_samples is None or before is None else before + task.num_samples
    return totals


def feeding_facts(progress: Progress, devices: int) -> dict[str, Any]:
    """Return how fast devices were fed, and with what batches."""
    return {
        "per_s": {unit: round(rate, 2) for unit, rate in progress.rates().items()},
        "device_share": round(progress.busy_s / devices / progress.seconds, 4),
        "device_s": round(progress.busy_s, 3),
        "input_wait_s": round(progress.idle_s, 3),
        "batch_size": dict(sorted(progress.batch_sizes.items())),
    }
