"""Errors meant for the user: what happened, where, what was expected, and the remedy.

    MicrodiffError
    |-- ParamsError      a setting is missing, misspelt or out of range
    |-- SourceError      a source is absent, unreachable, or not what it says it is
    |-- RejectionError   more records were rejected than the dataset allows
    |-- SchemaError      an artifact is missing, damaged, or does not fit what reads it
    |-- StepError        partitions failed, or a ledger does not add up
    `-- WriteError       a place takes no more bytes: full, over quota, read-only, or not this user's

A stage prints one of these without a traceback and exits with 1. A bad *record* is never an error: it is a
rejection (see `microdiff.core.ledger`). Anything else that is raised is a bug and shows its traceback.
"""


class MicrodiffError(Exception):
    """Base of every error a user can act on."""


class ParamsError(MicrodiffError):
    """One or more settings are wrong; the message lists all of them."""


class SourceError(MicrodiffError):
    """A source cannot be read, or its bytes are not the ones it promises."""


class RejectionError(MicrodiffError):
    """The share of rejected records exceeds the dataset's `max_rejected_share`."""


class SchemaError(MicrodiffError):
    """An artifact is missing or does not have the expected form."""


class StepError(MicrodiffError):
    """A step could not finish: partitions failed, or its counts do not add up."""


class WriteError(MicrodiffError):
    """A folder cannot be written: its disk is full or read-only, permission is missing, or it is a file."""
