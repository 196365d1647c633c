"""The list of withdrawn samples of a dataset: `data/<dataset>/withdrawn.tsv`, kept in git.

UTF-8; a header, then a line per sample, its columns separated by tabs: `key`, `reason`, and, where it is known, the
`partition` that the key is in. `python -m stages.forget` writes it; the pipeline and the loader obey it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from microdiff.core.files import write_text
from microdiff.core.regular_files import read_regular
from microdiff.errors import ParamsError, SchemaError

WITHDRAWN = "withdrawn.tsv"
_MAX_BYTES = 2**30
_COLUMNS = ("key", "reason", "partition")


@dataclass(frozen=True)
class Withdrawal:
    """One withdrawn sample.

    Attributes:
        key: The sample's key; that of the picture, where its captions became samples of their own.
        reason: Why, in words.
        partition: Where it was found; empty if that is not known.
    """

    key: str
    reason: str
    partition: str = ""


@dataclass(frozen=True)
class Withdrawn:
    """The withdrawn samples of one dataset, by key. True if there are any."""

    entries: Mapping[str, Withdrawal] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entries)

    def contains(self, key: str) -> bool:
        """Tell whether a sample is withdrawn: by its own key, or by its picture's if it is `<key>#<number>`."""
        return key in self.entries or picture_key(key) in self.entries


def picture_key(key: str) -> str:
    """Return the key without the `#<number>` that tells the captions of one picture apart."""
    picture, mark, number = key.rpartition("#")
    return picture if mark and number.isascii() and number.isdigit() else key


def read_withdrawn(path: Path) -> Withdrawn:
    """Read a list of withdrawn samples; a missing file is an empty list.

    Raises:
        SchemaError: The file is not such a list. One that cannot be read must not pass for a shorter one.
    """
    try:
        header, *lines = read_regular(path, _MAX_BYTES).decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return Withdrawn()
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path}: not UTF-8 ({error}). Restore it with git checkout.") from error
    names = header.split("\t")
    if tuple(names[:2]) != _COLUMNS[:2]:
        raise SchemaError(f"{path}: expected a header key<TAB>reason, found {header!r}. Restore it with git checkout.")
    entries = {}
    for number, line in enumerate(lines, 2):
        fields = line.split("\t")
        if len(fields) < len(_COLUMNS[:2]) or not fields[0]:
            raise SchemaError(f"{path}, line {number}: expected a key, a tab and a reason, found {line!r}")
        facts = dict(zip(names, fields, strict=False))
        entries[facts["key"]] = Withdrawal(facts["key"], facts["reason"], facts.get("partition", ""))
    return Withdrawn(entries)


def write_withdrawn(path: Path, withdrawn: Withdrawn) -> None:
    """Write a list of withdrawn samples, sorted by key.

    Raises:
        ParamsError: A key or a reason holds a tab or the end of a line, which the list cannot.
    """
    rows = [(entry.key, entry.reason, entry.partition) for _, entry in sorted(withdrawn.entries.items())]
    for row in rows:
        if any(mark in text for text in row for mark in "\t\n\r"):
            raise ParamsError(f"{path}: keys and reasons may hold no tab and no end of a line, got {row}")
    write_text(path, "".join("\t".join(row) + "\n" for row in (_COLUMNS, *rows)))
