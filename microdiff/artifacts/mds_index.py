"""The index of an MDS shard set: what `index.json` says of each shard and of its files.

An index may be a stranger's. Whatever reads one reads it here: names that lead out of the folder, sizes that cannot be
and types that contradict each other go no further.

Format: https://github.com/mosaicml/streaming/blob/v0.13.0/streaming/base/format/mds/writer.py
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from microdiff.artifacts.mds_header import HEADER_FIELDS, MAX_SHARD_BYTES, MDS_VERSION, ShardHeader, get_typed
from microdiff.core.regular_files import read_regular
from microdiff.core.untrusted import are_texts, check_name, check_names_fit, is_number, load_json
from microdiff.errors import SchemaError

INDEX_NAME = "index.json"
_SUFFIX = ".mds"
_DIGEST = re.compile(r"(?:[0-9a-f]{2}){1,128}")
_MAX_INDEX_BYTES = 2**30  # a million shards
_MAX_EMPTY_BYTES = 2**16  # of a shard without samples, as streaming writes before one that is larger than its limit
# Latents hardly compress: what claims more than this would fill the disk from a few bytes.
_MAX_RATIO, _RATIO_FREE_BYTES = 1024, 2**26
_HEX_DIGITS = {
    name: 2 * hashlib.new(name, usedforsecurity=False).digest_size
    for name in sorted(hashlib.algorithms_guaranteed, key=lambda name: (name != "sha256", name))
    if not name.startswith("shake")  # of no fixed size
}


@dataclass(frozen=True)
class IndexedFile:
    """A file as the index has it.

    Attributes:
        name: Its path in the index's folder.
        num_bytes: Its size.
        hashes: Hex digests by the hash's name; published shards have none.
    """

    name: str
    num_bytes: int
    hashes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Read a `raw_data` or a `zip_data`.

        Raises:
            ValueError: Naming the field that is missing or wrong.
        """
        name, num_bytes = check_name(get_typed(value, "basename", str)), get_typed(value, "bytes", int)
        if not is_number(num_bytes, 1, MAX_SHARD_BYTES):
            raise ValueError(f"bytes {num_bytes!r:.80}")
        hashes = get_typed(value, "hashes", dict | None) or {}
        if not are_texts(hashes) or not all(
            _DIGEST.fullmatch(digest) and _HEX_DIGITS.get(name, len(digest)) == len(digest)
            for name, digest in hashes.items()
        ):
            raise ValueError(f"hashes {hashes!r:.80}")
        return cls(name, num_bytes, hashes)

    @property
    def known_hash(self) -> str | None:
        """The first of its hashes that this Python can compute, SHA-256 before others; None if there is none."""
        return next((name for name in _HEX_DIGITS if name in self.hashes), None)

    def to_json(self) -> dict[str, Any]:
        """Return the file as JSON values."""
        return {"basename": self.name, "bytes": self.num_bytes, "hashes": dict(self.hashes)}


