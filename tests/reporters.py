"""A reporter that tests look into afterwards."""

from microdiff.core.progress import NullReporter


class Said(NullReporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.num_bytes = 0

    def tick(self, samples: int = 0, num_bytes: int = 0) -> None:
        self.num_bytes += num_bytes

    def say(self, message: str) -> None:
        self.messages.append(message)
