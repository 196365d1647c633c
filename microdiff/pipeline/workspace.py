"""Where a run reads and writes."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from microdiff.artifacts.manifest import MANIFEST, read_manifest
from microdiff.core.withdrawn import WITHDRAWN
from microdiff.pipeline.store import Store


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
        manifests = [read_manifest(path.parent) for path in sorted(self.root.glob(f"data/*/*/{MANIFEST}"))]
        published = [name for each in manifests for part in each.partitions.values() for name in part.fingerprints]
        listed = [name for each in manifests for names in each.facts.get("listings", {}).values() for name in names]
        return published + listed
