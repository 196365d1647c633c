"""Finished partitions in artifacts: in the folder that is here, and as DVC has recorded it, now and in earlier commits.

An artifact's manifest names the fingerprint of every part of its partitions and the files of each. So on a machine
whose store is empty, a part that is still right is taken from there, and only its files are fetched.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from microdiff.artifacts.manifest import MANIFEST, FileRecord, Manifest, is_whole, parse_manifest
from microdiff.artifacts.mds_index import INDEX_NAME, ShardEntry, read_index
from microdiff.core.files import digest_file, link_or_copy, scratch_folder
from microdiff.core.verified_files import InputFile
from microdiff.errors import MicrodiffError, SchemaError, SourceError
from microdiff.pipeline.offer import Offer, Put
from microdiff.pipeline.store_record import StoreRecord
from microdiff.remote.dvc_artifacts import DvcArtifacts, TrackedVersion
from microdiff.storage import NotFound

log = logging.getLogger("microdiff")


@dataclass(frozen=True)
class RecordedParts:
    """The parts of an artifact's partitions.

    Attributes:
        manifest: Of the artifact.
        put: Puts a file of the artifact at a path.
        entries: Gives the shards' entries by name; called for shards only.
        place: Where the artifact is, for messages.
        manifest_md5: Of its manifest, where DVC has recorded it.
    """

    manifest: Manifest
    put: Put
    entries: Callable[[], Mapping[str, ShardEntry]]
    place: str
    manifest_md5: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def find(self, step: str, fingerprint: str) -> Offer | None:
        """Return a part, None if the artifact has none of this fingerprint."""
        name = self._names.get((step, fingerprint))
        return None if name is None else self._offer(name, step, fingerprint)

    def named(self, step: str, name: str) -> Iterator[tuple[str, Offer]]:
        """Yield the parts that a step has contributed to a partition, with their fingerprints."""
        for (kind, fingerprint), partition in self._names.items():
            if (kind, partition) == (step, name) and (offer := self._offer(name, step, fingerprint)) is not None:
                yield fingerprint, offer

    def every(self) -> Iterator[tuple[str, str, Offer]]:
        """Yield all parts: step, fingerprint, part."""
        for (step, fingerprint), name in self._names.items():
            if (offer := self._offer(name, step, fingerprint)) is not None:
                yield step, fingerprint, offer

    def _offer(self, name: str, step: str, fingerprint: str) -> Offer | None:
        partition = self.manifest.partitions[name]
        part = next(each for each in partition.parts if (each.step, each.fingerprint) == (step, fingerprint))
        facts = dict(part.facts)
        if step == "shard":
            if name not in self._entries:
                return None
            facts["entry"] = self._entries[name].to_json()
        files = {file: partition.files[file] for file in part.files}
        return Offer(StoreRecord(name, part.counts, facts, files, part.computed_with), self.put, self.place)

    @cached_property
    def _names(self) -> dict[tuple[str, str], str]:
        partitions = self.manifest.partitions.items()
        return {(part.step, part.fingerprint): name for name, partition in partitions for part in partition.parts}

    @cached_property
    def _entries(self) -> Mapping[str, ShardEntry]:
        with self._lock:
            return self.entries()


def parts_of_folder(manifest: Manifest, damaged: frozenset[str] = frozenset()) -> RecordedParts:
    """Return the parts of an artifact that is here.

    Args:
        manifest: The artifact.
        damaged: Files known to be damaged; index.json among them is done without.
    """

    def put(name: str, file: FileRecord, target: Path) -> None:
        if not (manifest.folder / name).is_file():
            raise NotFound(f"{manifest.folder / name}: not here")
        InputFile(manifest.folder / name, file.num_bytes, file.sha256).check()
        link_or_copy(manifest.folder / name, target)

    return RecordedParts(manifest, put, partial(_entries, manifest.folder, damaged), str(manifest.folder))


def parts_of_version(version: TrackedVersion, work: Path) -> RecordedParts | None:
    """Return the parts of an artifact as DVC has recorded it; None if its manifest cannot be had."""
    try:
        manifest = _kept_manifest(version, work)
    except MicrodiffError as error:
        log.debug("%s: %s", version.path, error)
        return None

    def put(name: str, file: FileRecord, target: Path) -> None:
        version.put(name, target, (file.num_bytes, file.sha256))

    def entries() -> Mapping[str, ShardEntry]:
        with scratch_folder(work) as folder:
            try:
                version.put(INDEX_NAME, folder / INDEX_NAME)
                if digest_file(folder / INDEX_NAME) != manifest.extra.get(INDEX_NAME):
                    raise SchemaError(f"{version.path}/{INDEX_NAME}: damaged")
                return _entries(folder, frozenset())
            except MicrodiffError as error:
                log.debug("%s: %s", version.path, error)
                return {}

    return RecordedParts(manifest, put, entries, version.path, version.files[MANIFEST])


def _kept_manifest(version: TrackedVersion, work: Path) -> Manifest:
    """Return a version's manifest, which is kept: large ones are fetched once."""
    folder = work / "manifests" / version.files.get(MANIFEST, "")
    if not (folder / MANIFEST).is_file() or not is_whole(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(work) as scratch:
            version.put(MANIFEST, scratch / MANIFEST)
            if not is_whole(scratch):
                raise SchemaError(f"{version.path}/{MANIFEST}: damaged")
            (scratch / MANIFEST).replace(folder / MANIFEST)
    return parse_manifest(folder)


def recorded_versions(project: DvcArtifacts, path: str, work: Path) -> Iterator[RecordedParts]:
    """Yield the parts of an artifact as DVC has recorded it, the latest first; see `DvcArtifacts.versions`."""
    try:
        for version in project.versions(path):
            if (parts := parts_of_version(version, work)) is not None:
                yield parts
    except SourceError as error:
        log.warning("%s: earlier versions are not looked at: %s", path, error)


def _entries(folder: Path, damaged: frozenset[str]) -> Mapping[str, ShardEntry]:
    """Return the shards' entries by name, as their groups' index files have them; index.json may be damaged."""
    if INDEX_NAME not in damaged:
        return {entry.raw.name: entry.without_folder() for entry in read_index(folder / INDEX_NAME)}
    groups = {path.parent.name: path for path in sorted(folder.glob(f"*/{INDEX_NAME}"))}
    whole = {group: path for group, path in groups.items() if f"{group}/{INDEX_NAME}" not in damaged}
    return {entry.in_folder(group).raw.name: entry for group, path in whole.items() for entry in read_index(path)}
