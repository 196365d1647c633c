"""Run one step of one dataset: compute its partitions in the store, check the ledger, publish the artifact folder."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from microdiff.artifacts.kinds import KINDS
from microdiff.core.files import digest_file, write_json
from microdiff.core.ledger import (
    EXPANDED,
    Counts,
    Reason,
    add_up,
    check_balance,
    check_rejected_share,
    metrics,
)
from microdiff.core.places import Unwritable
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.core.progress import Progress
from microdiff.core.verified_files import InputFile
from microdiff.errors import DamagedError, StepError, WriteError
from microdiff.pipeline.executor import TaskResult
from microdiff.pipeline.finder import Finder
from microdiff.pipeline.hashed import carried_over
from microdiff.pipeline.inputs import InputArtifact, artifact_of_another_project
from microdiff.pipeline.params import Params
from microdiff.pipeline.publish import assemble
from microdiff.pipeline.run_facts import (
    failure_message,
    feeding_facts,
    host_and_time,
    outcome_in_words,
    total_samples,
)
from microdiff.pipeline.shared_store import open_shared_store
from microdiff.pipeline.store_users import register
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.uploads import Uploads
from microdiff.pipeline.upstream import recompute
from microdiff.pipeline.workers import num_workers, plan_workers
from microdiff.pipeline.workspace import Workspace

log = logging.getLogger("microdiff")

_MENDINGS = 4  # a task reads several files, each of which may be damaged


class Run:
    """One run of one step of one dataset: its inputs, its tasks, progress, timings, and the ledger over all its parts.

    Args:
        step: The step.
        dataset: The dataset's name.
        workspace: Where to read and write.
        params: All settings.

    Raises:
        ParamsError: The shared store refuses access.
    """

    def __init__(self, step: str, dataset: str, workspace: Workspace, params: Params) -> None:
        self.step = step
        self.dataset = dataset
        self.workspace = workspace
        self.store = workspace.store(params.store_salt)
        register(workspace)
        self.workers = num_workers()
        self._params = params
        self._shared = open_shared_store(self.store.root, workspace.root / "data")
        self._project = workspace.dvc(self.store.root)
        kind = next(kind for kind, name in KINDS.items() if name == step)
        folder = workspace.artifact(dataset, kind)
        places = (folder, self._project, self._shared) if workspace.finds_elsewhere else (None, None, None)
        self.finder = Finder(self.store, f"data/{dataset}/{kind}", *places)
        self._inputs: dict[str, InputArtifact] = {}
        self._started = time.monotonic()
        self._computed = self._reused = self._samples = 0
        self.facts: dict[str, Any] = {}  # further run facts
        self._uploads = Uploads(self._shared)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Keep the store from being pruned, and see partitions off to the shared store.

        Raises:
            WriteError: A place could not be written.
        """
        try:
            with self.store.in_use(), self._uploads:
                yield
        except OSError as error:
            if (unwritable := Unwritable.of(error)) is None:
                raise
            raise WriteError(f"{self.step} {self.dataset}: {unwritable}") from error

    def input(self, kind: str, dataset: str | None = None) -> InputArtifact:
        """Return an artifact that the step reads, of this dataset unless another one is named.

        Raises:
            SchemaError: Its manifest is missing, or damaged everywhere.
        """
        name = dataset or self.dataset
        artifact = InputArtifact(
            self.workspace.artifact(name, kind),
            f"data/{name}/{kind}",
            self.store,
            self._project,
            self._shared,
            partial(recompute, KINDS[kind], name, self._params, self.workspace),
        )
        self._inputs[kind if dataset is None else f"data/{name}/{kind}"] = artifact
        return artifact

    def input_at(self, folder: Path, name: str) -> InputArtifact:
        """Return an artifact of another project, which is used as it is.

        Args:
            folder: The artifact's.
            name: What it is called in messages and manifests.

        Raises:
            SchemaError: Its manifest is missing or damaged.
        """
        self._inputs[name] = artifact_of_another_project(folder, name, self.store)
        return self._inputs[name]

    def read(self, file: InputFile) -> InputFile:
        """Return an input for the step itself, here and whole.

        Raises:
            StepError: It can neither be had nor computed again.
        """
        self._fetch([file])
        if not file.is_whole():
            self._mend(DamagedError(file.path, file.sha256, digest_file(file.path)))
        return file

    def compute(
        self,
        tasks: Sequence[Task],
        on_done: Callable[[StoredPartition], None] | None = None,
        *,
        on_device: bool = False,
    ) -> list[StoredPartition]:
        """Return every task's result in the order of `tasks`, computing those that are nowhere to be found.

        Args:
            tasks: The tasks.
            on_done: Receives each result as it is there.
            on_device: Whether they use a GPU, where there is one.

        Raises:
            StepError: Some failed, after all the others have finished.
            WriteError: A place could not be written; nothing was tried after that.
        """
        done: dict[tuple[str, str], StoredPartition] = {}
        missing: list[Task] = []

        def take(stored: StoredPartition, *, computed: bool = False) -> None:
            done[stored.step, stored.name] = stored
            anew = computed and not self.workspace.finds_elsewhere  # what others have may be wrong
            self._uploads.add(stored, stored.fingerprints if anew else self.finder.damaged_there)
            if on_done is not None:
                on_done(stored)

        for task, stored in zip(tasks, prefetch_map(self.finder.find, tasks, 4 * num_threads()), strict=True):
            if stored is None:
                missing.append(task)
            else:
                take(stored)
        self._computed += len(missing)
        self._reused += len(done)
        failed: list[TaskResult] = []
        for _ in range(_MENDINGS):
            outcomes = self._compute(missing, len(tasks), take, on_device=on_device)
            if unwritable := next((item.unwritable for item in outcomes if item.unwritable), None):
                raise WriteError(f"{self.step} {self.dataset}: {unwritable}")
            failed += [outcome for outcome in outcomes if outcome.damaged is None]
            damaged = [outcome for outcome in outcomes if outcome.damaged is not None]
            missing = [task for task in missing if any(task.label == outcome.name for outcome in damaged)]
            if not missing:
                break
            for outcome in damaged:
                self._mend(outcome.damaged)
        else:
            failed += damaged
        if failed:
            raise StepError(failure_message(f"{self.step} {self.dataset}", failed, len(tasks)))
        return [done[task.step, task.name] for task in tasks]

    def _compute(
        self, tasks: Sequence[Task], total: int, take: Callable[..., None], *, on_device: bool
    ) -> list[TaskResult]:
        """Compute tasks; return how those ended that failed."""
        if not tasks:
            return []
        self._fetch([file for task in tasks for file in task.inputs])
        totals = total_samples(tasks)
        known = None if None in totals.values() else sum(number or 0 for number in totals.values())
        total_bytes = sum({path: size for task in tasks for path, size in task.downloads.items()}.values())
        plan = plan_workers(len(tasks), known, on_device=on_device)
        label = f"{self.step} {self.dataset}"
        log.info("%s: %d of %d partitions to compute, %d worker(s)", label, len(tasks), total, plan.workers)
        failed: list[TaskResult] = []
        with Progress(label, totals, total_bytes, plan.workers) as progress:
            for item in self.store.compute(tasks, plan, progress):
                if isinstance(item, TaskResult):
                    failed.append(item)
                else:
                    take(item, computed=True)
            self._samples += progress.done
            if on_device:
                self.workers = plan.workers
                self.facts.update(feeding_facts(progress, plan.workers))
        return failed

    def _fetch(self, files: Collection[InputFile]) -> None:
        for artifact in self._inputs.values():
            artifact.fetch(files)

    def _mend(self, error: DamagedError | None) -> None:
        for artifact in self._inputs.values():
            if error is not None and artifact.has(error.path):
                artifact.mend(error)
                return
        raise StepError(f"{self.step} {self.dataset}: {error}")

    def publish(
        self,
        folder: Path,
        stored: Sequence[StoredPartition],
        expected_in: Mapping[str, int] | None,
        source_records: int | None,
        withdrawn: int | None,
        max_rejected_share: float,
        facts: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
        measures: Callable[[], Mapping[str, float]] = dict,
    ) -> Counts:
        """Check the ledger and publish the artifact folder, metrics and run facts.

        Args:
            folder: The artifact folder.
            stored: Its partitions.
            expected_in: What the step before kept, by partition; None for the first step.
            source_records: Records in the source; None for the first step, whose own `in` it is.
            withdrawn: How many of them are withdrawn; None for the first step, which takes them out.
            max_rejected_share: The dataset's limit.
            facts: For the manifest.
            extra: JSON files to put into the folder, by path.
            measures: Gives further metrics, once the folder is there.

        Returns:
            The counts of the step.

        Raises:
            StepError: The ledger does not add up.
            RejectionError: Too many records are rejected.
        """
        for item in stored:
            before = None if expected_in is None else expected_in[item.name]
            check_balance(item.counts, before, f"{self.step} {self.dataset}, partition {item.name}")
        counts = add_up(item.counts for item in stored)
        check_balance(counts, None if expected_in is None else sum(expected_in.values()), f"{self.step} {self.dataset}")
        records = (counts["in"] if source_records is None else source_records) + counts.get(EXPANDED, 0)
        gone = counts.get(Reason.WITHDRAWN.value, 0) if withdrawn is None else withdrawn
        check_rejected_share(self.dataset, self.step, records, counts, max_rejected_share, gone)
        if not self.workspace.publishes:
            return counts
        parts = [part for item in stored for part in item.parts]
        with carried_over({self.store.root / part.step / part.fingerprints[0]: part.files for part in parts}):
            made_from = {"made_from": {name: each.md5 for name, each in self._inputs.items()}} if self._inputs else {}
            assemble(folder, stored, records, counts, {**facts, **made_from, "withdrawn": gone}, extra or {})
        self._uploads.send_manifest(folder)
        self._write_reports(counts, measures())
        return counts

    def _write_reports(self, counts: Counts, measures: Mapping[str, float]) -> None:
        wall_s = time.monotonic() - self._started
        write_json(self.workspace.metrics(self.step, self.dataset), {**metrics(counts), **measures})
        facts = {
            "step": self.step,
            "dataset": self.dataset,
            "wall_s": round(wall_s, 3),
            "partitions_computed": self._computed,
            "partitions_reused": self._reused,
            "samples_computed": self._samples,
            "samples_per_s": round(self._samples / wall_s, 2),
            "workers": self.workers,
            **self.facts,
            **host_and_time(),
        }
        write_json(self.workspace.run_facts(self.step, self.dataset), facts)
        log.info("%s %s: %s", self.step, self.dataset, outcome_in_words(counts, wall_s))
