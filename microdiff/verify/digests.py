"""Digests to compare large collections by without holding them: of rows in order, and of samples in any order."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MODULUS = 2**128
Buffer = bytes | memoryview


@dataclass
class Multiset:
    """A digest of things in any order: the sum of their hashes. Equal ones hold the same things as often."""

    number: int = 0
    total: int = 0

    def add(self, digest: bytes) -> None:
        """Add a thing by its digest of 16 bytes."""
        self.number += 1
        self.total = (self.total + int.from_bytes(digest, "little")) % _MODULUS

    def merge(self, other: "Multiset") -> None:
        """Add all that another one holds."""
        self.number += other.number
        self.total = (self.total + other.total) % _MODULUS


def digest_rows(rows: Iterable[Iterable[object]]) -> str:
    """Return a digest of rows of texts and numbers, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        for cell in row:
            data = str(cell).encode()
            digest.update(len(data).to_bytes(4, "little") + data)
    return digest.hexdigest()


def digest_key(key: str) -> bytes:
    """Return the digest of a key, 16 bytes."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def digest_values(values: Mapping[str, Buffer]) -> bytes:
    """Return the digest of a sample's values by column, 16 bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(values.items()):
        digest.update(f"{name}\0{memoryview(value).nbytes}\0".encode())
        digest.update(value)
    return digest.digest()


def is_drawn(key_digest: bytes, share: float) -> bool:
    """Tell whether a sample is among the share that is compared value by value; the same on both sides."""
    return int.from_bytes(key_digest[8:], "little") < share * 2**64


def hashes(digests: Iterable[bytes]) -> NDArray[np.uint64]:
    """Return the first 8 bytes of digests as numbers."""
    return np.frombuffer(b"".join(digest[:8] for digest in digests), np.uint64)
