"""An artifact folder and its `manifest.json`: what is in it, what it was made from, and by which code and settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from microdiff.core.files import canonical_json, digest_json, write_json
from microdiff.core.ledger import KEPT, Counts
from microdiff.core.regular_files import read_regular
from microdiff.core.untrusted import are_texts, check_name, check_names_fit, check_part, is_number, load_json
from microdiff.errors import SchemaError

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 2**30
FORMAT = 1
_MOST = 2**63 - 1


@dataclass(frozen=True)
class FileRecord:
    """What is recorded of a file: its size and its SHA-256."""

    num_bytes: int
    sha256: str

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Read a record.

        Raises:
            ValueError: It is none.
        """
        match value:
            case {"bytes": num_bytes, "sha256": str(sha256)} if is_number(num_bytes, 0, _MOST):
                return cls(num_bytes, sha256)
        raise ValueError(f"expected bytes and sha256 of a file, got {value!r:.80}")

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {"bytes": self.num_bytes, "sha256": self.sha256}


@dataclass(frozen=True)
class PartRecord:
    """What one folder of the partition store contributed to a partition, enough to make that folder again.

    Attributes:
        step: The store's name for this kind of result, such as `encode-image`.
        fingerprint: The folder's name.
        counts: Its ledger.
        facts: What else its computation said.
        files: The names of its files, sorted.
        computed_with: What computed it, where that decides bytes: `torch`, its version, and `device`, its kind.
    """

    step: str
    fingerprint: str
    counts: Counts
    facts: Mapping[str, Any]
    files: tuple[str, ...]
    computed_with: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Read a record.

        Raises:
            ValueError: It is none.
        """
        match value:
            case {
                "step": str(step),
                "fingerprint": str(fingerprint),
                "counts": counts,
                "facts": dict(facts),
                "files": [*files],
            }:
                computed_with = {str(key): str(item) for key, item in dict(value.get("computed_with", {})).items()}
                names = tuple(map(check_name, files))
                return cls(check_part(step), check_part(fingerprint), parse_counts(counts), facts, names, computed_with)
        raise ValueError(f"expected a part of a partition, got {value!r:.80}")

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "step": self.step,
            "fingerprint": self.fingerprint,
            "counts": dict(self.counts),
            "facts": dict(self.facts),
            "files": list(self.files),
            **({"computed_with": dict(self.computed_with)} if self.computed_with else {}),
        }


@dataclass(frozen=True)
class PartitionRecord:
    """A partition of an artifact.

    Attributes:
        fingerprints: The folders of the store that it consists of.
        counts: Its ledger.
        files: Its files by their path in the artifact.
        parts: What each of these folders contributed; empty in manifests that do not say.
    """

    fingerprints: tuple[str, ...]
    counts: Counts
    files: Mapping[str, FileRecord]
    parts: tuple[PartRecord, ...] = ()

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Read a record.

        Raises:
            ValueError: It is none.
        """
        match value:
            case {"fingerprints": [*fingerprints], "counts": counts, "files": files}:
                return cls(
                    tuple(map(check_part, fingerprints)),
                    parse_counts(counts),
                    parse_files(files),
                    tuple(PartRecord.parse(part) for part in value.get("parts", ())),
                )
        raise ValueError(f"expected a partition, got {value!r:.80}")

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "fingerprints": list(self.fingerprints),
            "counts": dict(self.counts),
            "files": {name: file.to_json() for name, file in self.files.items()},
            "parts": [part.to_json() for part in self.parts],
        }

    @property
    def num_bytes(self) -> int:
        """Size of all its files."""
        return sum(file.num_bytes for file in self.files.values())


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` in an artifact folder says.

    Attributes:
        folder: The artifact folder.
        source_records: Number of records the source holds in the selected partitions.
        counts: The step's ledger over all partitions.
        partitions: By name, in order.
        facts: What else the step says: its name, settings, code version, encoders.
        extra: sha256 of the files that belong to no partition, by path.
    """

    folder: Path
    source_records: int
    counts: Counts
    partitions: Mapping[str, PartitionRecord]
    facts: Mapping[str, Any]
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def withdrawn(self) -> int:
        """How many of the source's records are withdrawn."""
        return int(self.facts.get("withdrawn", 0))

    @property
    def files(self) -> dict[str, FileRecord]:
        """The files of all partitions by path."""
        return {name: file for partition in self.partitions.values() for name, file in partition.files.items()}

    def digests(self, partition: str, *suffixes: str) -> dict[str, str]:
        """Return the sha256 of a partition's files by name, of those that end in one of `suffixes`."""
        files = self.partitions[partition].files
        return {name: file.sha256 for name, file in sorted(files.items()) if name.endswith(suffixes)}

    def computed_with(self) -> list[dict[str, str]]:
        """Return what computed the partitions, each kind of machine once, sorted."""
        parts = (part for partition in self.partitions.values() for part in partition.parts)
        kinds = {tuple(sorted(part.computed_with.items())) for part in parts if part.computed_with}
        return [dict(kind) for kind in sorted(kinds)]

    def kept(self) -> dict[str, int]:
        """Return the number of kept samples by partition."""
        return {name: partition.counts[KEPT] for name, partition in self.partitions.items()}


def read_manifest(folder: Path) -> Manifest:
    """Read an artifact folder's manifest, and check that its files are there and have their sizes.

    Raises:
        SchemaError: The folder or its manifest is missing or damaged, or a file is missing or has another size.
    """
    manifest = parse_manifest(folder)
    for name, record in manifest.files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != record.num_bytes:
            found = "it is missing" if size is None else f"it has {size}"
            raise SchemaError(f"{file}: expected {record.num_bytes} bytes, {found}.")
    return manifest


def parse_manifest(folder: Path) -> Manifest:
    """Read an artifact folder's manifest, whatever its files are.

    Raises:
        SchemaError: The folder or its manifest is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        return parse_manifest_text(read_regular(path, MAX_MANIFEST_BYTES), path)
    except (FileNotFoundError, NotADirectoryError):
        raise SchemaError(
            f"{folder}: no {MANIFEST} there. Build it with dvc repro, or fetch it with dvc pull."
        ) from None


def parse_manifest_text(text: bytes, path: Path) -> Manifest:
    """Return what a manifest's bytes say.

    Args:
        text: The bytes.
        path: Of the manifest, for messages; its folder becomes that of the artifact.

    Raises:
        SchemaError: They are no manifest.
    """
    try:
        value = load_json(text)
        value.pop("digest", None)
        if (version := value.pop("format")) != FORMAT:
            raise SchemaError(
                f"{path}: format {version!s:.80}, this version reads format {FORMAT}. Rebuild it with dvc repro -f."
            )
        partitions = {
            check_name(name): PartitionRecord.parse(record) for name, record in value.pop("partitions").items()
        }
        source_records, extra = value.pop("source_records"), value.pop("extra", {})
        if not is_number(source_records, 0, _MOST) or not is_number(value.get("withdrawn", 0), 0, _MOST):
            raise ValueError(f"source_records {source_records!r:.80}, withdrawn {value.get('withdrawn')!r:.80}")
        if not are_texts(extra):
            raise ValueError(f"expected digests of files by name, got {extra!r:.80}")
        files = [name for partition in partitions.values() for name in partition.files]
        check_names_fit([*files, *map(check_name, extra)])
        return Manifest(
            path.parent,
            source_records=source_records,
            counts=parse_counts(value.pop("counts")),
            partitions=partitions,
            extra=extra,
            facts=value,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"{path}: not a manifest ({error!r}). Rebuild the folder with dvc repro -f.") from error


def parse_counts(value: Any) -> Counts:
    """Read a ledger's counts.

    Raises:
        ValueError: They are none.
    """
    match value:
        case {"in": _, "kept": _} if all(is_number(number, 0, _MOST) for number in value.values()):
            counts: Counts = dict(value)
            return counts
    raise ValueError(f"expected counts in, kept and by reason, got {value!r:.80}")


def parse_files(value: Any) -> dict[str, FileRecord]:
    """Read records of files by name.

    Raises:
        ValueError: They are none.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected files by name, got {value!r:.80}")
    return {check_name(name): FileRecord.parse(record) for name, record in value.items()}


def write_manifest(folder: Path, value: Mapping[str, Any]) -> None:
    """Write a manifest together with its own digest, so that damage to it is seen without anything beside it."""
    write_json(folder / MANIFEST, {**value, "digest": digest_json(value)})


def is_whole(folder: Path) -> bool:
    """Tell whether a manifest is, byte for byte, as it was written."""
    text = read_regular(folder / MANIFEST, MAX_MANIFEST_BYTES)
    try:
        value = load_json(text)
        digest = value.pop("digest")
        return bool(digest == digest_json(value) and text == canonical_json({**value, "digest": digest}).encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
