"""The storage that a DVC remote is: objects by path, read from any byte on.

The kinds are modules beside this one; `microdiff.storage.objects.opening` chooses by the remote's URL. None of
them repeats a request: `microdiff.storage.objects.fetching` does, so that every wait is seen and has its reason.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from microdiff.errors import SourceError


@dataclass(frozen=True)
class Body:
    """What a store sends of an object.

    Attributes:
        start: Where in the object the first byte is; 0 where the store cannot begin elsewhere.
        num_bytes: Size of the whole object.
        chunks: The bytes. Iterating raises `TryAgain` where they break off.
    """

    start: int
    num_bytes: int
    chunks: Iterator[bytes]


class TryAgain(SourceError):
    """A request failed for a reason that may pass.

    Attributes:
        wait_s: For how many seconds the store wants no further request; 0 if it does not say.
    """

    def __init__(self, problem: str, wait_s: float = 0.0) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


class PastTheEnd(TryAgain):
    """An object ends before the first byte wanted."""


class NoSuchObject(SourceError):
    """An object is not in the store."""


class ObjectStore(Protocol):
    """Objects below one root. Picklable."""

    @property
    def name(self) -> str:
        """The root, without credentials."""

    def read(self, path: str, start: int = 0) -> AbstractContextManager[Body]:
        """Open an object.

        Args:
            path: Below the root.
            start: First byte wanted.

        Raises:
            TryAgain: The store is busy or unreachable.
            PastTheEnd: There is no such byte.
            NoSuchObject: It is not there.
            SourceError: Asking again cannot help: wrong credentials, no such bucket.
        """

    def size(self, path: str) -> int:
        """Return an object's size in bytes.

        Raises:
            SourceError: As for `read`.
        """
