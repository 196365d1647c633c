"""Run one step of one dataset: compute its partitions in the store, check the ledger, publish the artifact folder."""

import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from microdiff.core.files import write_json
from microdiff.core.ledger import (
    EXPANDED,
    Counts,
    Reason,
    add_up,
    check_balance,
    check_rejected_share,
    metrics,
    rejections,
)
from microdiff.core.progress import Progress
from microdiff.errors import StepError, WriteError
from microdiff.pipeline.executor import TaskResult
from microdiff.pipeline.publish import assemble
from microdiff.pipeline.store import StoredPartition, Task
from microdiff.pipeline.store_users import register
from microdiff.pipeline.workers import num_workers, plan_workers
from microdiff.pipeline.workspace import Workspace

log = logging.getLogger("microdiff")


class Run:
    """One run of one step of one dataset: progress, timings, and the ledger over all its parts."""

    def __init__(self, step: str, dataset: str, workspace: Workspace) -> None:
        self.step = step
        self.dataset = dataset
        self.workspace = workspace
        self.store = workspace.store()
        register(workspace)
        self.workers = num_workers()
        self._started = time.monotonic()
        self._computed = self._reused = self._samples = 0
        self._device_facts: dict[str, Any] = {}

    def compute(
        self,
        tasks: Sequence[Task],
        on_done: Callable[[StoredPartition], None] | None = None,
        *,
        on_device: bool = False,
    ) -> list[StoredPartition]:
        """Return every task's result in the order of `tasks`, computing those that the store lacks.

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
        for task in tasks:
            stored = self.store.find(task)
            if stored is None:
                missing.append(task)
            else:
                done[task.step, task.name] = stored
                if on_done is not None:
                    on_done(stored)
        totals = _totals(missing)
        known = None if None in totals.values() else sum(total or 0 for total in totals.values())
        total_bytes = sum({path: size for task in missing for path, size in task.downloads.items()}.values())
        plan = plan_workers(len(missing), known, on_device=on_device)
        self._computed += len(missing)
        self._reused += len(done)
        if missing:
            label = f"{self.step} {self.dataset}"
            log.info("%s: %d of %d partitions to compute, %d worker(s)", label, len(missing), len(tasks), plan.workers)
        failed: list[TaskResult] = []
        with Progress(f"{self.step} {self.dataset}", totals, total_bytes, plan.workers) as progress:
            for item in self.store.compute(missing, plan, progress):
                if isinstance(item, TaskResult):
                    failed.append(item)
                    continue
                done[item.step, item.name] = item
                if on_done is not None:
                    on_done(item)
            self._samples += progress.done
            if on_device and missing:
                self.workers = plan.workers
                self._device_facts = _device_facts(progress, plan.workers)
        if unwritable := next((item.unwritable for item in failed if item.unwritable), None):
            raise WriteError(f"{self.step} {self.dataset}: {unwritable}")
        if failed:
            raise StepError(self._failure(failed, len(tasks)))
        return [done[task.step, task.name] for task in tasks]

    def _failure(self, failed: Sequence[TaskResult], total: int) -> str:
        for outcome in failed:
            if outcome.details:
                log.debug("%s:\n%s", outcome.name, outcome.details)
        lines = [f"  {outcome.name}: {outcome.error}" for outcome in sorted(failed, key=lambda item: item.name)]
        head = f"{self.step} {self.dataset}: {len(failed)} of {total} partitions failed; the others are kept."
        return "\n".join([head, *lines, "Run it again: only the failed ones are computed."])

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
        assemble(folder, stored, records, counts, {**facts, "withdrawn": gone}, extra or {})
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
            **self._device_facts,
            "host": platform.node(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(self.workspace.run_facts(self.step, self.dataset), facts)
        lost = ", ".join(f"{name} {n}" for name, n in rejections(counts).items())
        log.info(
            "%s %s: %d in, %d kept, %d rejected%s, %.1f s",
            *(self.step, self.dataset, counts["in"], counts["kept"], counts["in"] - counts["kept"]),
            f" ({lost})" if lost else "",
            wall_s,
        )


def _totals(tasks: Sequence[Task]) -> dict[str, int | None]:
    """Return how many samples there are of each kind, in order; None where a task does not know."""
    totals: dict[str, int | None] = {}
    for task in tasks:
        before = totals.get(task.unit, 0)
        totals[task.unit] = None if task.num_samples is None or before is None else before + task.num_samples
    return totals


def _device_facts(progress: Progress, devices: int) -> dict[str, Any]:
    """Return how fast devices were fed, and with what batches."""
    return {
        "per_s": {unit: round(rate, 2) for unit, rate in progress.rates().items()},
        "device_share": round(progress.busy_s / devices / progress.seconds, 4),
        "device_s": round(progress.busy_s, 3),
        "input_wait_s": round(progress.idle_s, 3),
        "batch_size": dict(sorted(progress.batch_sizes.items())),
    }
