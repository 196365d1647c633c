"""Progress of a step: a bar on a terminal, a plain line every few seconds elsewhere. Counts samples."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol

from tqdm import tqdm

from microdiff.core.printable import printable

log = logging.getLogger("microdiff")
LINE_EVERY_S = 15.0
SAMPLES = "samples"
_BAR = "{desc}: {bar} {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Reporter(Protocol):
    """What work in progress says."""

    def tick(self, samples: int = 0, num_bytes: int = 0, unit: str = SAMPLES) -> None:
        """Count finished samples, under their name if a step has several kinds of work, and received bytes."""

    def say(self, message: str) -> None:
        """Show a message, such as a retry and its reason."""

    def device(self, busy_s: float, idle_s: float) -> None:
        """Add up the seconds in which a device computed, and those in which it had nothing to compute."""

    def batches(self, label: str, size: int) -> None:
        """Note how large batches of a kind could be; the smallest size counts."""


class NullReporter:
    """A reporter that says nothing."""

    def tick(self, samples: int = 0, num_bytes: int = 0, unit: str = SAMPLES) -> None:
        """Do nothing."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def device(self, busy_s: float, idle_s: float) -> None:
        """Do nothing."""

    def batches(self, label: str, size: int) -> None:
        """Do nothing."""


class _Tally:
    """Samples of one kind: how many, of how many, and how fast."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.done = 0
        self._began: float | None = None
        self._last = 0.0

    def add(self, samples: int, now: float) -> None:
        """Count samples. What came before the first call, such as loading a model, is not the rate."""
        self._began = now if self._began is None else self._began
        self._last = now
        self.done += samples

    @property
    def seconds(self) -> float:
        """From the first samples to the last."""
        return 0.0 if self._began is None else self._last - self._began

    @property
    def rate(self) -> float | None:
        """Samples a second, or None in the first moments."""
        return self.done / self.seconds if self.seconds > 1 and self.done else None


class LogReporter(NullReporter):
    """A reporter for work without a bar: it logs what is said."""

    def say(self, message: str) -> None:
        """Log a message."""
        log.warning("%s", printable(message))


class Progress:
    """Shows samples done, rate and time left for one step of one dataset.

    Args:
        label: What is running, such as `download coco`.
        totals: Number of samples expected, or None when the source does not say; by name for several kinds of work,
            which come one after another, such as `images` and `captions`.
        total_bytes: Bytes to receive if none of them are here yet; 0 where nothing is received.
        devices: Number of devices that compute at once.

    Attributes:
        num_bytes: Received.
        busy_s: Seconds in which devices computed, summed over devices.
        idle_s: Seconds in which they waited for input.
        batch_sizes: Of encoders, by what they fill.
    """

    def __init__(
        self, label: str, totals: int | Mapping[str, int | None] | None, total_bytes: int = 0, devices: int = 1
    ) -> None:
        self.num_bytes = 0
        self.busy_s = self.idle_s = 0.0
        self.batch_sizes: dict[str, int] = {}
        self._label = label
        by_unit = totals if isinstance(totals, Mapping) else {SAMPLES: totals}
        self._tallies = {unit: _Tally(total) for unit, total in by_unit.items()}
        self._unit = next(iter(self._tallies), SAMPLES)
        self._total_bytes = total_bytes
        self._devices = devices
        self._began = self._last_line = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            known = [tally.total for tally in self._tallies.values()]
            total = None if None in known else sum(each or 0 for each in known)
            self._bar = tqdm(total=total, desc=label, leave=False, dynamic_ncols=True, bar_format=_BAR)

    def __enter__(self) -> "Progress":
        """Start counting."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    @property
    def done(self) -> int:
        """Samples of all kinds."""
        return sum(tally.done for tally in self._tallies.values())

    @property
    def seconds(self) -> float:
        """Since the start, with the loading of models."""
        return time.monotonic() - self._began

    def rates(self) -> dict[str, float]:
        """Return samples a second, by kind."""
        return {unit: tally.rate for unit, tally in self._tallies.items() if tally.rate is not None}

    def tick(self, samples: int = 0, num_bytes: int = 0, unit: str = SAMPLES) -> None:
        """Count finished samples and received bytes."""
        now = time.monotonic()
        self._unit = unit
        self._tallies.setdefault(unit, _Tally(None)).add(samples, now)
        self.num_bytes += num_bytes
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._pace()), refresh=False)
            self._bar.update(samples)
        elif now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            log.info("%s", ", ".join([f"{self._label}: {self._counts()}", *self._pace()]))

    def say(self, message: str) -> None:
        """Show a message without breaking the bar."""
        if self._bar is not None:
            tqdm.write(printable(message), file=sys.stderr)
        else:
            log.warning("%s", printable(message))

    def device(self, busy_s: float, idle_s: float) -> None:
        """Add up the seconds in which a device computed, and those in which it had nothing to compute."""
        self.busy_s += busy_s
        self.idle_s += idle_s

    def batches(self, label: str, size: int) -> None:
        """Note how large batches of a kind could be; the smallest size counts."""
        self.batch_sizes[label] = min(size, self.batch_sizes.get(label, size))

    def _counts(self) -> str:
        begun = {unit: tally for unit, tally in self._tallies.items() if tally.done or unit == self._unit}
        return ", ".join(
            f"{tally.done} of {tally.total} {unit}" if tally.total else f"{tally.done} {unit}"
            for unit, tally in begun.items()
        )

    def _pace(self) -> Iterator[str]:
        """Yield how fast it goes and how long it will take, as far as that is known."""
        tally, several = self._tallies[self._unit], len(self._tallies) > 1
        if tally.rate is not None:
            yield f"{tally.rate:.1f} {self._unit}/s" if several else f"{tally.rate:.1f}/s"
        if self.busy_s:
            yield f"device {min(1.0, self.busy_s / self._devices / max(self.seconds, 1e-9)):.0%}"
        if tally.rate is not None and tally.total:
            left = f"{max(tally.total - tally.done, 0) / tally.rate:.0f} s left"
            yield f"{left} for {self._unit}" if several else left
        if self.num_bytes:
            rate = self.num_bytes / max(self._tallies[SAMPLES].seconds, 1e-9)
            total = f" of {self._total_bytes / 1e6:.1f}" if self._total_bytes else ""
            yield f"{self.num_bytes / 1e6:.1f}{total} MB received"
            yield f"{rate / 1e6:.1f} MB/s"
            if self._total_bytes > self.num_bytes:
                yield f"{(self._total_bytes - self.num_bytes) / rate:.0f} s left"
