"""Verify one dataset: whatever artifacts of it are here, and how they fit together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from microdiff.artifacts.kinds import KINDS
from microdiff.core.progress import Progress
from microdiff.core.withdrawn import Withdrawn, read_withdrawn
from microdiff.errors import SchemaError
from microdiff.pipeline.executor import run_tasks
from microdiff.pipeline.workers import WorkerPlan, num_workers, workers_asked_for
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_record import dvc_record
from microdiff.verify.artifact import Artifact, Work
from microdiff.verify.compare import compare_rows, compare_values, name_duplicates
from microdiff.verify.counts import check_counts, check_keys, check_recount, total_of
from microdiff.verify.findings import Findings, Problem

_SHARE = 1 / 16  # of the samples are compared value by value between latents and shards
_BYTES_PER_WORKER = 256 * 2**20  # starting a process costs a second


@dataclass
class Verification:
    """What verifying a dataset gave.

    Attributes:
        dataset: Its name.
        problems: All that is wrong, sorted by step and file.
        notes: What could not be checked, and why.
        kinds: The artifacts that were here.
        num_bytes: Read.
        num_files: Read.
    """

    dataset: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    num_bytes: int = 0
    num_files: int = 0

    @property
    def damaged(self) -> dict[str, set[str]]:
        """Files whose bytes are at fault, by artifact."""
        return self._files(is_damage=True)

    @property
    def wrong(self) -> dict[str, set[str]]:
        """Files whose bytes are those recorded, and wrong: they must be made anew, not fetched; by artifact."""
        return self._files(is_damage=False)

    def _files(self, *, is_damage: bool) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for problem in self.problems:
            if problem.file and problem.is_damage == is_damage:
                found.setdefault(problem.kind, set()).add(problem.file)
        return found


def verify_dataset(dataset: str, workspace: Workspace, *, deep: bool = False) -> Verification:
    """Verify what is here of a dataset.

    Args:
        dataset: Its name.
        workspace: Where it is.
        deep: Whether to compare the values of all samples between latents and shards, not of a share of them.

    Raises:
        SchemaError: The list of withdrawn samples or dvc.lock is damaged.
        SourceError: DVC's configuration is damaged.
        StepError: A check itself failed.
    """
    result = Verification(dataset)
    withdrawn = read_withdrawn(workspace.withdrawn(dataset))
    artifacts = []
    for kind in KINDS:
        folder = workspace.artifact(dataset, kind)
        if not workspace.is_here(dataset, kind):
            result.notes.append(f"data/{dataset}/{kind}: not here, not verified")
            continue
        artifacts.append(Artifact(dataset, kind, folder, dvc_record(workspace.root, dataset, kind)))
        if artifacts[-1].record is None:
            result.notes.append(f"data/{dataset}/{kind}: not in dvc.lock, verified against its manifest only")
    result.kinds = [artifact.kind for artifact in artifacts]
    found = _run(
        f"verify {dataset}", [work for each in artifacts for work in each.works(withdrawn, 1.0 if deep else _SHARE)]
    )
    by_kind = {each.kind: [item for item in found if item.kind == each.kind] for each in artifacts}
    for artifact in artifacts:
        own = artifact.finish(by_kind[artifact.kind])
        result.num_bytes += sum(item.num_bytes for item in (own, *by_kind[artifact.kind]))
        result.num_files += sum(len(item.md5) for item in (own, *by_kind[artifact.kind]))
        result.problems += own.problems
        result.problems += [problem for item in by_kind[artifact.kind] for problem in item.problems]
    result.notes += _kinds_of_machines(dataset, artifacts)
    result.problems += _compare(dataset, workspace, artifacts, by_kind, withdrawn)
    order = list(KINDS)
    result.problems = sorted(set(result.problems), key=lambda problem: (order.index(problem.kind), problem))
    return result


def _kinds_of_machines(dataset: str, artifacts: Sequence[Artifact]) -> Iterator[str]:
    """Say where latents were computed by machines of several kinds."""
    for artifact in artifacts:
        kinds = [] if artifact.manifest is None else artifact.manifest.computed_with()
        if len(kinds) > 1:
            named = "; ".join(f"{kind.get('device')} with torch {kind.get('torch')}" for kind in kinds)
            yield (
                f"data/{dataset}/{artifact.kind}: computed by machines of several kinds, which differ in last bits: "
                f"{named}"
            )


def _run(label: str, works: Sequence[Work]) -> list[Findings]:
    """Run checks, on several processes if there is enough to read; results come in the order given."""
    total = sum(num_bytes for _, num_bytes, _ in works)
    workers = num_workers()
    if workers_asked_for() is None:
        workers = min(workers, max(1, total // _BYTES_PER_WORKER))
    done: dict[str, Findings] = {}
    with Progress(label, None, total) as progress:
        for outcome in run_tasks([(name, work) for name, _, work in works], WorkerPlan(workers), progress):
            if outcome.error is not None:
                raise SchemaError(f"{label}: {outcome.name} could not be checked: {outcome.error}")
            done[outcome.name] = outcome.result
    return [done[name] for name, _, _ in works]


def _compare(
    dataset: str,
    workspace: Workspace,
    artifacts: Sequence[Artifact],
    found: Mapping[str, Sequence[Findings]],
    withdrawn: Withdrawn,
) -> Iterator[Problem]:
    """Yield what is wrong between artifacts."""
    folders = {each.kind: each.folder for each in artifacts}
    manifests = {each.kind: each.manifest for each in artifacts if each.manifest is not None and each.trusted}
    yield from check_counts(dataset, workspace, manifests)
    for kind, manifest in manifests.items():
        if kind != "shards":
            yield from check_recount(manifest, found[kind])
    if twice := check_keys(found.get("raw", ())):
        yield from name_duplicates(folders["raw"], found["raw"], twice)
    for before, after in (("raw", "captions"), ("captions", "latents")):
        yield from compare_rows(folders, found.get(before, ()), found.get(after, ()))
    if "latents" in found and "shards" in found:
        latents, shards = found["latents"], found["shards"]
        same = all(total_of(latents, what) == total_of(shards, what) for what in ("samples", "values"))
        if not same or any(item.damaged for item in (*latents, *shards)):
            both = [each for each in artifacts if each.kind in ("latents", "shards")]
            again = _run(
                f"compare {dataset}", [work for each in both for work in each.works(withdrawn, 1.0, each=True)]
            )
            kinds = [[item for item in again if item.kind == kind] for kind in ("latents", "shards")]
            yield from compare_values(folders, *kinds)
