"""Progress of a step: a bar on a terminal, a plain line every few seconds elsewhere. Counts samples."""

import logging
import sys
import time
from types import TracebackType
from typing import Any, Protocol

from tqdm import tqdm

log = logging.getLogger("microdiff")
LINE_EVERY_S = 15.0


class Reporter(Protocol):
    """What work in progress says."""

    def tick(self, samples: int = 0, num_bytes: int = 0) -> None:
        """Count finished samples and received bytes."""

    def say(self, message: str) -> None:
        """Show a message, such as a retry and its reason."""


class Silent:
    """A reporter that says nothing."""

    def tick(self, samples: int = 0, num_bytes: int = 0) -> None:
        """Do nothing."""

    def say(self, message: str) -> None:
        """Do nothing."""


class Logged(Silent):
    """A reporter for work without a bar: it logs what is said."""

    def say(self, message: str) -> None:
        """Log a message."""
        log.warning("%s", message)


class Progress:
    """Shows samples done, rate and time left for one step of one dataset.

    Args:
        label: What is running, such as `download coco`.
        total: Number of samples expected, or None when the source does not say.
        total_bytes: Bytes to receive if none of them are here yet; 0 where nothing is received.
    """

    def __init__(self, label: str, total: int | None, total_bytes: int = 0) -> None:
        self.done = 0
        self.num_bytes = 0
        self._label = label
        self._total = total
        self._total_bytes = total_bytes
        self._started = self._last_line = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=label, unit=" samples", leave=False, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        """Start counting."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def tick(self, samples: int = 0, num_bytes: int = 0) -> None:
        """Count finished samples and received bytes."""
        if not self.done and not self.num_bytes:
            self._started = time.monotonic()  # what came before, such as loading a model, is not the rate
        self.done += samples
        self.num_bytes += num_bytes
        if self._bar is not None:
            if num_bytes:
                self._bar.set_postfix_str(self._received(), refresh=False)
            self._bar.update(samples)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            log.info("%s", self._line())

    def say(self, message: str) -> None:
        """Show a message without breaking the bar."""
        if self._bar is not None:
            tqdm.write(message, file=sys.stderr)
        else:
            log.warning("%s", message)

    def _received(self) -> str:
        rate = self.num_bytes / max(time.monotonic() - self._started, 1e-9)
        left = self._total_bytes - self.num_bytes
        total = f" of {self._total_bytes / 1e6:.1f}" if self._total_bytes else ""
        line = f"{self.num_bytes / 1e6:.1f}{total} MB received, {rate / 1e6:.1f} MB/s"
        return f"{line}, {left / rate:.0f} s left" if left > 0 else line

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        done = f"{self.done} of {self._total}" if self._total else f"{self.done}"
        line = f"{self._label}: {done} samples"
        if seconds > 1 and self.done:
            line += f", {self.done / seconds:.1f}/s"
            if self._total:
                line += f", {max(self._total - self.done, 0) * seconds / self.done:.0f} s left"
        return f"{line}, {self._received()}" if self.num_bytes else line
