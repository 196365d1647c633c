"""The one thread of a process that uses its device. Partitions in progress queue their batches for it.

One thread, because then models are loaded once, compiled ones and CUDA graphs stay with the thread they belong to,
partitions take turns, and an error belongs to whoever queued the batch. On a GPU it only launches: while one batch is
computed the next is launched behind it, copies between pinned memory and the GPU included, and nobody waits for a
result but the partition it is for.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microdiff.core.progress import Reporter
from microdiff.errors import StepError
from microdiff.models.device import device, new_host_tensor

# Shapes: B batch.

DEPTH = 2  # batches of one partition that wait while one is computed

Settings = TypeVar("Settings", bound=Hashable)
Model = TypeVar("Model")
_Mark = torch.cuda.Event | float  # a moment on the device


class Batch(Protocol):
    """What is encoded together."""

    @property
    def label(self) -> str:
        """Return what names the kind of batch, such as `latents_512`."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def part(self, rows: slice | list[int]) -> Self:
        """Return some of its rows as a batch."""

    def encode(self, *, precise: bool) -> Tensor:
        """Return float32 (B, ...) on the device; `precise` computes in float32."""


B = TypeVar("B", bound=Batch)


@dataclass
class Encoded:
    """Rows on their way from the device.

    Attributes:
        rows: (B, ...) in the dtype they are stored in, on the CPU.
        finite: bool (B,): the row holds neither NaN nor infinity; what its dtype cannot hold has become infinity.
    """

    rows: Tensor
    finite: Tensor
    _began: _Mark
    _ended: _Mark
    _gaps: list[tuple[_Mark, _Mark]]

    def wait(self, report: Reporter) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Wait until they are there and return them, bfloat16 as its bits (uint16); report the device's time."""
        if isinstance(self._ended, torch.cuda.Event):
            self._ended.synchronize()
        report.device(_seconds(self._began, self._ended), sum(_seconds(*gap) for gap in self._gaps))
        rows = self.rows.view(torch.uint16) if self.rows.dtype == torch.bfloat16 else self.rows
        return rows.numpy(), self.finite.numpy()


class DeviceQueue:
    """Runs jobs one after another, in the order they were queued, on a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._lock = threading.Lock()
        self._models: dict[Hashable, Future[Any]] = {}
        self._sizes: dict[tuple[str, bool], int] = {}
        self._ended: _Mark | None = None
        self._gaps: list[tuple[_Mark, _Mark]] = []

    def load(self, loader: Callable[[Settings], Model], settings: Settings) -> Future[Model]:
        """Queue the loading of a model, unless it is loaded or queued: then nothing waits for the batches queued since.

        Args:
            loader: Called on the device's thread, once for these settings; again if it raised.
            settings: Its argument.

        Returns:
            The model, or what the loader raised.
        """
        with self._lock:
            model = self._models.get((loader, settings))
            if model is None or (model.done() and model.exception() is not None):
                model = self._models[loader, settings] = self._thread.submit(self._load, loader, settings)
            return model

    def submit(self, batch: Batch, dtype: torch.dtype, report: Reporter, *, precise: bool = False) -> Future[Encoded]:
        """Queue a batch.

        Args:
            batch: What to encode.
            dtype: The rows are stored in.
            report: Is told when the batch is too large for the device's memory.
            precise: Whether to compute in float32.

        Returns:
            Its rows. StepError, as the future's, if not even one row fits into the device's memory.
        """
        return self._thread.submit(self._encode, batch, dtype, report, precise)

    def batch_size(self, label: str, wanted: int) -> int:
        """Return how many rows of a kind of batch are encoded at once: as many as wanted, if they fit."""
        return min(wanted, self._sizes.get((label, False), wanted))

    def _load(self, loader: Callable[[Settings], Model], settings: Settings) -> Model:
        self._close_gap()
        try:
            return loader(settings)
        finally:
            self._ended = _mark()

    @torch.inference_mode()
    def _encode(self, batch: Batch, dtype: torch.dtype, report: Reporter, precise: bool) -> Encoded:
        self._close_gap()
        gaps, self._gaps = self._gaps, []
        began = _mark()
        parts: list[Tensor] = []
        done = 0
        while done < len(batch):
            size = min(len(batch) - done, self._sizes.get((batch.label, precise), len(batch)))
            rows = _encode_rows(batch if size == len(batch) else batch.part(slice(done, done + size)), dtype, precise)
            if rows is None:
                self._halve(batch.label, size, precise, report)
                continue
            parts.append(rows)
            done += size
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        rows, finite = _to_cpu(rows), _to_cpu(torch.isfinite(rows).flatten(1).all(1))
        self._ended = ended = _mark()
        return Encoded(rows, finite, began, ended, gaps)

    def _halve(self, label: str, size: int, precise: bool, report: Reporter) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise StepError(
                f"{label}: {device()} has not enough memory for a single sample. Free some of it "
                "(is another program using the device?), or set a smaller dtype or resolution in encode."
            )
        self._sizes[label, precise] = size // 2
        report.say(f"{label}: out of memory with {size} samples at once; going on with {size // 2}")

    def _close_gap(self) -> None:
        """Note the time in which the device had nothing to do; loading a model is not part of it."""
        if self._ended is not None:
            self._gaps.append((self._ended, _mark()))
            self._ended = None


QUEUE = DeviceQueue()  # of this process


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


def encode_batches(batches: Iterable[B], store: str, name: str, report: Reporter) -> Iterator[Rows[B]]:
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


def _encode_rows(batch: Batch, dtype: torch.dtype, precise: bool) -> Tensor | None:
    """Return rows in the dtype they are stored in, or None where the device's memory does not suffice."""
    try:
        return batch.encode(precise=precise).to(dtype)
    except torch.OutOfMemoryError:
        return None  # the error itself holds what filled the memory: it must be gone before the next attempt


def _to_cpu(values: Tensor) -> Tensor:
    """Return values on the CPU, or on their way there: until the moment marked next is over."""
    if values.device.type == "cpu":
        return values
    return new_host_tensor(tuple(values.shape), values.dtype).copy_(values, non_blocking=True)


def _mark() -> _Mark:
    if device().type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _seconds(began: _Mark, ended: _Mark) -> float:
    if isinstance(began, float) or isinstance(ended, float):
        return float(ended) - float(began)  # type: ignore[arg-type]  # both are
    return float(began.elapsed_time(ended)) / 1000