@dataclass(frozen=True)
class ShardEntry:
    """A shard as the index has it.

    Attributes:
        header: What the shard says of itself.
        num_samples: How many samples it holds.
        raw: The shard, uncompressed.
        zipped: The file that it is compressed to, None where it is not.
    """

    header: ShardHeader
    num_samples: int
    raw: IndexedFile
    zipped: IndexedFile | None = None

    @classmethod
    def parse(cls, value: object, header: ShardHeader | None = None) -> Self:
        """Read an entry.

        Args:
            value: As JSON.
            header: What the fields of its header say, if they have been read before.

        Raises:
            ValueError: Naming the field that is missing or wrong.
        """
        if not isinstance(value, dict):
            raise ValueError(f"{value!r:.200}")
        zipped = get_typed(value, "zip_data", dict | None)
        entry = cls(
            header=header or ShardHeader.parse(value),
            num_samples=get_typed(value, "samples", int),
            raw=IndexedFile.parse(get_typed(value, "raw_data", dict)),
            zipped=IndexedFile.parse(zipped) if zipped else None,
        )
        entry._check()
        return entry

    def _check(self) -> None:
        """Check that what it says can be true at once.

        Raises:
            ValueError: Naming what cannot.
        """
        raw, zipped = self.raw, self.zipped
        if not raw.name.endswith(_SUFFIX):
            raise ValueError(f"the name {raw.name!r:.80} of a shard, expected one that ends in {_SUFFIX}")
        if not self.num_samples and raw.num_bytes > _MAX_EMPTY_BYTES:
            raise ValueError(f"samples 0 in {raw.num_bytes} bytes")
        if self.num_samples < 0 or self.header.least_bytes(self.num_samples) > raw.num_bytes:
            raise ValueError(f"samples {self.num_samples!r:.80}, which do not go into {raw.num_bytes} bytes")
        if zipped is None:
            return
        kind = (self.header.compression or "").partition(":")[0]
        if zipped.name != f"{raw.name}.{kind}":
            raise ValueError(
                f"compression {self.header.compression!r:.80} to a file {zipped.name!r:.80}, expected {raw.name}.{kind}"
            )
        if raw.num_bytes > max(_RATIO_FREE_BYTES, _MAX_RATIO * zipped.num_bytes):
            raise ValueError(f"{zipped.num_bytes} bytes that become {raw.num_bytes}: no latents compress so well")

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values: what streaming reads, and what its own writer puts into an index."""
        return {
            **self.header.to_json(),
            "samples": self.num_samples,
            "raw_data": self.raw.to_json(),
            "zip_data": None if self.zipped is None else self.zipped.to_json(),
        }

    @property
    def stored(self) -> IndexedFile:
        """The file that is in the shard set: the compressed one, if it is compressed."""
        return self.zipped or self.raw

    def in_folder(self, folder: str) -> Self:
        """Return the entry for the index one folder higher: with `folder/` before the files' names."""
        return self._renamed(lambda name: f"{folder}/{name}")

    def without_folder(self) -> Self:
        """Return the entry for the index in the shard's own folder."""
        return self._renamed(lambda name: name.rpartition("/")[2])

    def uncompressed(self) -> Self:
        """Return the entry of the shard after it was decompressed."""
        return replace(self, zipped=None)

    def _renamed(self, rename: Any) -> Self:
        zipped = None if self.zipped is None else replace(self.zipped, name=rename(self.zipped.name))
        return replace(self, raw=replace(self.raw, name=rename(self.raw.name)), zipped=zipped)


def index_document(entries: Sequence[ShardEntry]) -> dict[str, Any]:
    """Return what a shard set's `index.json` holds; it is written after its shards."""
    return {"version": MDS_VERSION, "shards": [entry.to_json() for entry in entries]}


def read_index(path: Path) -> list[ShardEntry]:
    """Read the entries of an `index.json`, by whomever it was written.

    Raises:
        SchemaError: The file is missing or is not an index of MDS version 2.
    """
    try:
        index = load_json(read_regular(path, _MAX_INDEX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise SchemaError(f"{path} is missing: is this the folder of a finished shard set?") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise SchemaError(f"{path}: expected a JSON index, got {error}: write or pull it again") from None
    if not isinstance(index, dict) or index.get("version") != MDS_VERSION:
        raise SchemaError(f"{path}: expected an MDS index of version {MDS_VERSION}, got {index!r:.80}")
    values = index.get("shards")
    if not isinstance(values, list):
        raise SchemaError(f"{path}: expected a list of shards, got {values!r:.80}: write or pull it again")
    entries: list[ShardEntry] = []
    before, header = list[Any](), None  # of a hundred thousand shards, nearly all have the same one
    for number, value in enumerate(values):
        fields = [value.get(name) for name in HEADER_FIELDS] if isinstance(value, dict) else []
        try:
            entries.append(ShardEntry.parse(value, header if fields == before else None))
            before, header = fields, entries[-1].header
        except ValueError as error:
            raise SchemaError(
                f"{path}: expected shard {number} to be an MDS entry, got {error}: write or pull it again"
            ) from None
    try:
        check_names_fit(name for entry in entries for name in {entry.raw.name, entry.stored.name})
    except ValueError as error:
        raise SchemaError(
            f"{path}: expected shards with files of their own, got {error}: write or pull it again"
        ) from None
    return entries
