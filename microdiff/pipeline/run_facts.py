"""What a run says of itself: how much there is to do, how fast devices were fed, and what became of it."""

import logging
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

from microdiff.core.ledger import rejections
from microdiff.core.progress import Progress
from microdiff.pipeline.executor import TaskResult
from microdiff.pipeline.task import Task

log = logging.getLogger("microdiff")


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


def failure_message(label: str, failed: Sequence[TaskResult], total: int) -> str:
    """Return what to say of a step some of whose partitions failed; tracebacks go to the log of debug messages."""
    for outcome in failed:
        if outcome.details:
            log.debug("%s:\n%s", outcome.name, outcome.details)
    lines = [f"  {outcome.name}: {outcome.error}" for outcome in sorted(failed, key=lambda item: item.name)]
    head = f"{label}: {len(failed)} of {total} partitions failed; the others are kept."
    return "\n".join([head, *lines, "Run it again: only the failed ones are computed."])


def host_and_time() -> dict[str, str]:
    """Return on which machine, and when a run has ended."""
    return {"host": platform.node(), "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def outcome_in_words(counts: Mapping[str, int], wall_s: float) -> str:
    """Return the counts of a step, and why records were rejected."""
    lost = ", ".join(f"{name} {n}" for name, n in rejections(counts).items())
    rejected = f"{counts['in'] - counts['kept']} rejected{f' ({lost})' if lost else ''}"
    return f"{counts['in']} in, {counts['kept']} kept, {rejected}, {wall_s:.1f} s"
