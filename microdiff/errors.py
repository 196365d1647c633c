"""Errors meant for the user: what happened, where, what was expected, and the remedy.

    MicrodiffError
    |-- ParamsError      a setting is missing, misspelt or out of range
    |-- SourceError      a source is absent, unreachable, or not what it says it is
    |   `-- FinalSourceError   trying once more in the same run cannot help
    |-- RejectionError   more records were rejected than the dataset allows
    |-- SchemaError      an artifact is missing, damaged, or does not fit what reads it
    |   `-- DamagedError   a file's bytes are not the recorded ones
    |-- StepError        partitions failed, or a ledger does not add up
    `-- WriteError       a place takes no more bytes: full, over quota, read-only, or not this user's

A stage prints one of these without a traceback and exits with 1. A bad *record* is never an error: it is a
rejection (see `microdiff.core.ledger`). Anything else that is raised is a bug and shows its traceback.
"""

from pathlib import Path

_SHOWN = 12  # digits of a digest
_DIGEST_DIGITS = 64


class MicrodiffError(Exception):
    """Base of every error a user can act on."""


class ParamsError(MicrodiffError):
    """One or more settings are wrong; the message lists all of them."""


class SourceError(MicrodiffError):
    """A source cannot be read, or its bytes are not the ones it promises."""


class FinalSourceError(SourceError):
    """A source cannot be read, and what can be done about it in this run has been done."""


class RejectionError(MicrodiffError):
    """The share of rejected records exceeds the dataset's `max_rejected_share`."""


class SchemaError(MicrodiffError):
    """An artifact is missing or does not have the expected form."""


class DamagedError(SchemaError):
    """A file is not the recorded one.

    Attributes:
        path: Of the file.
        expected: The SHA-256 recorded, 64 hexadecimal digits.
        found: That of its bytes, or what else is wrong with it.
    """

    def __init__(self, path: Path, expected: str, found: str) -> None:
        super().__init__(path, expected, found)
        self.path, self.expected, self.found = path, expected, found
        self.sample = ""

    def of_sample(self, key: str) -> "DamagedError":
        """Return this error, naming the sample whose bytes are damaged."""
        self.sample = key
        return self

    def __str__(self) -> str:
        """Return one line: file, sample if it is known, expected, found."""
        where = f"{self.path}, sample {self.sample}" if self.sample else str(self.path)
        return f"{where}: damaged: expected sha256 {self.expected[:_SHOWN]}..., found {_shortened(self.found)}"


class StepError(MicrodiffError):
    """A step could not finish: partitions failed, or its counts do not add up."""


class WriteError(MicrodiffError):
    """A folder cannot be written: its disk is full or read-only, permission is missing, or it is a file."""


def _shortened(found: str) -> str:
    return f"{found[:_SHOWN]}..." if len(found) == _DIGEST_DIGITS and " " not in found else found
