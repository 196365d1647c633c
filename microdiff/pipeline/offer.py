"""A finished partition that somebody else has: what it is, and how its files come here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from microdiff.artifacts.manifest import FileRecord
from microdiff.pipeline.store_record import StoreRecord

Put = Callable[[str, FileRecord, Path], None]


@dataclass(frozen=True)
class Offer:
    """A finished partition that is elsewhere.

    Attributes:
        record: What it is.
        put: Puts a file, by its name and what is recorded of it, at a path: verified, or it raises.
        place: Where it is, for messages.
    """

    record: StoreRecord
    put: Put
    place: str
