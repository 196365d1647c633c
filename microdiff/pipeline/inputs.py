"""The artifacts that a step reads: their files come here as tasks need them, and a damaged one is mended.

DVC brings a step nothing but the manifest of what it reads: whether the step has to run can be told by it alone. A file
that is not in the artifact's folder is put into the store's `inputs/`, by its SHA-256, so that the folder is either
whole or not there. It comes from the store, from where the artifact is recorded (DVC's cache or remote), or from the
shared store; where none of them has it whole, the step before computes it again.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import MANIFEST, FileRecord, Manifest, PartRecord, is_whole, parse_manifest
from microdiff.artifacts.raw import read_members
from microdiff.artifacts.tables import read_kept
from microdiff.core.files import digest_bytes, link_or_copy, md5_of, scratch_folder
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.core.verified_files import InputFile
from microdiff.errors import DamagedError, MicrodiffError, SchemaError, StepError
from microdiff.pipeline.shared_store import SharedStore
from microdiff.pipeline.store import INPUTS, Store
from microdiff.remote.dvc_artifacts import DvcArtifacts, TrackedVersion

log = logging.getLogger("microdiff")


class InputArtifact:
    """An artifact that a step reads.

    Args:
        folder: The artifact's.
        path: As DVC tracks it, such as `data/coco/raw`.
        store: This machine's.
        project: What DVC has recorded; None where DVC tracks nothing.
        shared: The shared store; None where there is none.
        recompute: Computes the artifact's partitions again, into the store.

    Attributes:
        manifest: Says what it holds.
        kind: Which artifact it is, such as `raw`.
        md5: Of the manifest, as dvc.lock records it.

    Raises:
        SchemaError: The manifest is missing, or damaged everywhere.
    """

    def __init__(
        self,
        folder: Path,
        path: str,
        store: Store,
        project: DvcArtifacts | None,
        shared: SharedStore | None,
        recompute: Callable[[], object],
    ) -> None:
        self._folder = folder
        self._path = path
        self._store = store
        self._project = project
        self._shared = shared
        self._recompute = recompute
        self.manifest = self._read_manifest()
        self.kind = folder.name
        self.md5 = md5_of(folder / MANIFEST)
        self._names: dict[Path, str] = {}

    def file(self, name: str) -> InputFile:
        """Return a file of the artifact, which need not be here until `fetch` has brought it."""
        record = self._records[name]
        path = self._folder / name
        if not path.is_file():
            path = self._store.root / INPUTS / f"{record.sha256}{path.suffix}"
        self._names[path] = name
        return InputFile(path, record.num_bytes, record.sha256)

    def has(self, path: Path) -> bool:
        """Tell whether a path is that of a file which `file` has given."""
        return path in self._names

    def fetch(self, files: Collection[InputFile]) -> None:
        """Bring those files here that are not, and mend those that are shorter or longer than recorded.

        Raises:
            StepError: One can neither be had nor computed again.
        """
        absent = []
        for file in dict.fromkeys(file for file in files if file.path in self._names):
            if not file.path.is_file():
                absent.append(file)
            elif (size := file.path.stat().st_size) != file.num_bytes:
                self.mend(DamagedError(file.path, file.sha256, f"{size} bytes instead of {file.num_bytes}"))
        if not absent:
            return
        size = sum(file.num_bytes for file in absent)
        log.info("%s: fetching %d files that are not here (%.1f MB)", self._path, len(absent), size / 1e6)
        had = prefetch_map(lambda file: (file, self._obtain(file)), absent, 2 * num_threads())
        lacking = [file for file, found in had if not found]
        self._compute_again(lacking)

    def mend(self, error: DamagedError) -> None:
        """Put a whole file in the place of a damaged one, and say what was wrong.

        Raises:
            StepError: It can neither be had elsewhere nor computed again.
        """
        name = self._names[error.path]
        record = self._records[name]
        file = InputFile(error.path, record.num_bytes, record.sha256)
        if file.is_whole():  # another task's failure has had it mended
            return
        log.warning("%s. It is mended first.", self._with_sample(error, name))
        self._store.forget_damaged(error.path)
        error.path.unlink(missing_ok=True)
        if not self._obtain(file):
            self._compute_again([file])
        if self._project is not None and self._version is not None:
            self._project.keep(self._version.files[name], file.path)

    def _compute_again(self, files: Collection[InputFile]) -> None:
        """Compute what cannot be had anywhere."""
        if not files:
            return
        names = sorted(self._names[file.path] for file in files)
        log.warning("%s: %s is nowhere whole: the step before computes it again", self._path, ", ".join(names[:3]))
        try:
            self._recompute()
        except MicrodiffError as error:
            raise StepError(f"{self._path}: {names[0]} is damaged and cannot be computed again: {error}") from None
        for file in files:
            if not self._obtain(file):
                name = self._names[file.path]
                raise StepError(
                    f"{self._path}/{name}: neither here nor anywhere else, and the settings and code of today make "
                    f"another one. Rebuild the artifact: make {self._path.split('/')[1]}"
                )

    def _obtain(self, file: InputFile) -> bool:
        """Put a file where it should be, from the first place that has it whole; tell whether one has."""
        name = self._names[file.path]
        file.path.parent.mkdir(parents=True, exist_ok=True)
        for put in self._places(name, file):
            with scratch_folder(self._store.root / INPUTS) as scratch:
                try:
                    put(scratch / "file")
                except MicrodiffError as error:
                    log.debug("%s/%s: %s", self._path, name, error)
                    continue
                (scratch / "file").rename(file.path)
                return True
        return False

    def _places(self, name: str, file: InputFile) -> Iterator[Callable[[Path], object]]:
        part = self._parts.get(name)
        if part is not None:
            stored = self._store.get(part.step, part.fingerprint)
            if stored is not None:
                yield lambda target: link_or_copy(stored.paths[name], target)
        version = self._version
        if version is not None:
            yield lambda target: version.put(name, target, (file.num_bytes, file.sha256))
        if part is not None and self._shared is not None:
            shared, folder, record = self._shared, f"{part.step}/{part.fingerprint}", self._records[name]
            yield lambda target: shared.put(folder, name, record, target)

    @cached_property
    def _records(self) -> dict[str, FileRecord]:
        return self.manifest.files

    @cached_property
    def _parts(self) -> dict[str, PartRecord]:
        parts = (part for each in self.manifest.partitions.values() for part in each.parts)
        return {name: part for part in parts for name in part.files}

    @cached_property
    def _version(self) -> TrackedVersion | None:
        """Return the version of the artifact that DVC has recorded and that this manifest is of."""
        if self._project is None:
            return None
        found = (each for each in self._project.versions(self._path) if each.files.get(MANIFEST) == self.md5)
        return next(found, None)

    def _read_manifest(self) -> Manifest:
        """Return the manifest; one that is damaged or not here is replaced by the one that DVC has recorded."""
        if not (self._folder / MANIFEST).is_file():
            self._put_recorded_manifest()
        elif not is_whole(self._folder):
            log.warning("%s/%s: damaged: its own digest does not fit", self._path, MANIFEST)
            self._store.forget_damaged(self._folder / MANIFEST)
            if not self._put_recorded_manifest():
                dataset = self._path.split("/")[1]
                raise SchemaError(
                    f"{self._path}/{MANIFEST}: damaged, and recorded nowhere. "
                    f"Make it again: dvc repro --force --single-item {KINDS[self._folder.name]}@{dataset}"
                )
        return parse_manifest(self._folder)

    def _put_recorded_manifest(self) -> bool:
        # No other version's: what it lists may be other pictures and captions.
        version = None if self._project is None else self._project.current(self._path)
        if version is not None:
            with scratch_folder(self._store.root / INPUTS) as scratch:
                try:
                    version.put(MANIFEST, scratch / MANIFEST)
                except MicrodiffError as error:
                    log.debug("%s: %s", self._path, error)
                else:
                    if md5_of(scratch / MANIFEST) == version.files.get(MANIFEST):
                        self._folder.mkdir(parents=True, exist_ok=True)
                        (scratch / MANIFEST).replace(self._folder / MANIFEST)
                        return True
        return False

    def _with_sample(self, error: DamagedError, name: str) -> DamagedError:
        """Return the error, with the first damaged picture's key if the file is a raw partition's tar."""
        stem, _, kind = name.rpartition(".")
        if kind != "tar" or error.sample:
            return error
        try:
            digests = {row["key"]: row["sha256"] for row in read_kept(self.file(f"{stem}.parquet"), ["key", "sha256"])}
            for member, data in read_members(error.path):
                key = member.partition(".")[0]
                if digests.get(key) != digest_bytes(data):
                    return DamagedError(error.path, digests.get(key) or "none", digest_bytes(data)).of_sample(key)
        except (SchemaError, OSError):
            pass
        return error


def artifact_of_another_project(folder: Path, name: str, store: Store) -> InputArtifact:
    """Return an artifact of another project, which is used as it is.

    Args:
        folder: The artifact's.
        name: What it is called in messages and manifests.
        store: This machine's.

    Raises:
        SchemaError: Its manifest is missing or damaged.
    """

    def recompute() -> NoReturn:
        raise StepError(f"{folder}: it is another project's")

    return InputArtifact(folder, name, store, None, None, recompute)
