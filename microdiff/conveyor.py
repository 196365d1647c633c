"""From batches to rows that can be stored: always a few on the device, in order, each row checked."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from microdiff.device_queue import QUEUE, Batch, Encoded
from microdiff.progress import Reporter

DEPTH = 2  # batches of one partition that wait while one is computed

B = TypeVar("B", bound=Batch)


@dataclass(frozen=True)
class Rows(Generic[B]):
    """What became of a batch.

    Attributes:
        batch: The batch.
        values: (B, ...) as stored; bfloat16 as its bits (uint16).
        finite: bool (B,): which rows may be stored.
    """

    batch: B
    values: NDArray[Any]
    finite: NDArray[np.bool_]


def encoded(batches: Iterable[B], store: str, name: str, report: Reporter) -> Iterator[Rows[B]]:
    """Encode batches; rows that are not finite in the dtype they are stored in are computed again, in float32.

    Args:
        batches: Taken in the caller's thread, `DEPTH` ahead of the one whose rows are yielded.
        store: The dtype: `float16`, `bfloat16` or `float32`.
        name: Of the partition, for messages.
        report: Receives times and messages.

    Raises:
        StepError: The device's memory does not suffice for a single sample.
    """
    dtype = getattr(torch, store)
    pending: deque[tuple[B, Future[Encoded]]] = deque()
    again = 0

    def finish() -> Rows[B]:
        nonlocal again
        batch, future = pending.popleft()
        values, finite = future.result().wait(report)
        bad = np.flatnonzero(~finite).tolist()
        if bad:
            again += len(bad)
            retried = QUEUE.submit(batch.part(bad), dtype, report, precise=True)
            values[bad], finite[bad] = retried.result().wait(report)
        return Rows(batch, values, finite)

    try:
        for batch in batches:
            pending.append((batch, QUEUE.submit(batch, dtype, report)))
            if len(pending) > DEPTH:
                yield finish()
        while pending:
            yield finish()
    finally:
        for _, future in pending:
            future.cancel()
    if again:
        report.say(f"{name}: {again} samples were not finite or did not fit {store}; computed again in float32")
