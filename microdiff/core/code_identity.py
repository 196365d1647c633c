"""The identity of code: its digest, or that of earlier code which is listed as giving the same bytes.

A refactoring that changes no byte must not recompute anything for anybody. So the code part of a fingerprint is an
identity, and `code/same_bytes.tsv`, kept in git, lists the digests of code that stands for earlier code.
`python -m stages.code --same-bytes` adds to it (docs/decisions/code-identities.md).
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from microdiff.core.code_fingerprint import SourceTree
from microdiff.core.files import locked_folder, write_text
from microdiff.errors import ParamsError, SchemaError

log = logging.getLogger("microdiff")

SAME_BYTES = "code/same_bytes.tsv"
DECLARED = "declared: "
_COLUMNS = ("digest", "identity", "reason")
_DIGEST = re.compile("[0-9a-f]{64}")
_SHOWN = 12


@dataclass(frozen=True)
class Listing:
    """Why a digest stands for an identity.

    Attributes:
        identity: The digest of the earlier code.
        reason: How it is known, in words; begins with `declared: ` where it was not shown.
    """

    identity: str
    reason: str

    @property
    def is_declared(self) -> bool:
        """Whether somebody said so, instead of it having been shown."""
        return self.reason.startswith(DECLARED)


@dataclass(frozen=True)
class SameBytes:
    """Digests of code that gives the same bytes as earlier code, with what they stand for."""

    listings: Mapping[str, Listing] = field(default_factory=dict)

    def identity(self, digest: str) -> str:
        """Return what a digest stands for: another one if it is listed, else itself."""
        listing = self.listings.get(digest)
        return digest if listing is None else listing.identity


class CodeIdentities:
    """The identities of code below one folder.

    Args:
        root: Holds `microdiff/` and `stages/`, and the list of digests unless there is none.
    """

    def __init__(self, root: Path) -> None:
        self.tree = SourceTree(root)
        self._path = root / SAME_BYTES

    @cached_property
    def same_bytes(self) -> SameBytes:
        """The list of digests, read once.

        Raises:
            SchemaError: It is damaged.
        """
        return read_same_bytes(self._path)

    def digest(self, modules: Iterable[str]) -> str:
        """Return the digest of deciding code, see `SourceTree.code_digest`."""
        return self.tree.code_digest(modules)

    def identity(self, modules: Iterable[str]) -> str:
        """Return the identity of deciding code."""
        return self.same_bytes.identity(self.digest(modules))


_RUNNING = CodeIdentities(Path(__file__).resolve().parents[2])


def code_identity(modules: Iterable[str]) -> str:
    """Return the identity of modules of the running code and of what they import; say so if it was only declared.

    Args:
        modules: Those that decide a kind of unit, see `microdiff.core.deciding_code`.

    Raises:
        SchemaError: The list of digests is damaged.
    """
    digest = _RUNNING.digest(modules)
    listing = _RUNNING.same_bytes.listings.get(digest)
    if listing is None:
        return digest
    if listing.is_declared:
        _warn(digest, listing)
    return listing.identity


@cache  # once per process
def _warn(digest: str, listing: Listing) -> None:
    log.warning(
        "code %s is taken for %s, which nobody has shown: %s",
        *(digest[:_SHOWN], listing.identity[:_SHOWN], listing.reason),
    )


def read_same_bytes(path: Path) -> SameBytes:
    """Read a list of digests; a missing file is an empty list.

    Raises:
        SchemaError: The file is not such a list: a line is malformed, a digest is listed twice, or what one stands for
            is listed itself.
    """
    try:
        header, *lines = path.read_bytes().decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except FileNotFoundError:
        return SameBytes()
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path}: not UTF-8 ({error}). Restore it with git checkout.") from error
    if tuple(header.split("\t")) != _COLUMNS:
        raise SchemaError(
            f"{path}, line 1: expected {'<TAB>'.join(_COLUMNS)}, found {header!r}. Restore it with git checkout."
        )
    listings: dict[str, Listing] = {}
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, 2):
        match line.split("\t"):
            case [digest, identity, reason] if all(map(_DIGEST.fullmatch, (digest, identity))) and reason.strip():
                pass
            case _:
                raise SchemaError(
                    f"{path}, line {number}: expected two digests of 64 hexadecimal digits and a reason, separated by "
                    f"tabs, found {line!r:.200}"
                )
        if digest in listings:
            raise SchemaError(f"{path}, line {number}: {digest} is in line {numbers[digest]}, too. Keep one of them.")
        listings[digest], numbers[digest] = Listing(identity, reason), number
    for digest, listing in listings.items():
        if listing.identity in listings:
            end = listings[listing.identity].identity
            remedy = "Remove the line." if end in listings else f"Write {end} instead."
            raise SchemaError(
                f"{path}, line {numbers[digest]}: {digest} stands for {listing.identity}, which stands for something "
                f"else in line {numbers[listing.identity]}. {remedy}"
            )
    return SameBytes(listings)


def add_listings(path: Path, listings: Mapping[str, Listing]) -> None:
    """Add digests to a list, which stays sorted, whole or not at all.

    Args:
        path: The list.
        listings: By digest; what they stand for is looked up in the list.

    Raises:
        SchemaError: The list is damaged, or would be.
        ParamsError: A reason is empty, or holds a tab or the end of a line.
    """
    for listing in listings.values():
        check_reason(listing.reason)
    with locked_folder(path.parent):
        before = read_same_bytes(path)
        merged = dict(before.listings)
        for digest, listing in listings.items():
            merged[digest] = Listing(before.identity(listing.identity), listing.reason)
        identities = {listing.identity for listing in merged.values()}
        if looped := sorted(merged.keys() & identities):
            raise SchemaError(
                f"{path}: {looped[0]} cannot be listed, since others stand for it. Its code came first: remove the "
                "lines that are about newer code."
            )
        rows = [(digest, listing.identity, listing.reason) for digest, listing in sorted(merged.items())]
        write_text(path, "".join("\t".join(row) + "\n" for row in (_COLUMNS, *rows)))


def check_reason(reason: str) -> None:
    """Check that a reason says something and fits a line.

    Raises:
        ParamsError: It does not.
    """
    if not reason.removeprefix(DECLARED).strip():
        raise ParamsError("a reason must say something: --declare 'why the bytes are the same'")
    if any(not mark.isprintable() for mark in reason):
        raise ParamsError(f"a reason may hold no tab, no end of a line and nothing unprintable, got {reason!r}")
