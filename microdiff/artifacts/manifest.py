"""An artifact folder and its `manifest.json`: what is in it, what it was made from, and by which code and settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microdiff.core.files import canonical_json, digest_json, read_json, write_json
from microdiff.core.ledger import Counts
from microdiff.errors import SchemaError

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` in an artifact folder says.

    Attributes:
        folder: The artifact folder.
        source_records: Number of records the source holds in the selected partitions.
        counts: The step's ledger over all partitions.
        partitions: By name, in order: fingerprints, counts, and files with `bytes` and `sha256`.
        facts: What else the step says: its name, settings, code version, encoders.
        extra: sha256 of the files that belong to no partition, by path.
    """

    folder: Path
    source_records: int
    counts: Counts
    partitions: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def withdrawn(self) -> int:
        """How many of the source's records are withdrawn."""
        return int(self.facts.get("withdrawn", 0))

    def digests(self, partition: str, *suffixes: str) -> dict[str, str]:
        """Return the sha256 of a partition's files by name, of those that end in one of `suffixes`."""
        files: Mapping[str, Mapping[str, Any]] = self.partitions[partition]["files"]
        return {name: facts["sha256"] for name, facts in sorted(files.items()) if name.endswith(suffixes)}

    def kept(self) -> dict[str, int]:
        """Return the number of kept samples by partition."""
        return {name: partition["counts"]["kept"] for name, partition in self.partitions.items()}


def read_manifest(folder: Path) -> Manifest:
    """Read an artifact folder's manifest, and check that its files are there and have their sizes.

    Raises:
        SchemaError: The folder or its manifest is missing or damaged, or a file is missing or has another size.
    """
    manifest = parse_manifest(folder)
    for partition in manifest.partitions.values():
        for name, facts in partition["files"].items():
            file = folder / name
            size = file.stat().st_size if file.is_file() else None
            if size != facts["bytes"]:
                found = "it is missing" if size is None else f"it has {size}"
                raise SchemaError(f"{file}: expected {facts['bytes']} bytes, {found}. Restore it with dvc checkout.")
    return manifest


def parse_manifest(folder: Path) -> Manifest:
    """Read an artifact folder's manifest, whatever its files are.

    Raises:
        SchemaError: The folder or its manifest is missing or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise SchemaError(f"{folder}: no {MANIFEST} there. Build it with dvc repro, or fetch it with dvc pull.")
    try:
        value = read_json(path)
        value.pop("digest", None)
        version, records, counts = value.pop("format"), value.pop("source_records"), value.pop("counts")
        partitions, extra = value.pop("partitions"), value.pop("extra", {})
        manifest = Manifest(folder, records, counts, partitions, value, extra)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"{path}: not a manifest ({error!r}). Rebuild the folder with dvc repro -f.") from error
    if version != FORMAT:
        raise SchemaError(
            f"{path}: format {version}, this version reads format {FORMAT}. Rebuild it with dvc repro -f."
        )
    return manifest


def write_manifest(folder: Path, value: Mapping[str, Any]) -> None:
    """Write a manifest together with its own digest, so that damage to it is seen without anything beside it."""
    write_json(folder / MANIFEST, {**value, "digest": digest_json(value)})


def is_whole(folder: Path) -> bool:
    """Tell whether a manifest is, byte for byte, as it was written."""
    text = (folder / MANIFEST).read_bytes()
    try:
        value = json.loads(text)
        digest = value.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(digest == digest_json(value) and text == canonical_json({**value, "digest": digest}).encode())
