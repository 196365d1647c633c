"""One run of one step on tasks made here: order, failures, the ledger's checks, and that nothing wrong is published."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from microdiff.artifacts.manifest import read_manifest
from microdiff.core.files import read_json
from microdiff.core.ledger import Counts, Result
from microdiff.core.progress import Reporter
from microdiff.errors import RejectionError, SourceError, StepError
from microdiff.pipeline.params import Params
from microdiff.pipeline.run import Run
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workers import WorkerPlan, plan_workers
from microdiff.pipeline.workspace import Workspace


def write(name: str, counts: Mapping[str, int], folder: Path, report: Reporter) -> Result:
    if not counts:
        raise SourceError(f"{name} cannot be had")
    (folder / f"{name}.txt").write_text(name)
    report.tick(counts["in"])
    return Result(dict(counts))


def task(name: str, counts: Mapping[str, int], num_samples: int | None = None, unit: str = "samples") -> Task:
    return Task("clean", name, {"counts": counts}, partial(write, name, counts), num_samples, unit=unit)


GOOD = {"in": 3, "kept": 2, "nsfw": 1}
PARTITIONS: Mapping[str, Mapping[str, int]] = {"0000": GOOD, "0001": {"in": 5, "kept": 5}, "0002": {"in": 0, "kept": 0}}


@pytest.fixture
def run(workspace: Workspace, make_params: Callable[..., Params], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MICRODIFF_WORKERS", "1")
    return Run("clean", "coco", workspace, make_params())


def publish(run: Run, stored: list[StoredPartition], **changes: Any) -> Counts:
    arguments: dict[str, Any] = {
        "expected_in": {"0000": 3, "0001": 5, "0002": 0},
        "source_records": 10,
        "withdrawn": 1,
        "max_rejected_share": 0.5,
        "facts": {"step": "clean"},
    }
    return run.publish(run.workspace.artifact("coco", "captions"), stored, **{**arguments, **changes})


def compute(run: Run, partitions: Mapping[str, Mapping[str, int]]) -> list[StoredPartition]:
    return run.compute([task(name, counts) for name, counts in partitions.items()])


def test_results_come_in_the_order_of_tasks_and_are_told_of_once(run: Run) -> None:
    compute(run, {"0001": PARTITIONS["0001"]})
    told: list[str] = []
    found = run.compute(
        [task(name, PARTITIONS[name]) for name in ("0002", "0001", "0000")], lambda item: told.append(item.name)
    )
    assert [item.name for item in found] == ["0002", "0001", "0000"]
    assert sorted(told) == ["0000", "0001", "0002"]


def test_all_of_a_runs_failures_are_told_and_the_others_kept(run: Run) -> None:
    with pytest.raises(StepError) as error:
        compute(run, {"0003": {}, **PARTITIONS, "0001b": {}})
    assert str(error.value).splitlines() == [
        "clean coco: 2 of 5 partitions failed; the others are kept.",
        "  clean 0001b: 0001b cannot be had",
        "  clean 0003: 0003 cannot be had",
        "Run it again: only the failed ones are computed.",
    ]
    told: list[str] = []
    run.compute([task(name, counts) for name, counts in PARTITIONS.items()], lambda item: told.append(item.name))
    publish(run, compute(run, PARTITIONS))
    facts = read_json(run.workspace.run_facts("clean", "coco"))
    assert (facts["partitions_computed"], facts["partitions_reused"]) == (5, 6)


def test_a_whole_step(run: Run) -> None:
    measured: list[bool] = []

    def measures() -> dict[str, float]:
        measured.append((run.workspace.artifact("coco", "captions") / "0000.txt").is_file())
        return {"share_unique": 0.5}

    counts = publish(run, compute(run, PARTITIONS), measures=measures, extra={"extra.json": [1]})
    assert counts == {"in": 8, "kept": 7, "nsfw": 1}
    assert measured == [True]
    manifest = read_manifest(run.workspace.artifact("coco", "captions"))
    assert (manifest.source_records, manifest.withdrawn, manifest.counts) == (10, 1, counts)
    assert manifest.kept() == {"0000": 2, "0001": 5, "0002": 0}
    metrics = read_json(run.workspace.metrics("clean", "coco"))
    assert (metrics["in"], metrics["kept"], metrics["rejected_nsfw"], metrics["share_unique"]) == (8, 7, 1, 0.5)
    facts = read_json(run.workspace.run_facts("clean", "coco"))
    assert (facts["partitions_computed"], facts["partitions_reused"], facts["samples_computed"]) == (3, 0, 8)


@pytest.mark.parametrize(
    ("partitions", "changes", "message"),
    [
        ({"0000": {"in": 3, "kept": 2}}, {"expected_in": {"0000": 3}}, "partition 0000: the ledger does not add up"),
        ({"0000": {"in": 3, "kept": 4}}, {"expected_in": None}, "partition 0000: the ledger does not add up"),
        (
            {"0000": {"in": 5, "kept": 5}, "0001": {"in": 3, "kept": 3}},  # the sums are right
            {"expected_in": {"0000": 3, "0001": 5}},
            "partition 0000: 5 records came in, but the step before kept 3",
        ),
        ({"0000": GOOD}, {"expected_in": {"0000": 3, "0001": 5}}, "clean coco: 3 records came in, but .* kept 8"),
    ],
)
def test_what_does_not_add_up_is_not_published(
    run: Run, partitions: Mapping[str, Mapping[str, int]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StepError, match=message):
        publish(run, compute(run, partitions), **changes)
    assert not run.workspace.artifact("coco", "captions").exists()
    assert not run.workspace.metrics("clean", "coco").exists()


@pytest.mark.parametrize(
    ("changes", "is_too_much"),
    [
        ({"max_rejected_share": 0.2}, False),  # 2 of 10 are gone, besides the one withdrawn
        ({"max_rejected_share": 0.19}, True),
        ({"max_rejected_share": 0.2, "withdrawn": 0}, True),
        ({"max_rejected_share": 0.125, "source_records": None, "withdrawn": 0}, False),  # 1 of 8
        ({"max_rejected_share": 0.124, "source_records": None, "withdrawn": 0}, True),
    ],
)
def test_too_much_loss_is_not_published(run: Run, changes: dict[str, Any], is_too_much: bool) -> None:
    stored = compute(run, PARTITIONS)
    if not is_too_much:
        publish(run, stored, **changes)
        return
    with pytest.raises(RejectionError, match="max_rejected_share"):
        publish(run, stored, **changes)
    assert not run.workspace.artifact("coco", "captions").exists()


def test_samples_made_of_others_are_records_too(run: Run) -> None:
    stored = compute(run, {"0000": {"in": 7, "kept": 6, "nsfw": 1, "expanded": 4}})
    publish(run, stored, expected_in={"0000": 3}, source_records=3, withdrawn=0, max_rejected_share=1 / 7)
    assert read_manifest(run.workspace.artifact("coco", "captions")).source_records == 7


def test_the_first_step_counts_its_own_withdrawals(run: Run) -> None:
    stored = compute(run, {"0000": {"in": 5, "kept": 3, "withdrawn": 2}})
    publish(run, stored, expected_in=None, source_records=None, withdrawn=None, max_rejected_share=0.0)
    manifest = read_manifest(run.workspace.artifact("coco", "captions"))
    assert (manifest.source_records, manifest.withdrawn) == (5, 2)


@pytest.mark.parametrize(("numbers", "total"), [([3, 5], 8), ([3, None], None), ([None, 5], None), ([0, 0], 0)])
def test_workers_are_planned_by_what_is_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch, numbers: list[int | None], total: int | None
) -> None:
    planned: list[tuple[int, int | None]] = []

    def plan(num_units: int, num_samples: int | None, **options: Any) -> WorkerPlan:
        planned.append((num_units, num_samples))
        return plan_workers(num_units, num_samples, **options)

    monkeypatch.setattr("microdiff.pipeline.run.plan_workers", plan)
    compute(run, {"0002": PARTITIONS["0002"]})
    tasks = [task(name, PARTITIONS[name], number) for name, number in zip(("0000", "0001"), numbers, strict=True)]
    run.compute([*tasks, task("0002", PARTITIONS["0002"], 99)])
    assert planned[1] == (2, total)
