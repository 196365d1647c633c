"""Where a run reads and writes."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from microdiff.artifacts.manifest import MANIFEST, parse_manifest
from microdiff.core.withdrawn import WITHDRAWN
from microdiff.kinds.partition_list import PARTITIONS
from microdiff.pipeline.store import RECORDED, Store
from microdiff.remote.dvc_artifacts import DvcArtifacts
from microdiff.remote.dvc_command import is_dvc_repository


@dataclass(frozen=True)
class Workspace:
    """Where a run reads and writes.

    Attributes:
        root: The repository's root, unless a test says otherwise.
        publishes: Whether a step publishes its artifact; else it computes partitions into the store, and that is all.
        finds_elsewhere: Whether results are looked for beyond the store; else what the store lacks is computed.
    """

    root: Path = field(default_factory=Path)
    publishes: bool = True
    finds_elsewhere: bool = True

    def store(self, salt: str = "") -> Store:
        """Return the partition store; `salt` as in the settings."""
        work = os.environ.get("MICRODIFF_WORK")
        root = Path(work) if work else self.root / ".work"
        project = self.dvc(root)
        return Store(root, salt) if project is None else Store(root, salt, project.drop_links)

    def dvc(self, work: Path) -> DvcArtifacts | None:
        """Return what DVC has recorded of artifacts; None where it tracks nothing."""
        return DvcArtifacts(self.root, work / RECORDED) if is_dvc_repository(self.root) else None

    def artifact(self, dataset: str, kind: str) -> Path:
        """Return an artifact folder: kind is raw, captions, latents or shards."""
        return self.root / "data" / dataset / kind

    def is_here(self, dataset: str, kind: str) -> bool:
        """Tell whether an artifact is here; one of which DVC has fetched nothing but the manifest is not."""
        folder = self.artifact(dataset, kind)
        return folder.is_dir() and [path.name for path in folder.iterdir()] != [MANIFEST]

    def withdrawn(self, dataset: str) -> Path:
        """Return the list of a dataset's withdrawn samples."""
        return self.root / "data" / dataset / WITHDRAWN

    def partition_list(self, dataset: str) -> Path:
        """Return the list of which partition holds which records, of a dataset of a kind."""
        return self.root / "data" / dataset / PARTITIONS

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
