"""A reporter that tests look into afterwards."""

from collections import Counter

from microdiff.core.progress import SAMPLES, NullReporter


class Said(NullReporter):
    """Remembers what it was told.

    Attributes:
        messages: What was said.
        num_bytes: Bytes received.
        ticks: Finished samples by unit.
        times: Busy and idle seconds of a device, as they were reported.
        sizes: The size last noted for each kind of batches.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.num_bytes = 0
        self.ticks: Counter[str] = Counter()
        self.times: list[tuple[float, float]] = []
        self.sizes: dict[str, int] = {}

    def tick(self, samples: int = 0, num_bytes: int = 0, unit: str = SAMPLES) -> None:
        self.ticks[unit] += samples
        self.num_bytes += num_bytes

    def say(self, message: str) -> None:
        self.messages.append(message)

    def device(self, busy_s: float, idle_s: float) -> None:
        self.times.append((busy_s, idle_s))

    def batches(self, label: str, size: int) -> None:
        self.sizes[label] = size
