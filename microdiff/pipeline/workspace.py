"""Where a run reads and writes."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from microdiff.artifacts.manifest import MANIFEST, Manifest, parse_manifest, read_manifest
from microdiff.core.withdrawn import WITHDRAWN
from microdiff.errors import StepError
from microdiff.pipeline.store import Store
from microdiff.remote.dvc_command import has_remote, is_dvc_repository, run_dvc

log = logging.getLogger("microdiff")


@dataclass(frozen=True)
class Workspace:
    """Where a run reads and writes: the repository's root, unless a test says otherwise."""

    root: Path = field(default_factory=Path)

    def store(self) -> Store:
        """Return the partition store."""
        work = os.environ.get("MICRODIFF_WORK")
        return Store(Path(work) if work else self.root / ".work")

    def artifact(self, dataset: str, kind: str) -> Path:
        """Return an artifact folder: kind is raw, captions, latents or shards."""
        return self.root / "data" / dataset / kind

    def is_here(self, dataset: str, kind: str) -> bool:
        """Tell whether an artifact is here; one of which DVC has fetched nothing but the manifest is not."""
        folder = self.artifact(dataset, kind)
        return folder.is_dir() and [path.name for path in folder.iterdir()] != [MANIFEST]

    def read_input(self, dataset: str, kind: str) -> Manifest:
        """Return the manifest of an artifact that a step reads, having fetched those of its files that are not here.

        DVC brings a step nothing but the manifest of what it reads: whether a step has to run can be told by it alone.

        Raises:
            SchemaError: The artifact is missing or damaged.
            StepError: Some of its files are neither here nor in DVC's cache or on its remote.
        """
        folder = self.artifact(dataset, kind)
        manifest = parse_manifest(folder)
        absent = [name for name in manifest.files if not (folder / name).exists()]
        if absent and is_dvc_repository(self.root):
            target = f"data/{dataset}/{kind}"
            log.info("%s: fetching %d files that are not here", target, len(absent))
            failed = run_dvc(self.root, "checkout", target)
            if failed is not None and has_remote(self.root):
                failed = run_dvc(self.root, "pull", target)
            if failed is not None:
                raise StepError(f"{target}: {len(absent)} files are not here and cannot be fetched: {failed}")
        return read_manifest(folder)

    def withdrawn(self, dataset: str) -> Path:
        """Return the list of a dataset's withdrawn samples."""
        return self.root / "data" / dataset / WITHDRAWN

    def metrics(self, step: str, dataset: str) -> Path:
        """Return a step's metrics file."""
        return self.root / "metrics" / step / f"{dataset}.json"

    def run_facts(self, step: str, dataset: str) -> Path:
        """Return the file with a run's timings."""
        return self.root / "reports" / "runs" / step / f"{dataset}.json"

    def fingerprints(self) -> list[str]:
        """Return the store's partitions that artifacts refer to.

        Raises:
            SchemaError: An artifact is damaged.
        """
        manifests = [parse_manifest(path.parent) for path in sorted(self.root.glob(f"data/*/*/{MANIFEST}"))]
        published = [name for each in manifests for part in each.partitions.values() for name in part.fingerprints]
        listed = [name for each in manifests for names in each.facts.get("listings", {}).values() for name in names]
        return published + listed
