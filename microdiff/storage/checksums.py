"""Checksums that identify files: `sha256:...`, `md5:...`, and `git:...`, the SHA-1 that git gives a blob."""

import hashlib
from pathlib import Path

from microdiff.errors import SourceError

_ALGORITHMS = {"sha256": "sha256", "md5": "md5", "git": "sha1"}


def is_checksum(identity: str) -> bool:
    """Tell whether an identity is a checksum of the bytes."""
    return identity.partition(":")[0] in _ALGORITHMS


def new_digest(kind: str, num_bytes: int | None = None) -> "hashlib._Hash":
    """Return what computes a kind of checksum.

    Args:
        kind: What stands before the colon.
        num_bytes: Size of the file, which is part of git's.
    """
    digest = hashlib.new(_ALGORITHMS[kind], usedforsecurity=False)
    if kind == "git":
        digest.update(f"blob {num_bytes}\0".encode())
    return digest


def checksum_of(path: Path, kind: str) -> str:
    """Return a file's checksum.

    Raises:
        SourceError: There is no such kind.
    """
    if kind not in _ALGORITHMS:
        raise SourceError(f"{path.name}: unknown kind of checksum {kind!r}; expected one of {', '.join(_ALGORITHMS)}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: new_digest(kind, path.stat().st_size))
    return f"{kind}:{digest.hexdigest()}"
