import json
import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conftest import REPO, tree_bytes
from microdiff.artifacts.manifest import read_manifest
from microdiff.core.files import link_or_copy, scratch_folder, sweep
from microdiff.core.ledger import Result
from microdiff.core.progress import NullReporter, Reporter
from microdiff.errors import SourceError, StepError
from microdiff.pipeline.executor import TaskResult
from microdiff.pipeline.hashed import NOTE
from microdiff.pipeline.publish import assemble
from microdiff.pipeline.store import Store
from microdiff.pipeline.store_record import RECORD
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workers import WorkerPlan
from tests.waiting import run_python


def write(text: str, log: Path, folder: Path, report: Reporter) -> Result:
    """Write one file, and a line to the log for every computation."""
    with log.open("a") as file:
        file.write(f"{text}\n")
    (folder / "part").mkdir()
    (folder / "part" / "data.txt").write_text(text)
    report.tick(1)
    return Result({"in": 1, "kept": 1}, {"length": len(text)})


def fail(folder: Path, report: Reporter) -> Result:
    (folder / "half.txt").write_text("half")
    raise SourceError("the archive is truncated")


def task(name: str, text: str, log: Path, cache_key: Mapping[str, Any] | None = None) -> Task:
    return Task("step", name, cache_key or {"text": text}, partial(write, text, log))


def compute(store: Store, tasks: list[Task], workers: int = 1) -> list[StoredPartition | TaskResult]:
    missing = [each for each in tasks if store.find(each) is None]
    return list(store.compute(missing, WorkerPlan(workers), NullReporter()))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "work")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unit_is_computed_once(store: Store, log: Path, workers: int) -> None:
    tasks = [task(name, f"text {name}", log) for name in ("a", "b", "c")]
    first = compute(store, tasks, workers)
    assert all(isinstance(item, StoredPartition) for item in first)
    assert compute(store, tasks, workers) == []
    assert sorted(log.read_text().split("\n")) == ["", "text a", "text b", "text c"]
    found = store.find(tasks[1])
    assert found is not None
    assert found.paths["part/data.txt"].read_text() == "text b"
    assert found.files["part/data.txt"].num_bytes == 6
    assert found.result.facts == {"length": 6}


def test_the_fingerprint_covers_step_name_and_all_that_determines(store: Store, log: Path) -> None:
    base = {"code": "1", "settings": {"a": 1, "b": [1, 2]}}
    tasks = [
        Task("step", "a", base, partial(write, "", log)),
        Task("other", "a", base, partial(write, "", log)),
        Task("step", "b", base, partial(write, "", log)),
        Task("step", "a", {**base, "code": "2"}, partial(write, "", log)),
        Task("step", "a", {**base, "settings": {"a": 1, "b": [2, 1]}}, partial(write, "", log)),
        Task("step", "a", {**base, "settings": {"a": 1.0, "b": [1, 2]}}, partial(write, "", log)),
    ]
    assert len({store.folder(each) for each in tasks}) == len(tasks)
    same = Task("step", "a", {"settings": {"b": [1, 2], "a": 1}, "code": "1"}, partial(write, "other", log))
    assert store.folder(same) == store.folder(tasks[0])


def test_a_failing_unit_beside_good_ones(store: Store, log: Path) -> None:
    tasks = [task("a", "x", log), Task("step", "bad", {}, fail), task("c", "z", log)]
    items = compute(store, tasks)
    assert [item.name for item in items if isinstance(item, StoredPartition)] == ["a", "c"]
    (failed,) = [item for item in items if isinstance(item, TaskResult)]
    assert (failed.name, failed.error) == ("step bad", "the archive is truncated")
    assert store.find(tasks[1]) is None
    assert list(store.root.glob("step/tmp-*")) == []
    assert [item.name for item in compute(store, tasks) if isinstance(item, StoredPartition)] == []


def test_a_longer_list_computes_only_what_is_new(store: Store, log: Path) -> None:
    compute(store, [task(str(n), str(n), log) for n in range(2)])
    log.unlink()
    compute(store, [task(str(n), str(n), log) for n in range(10)])
    assert log.read_text().split() == [str(n) for n in range(2, 10)]


def test_going_back_to_earlier_settings_computes_nothing(store: Store, log: Path) -> None:
    for quality in (75, 95):
        compute(store, [task("a", "x", log, {"quality": quality})])
    log.unlink()
    assert compute(store, [task("a", "x", log, {"quality": 75})]) == []
    assert not log.exists()


@pytest.mark.parametrize("damage", ["truncate", "delete"])
def test_a_damaged_result_is_computed_again(store: Store, log: Path, damage: str) -> None:
    one = task("a", "text", log)
    (stored,) = compute(store, [one])
    assert isinstance(stored, StoredPartition)
    path = stored.paths["part/data.txt"]
    path.unlink()
    if damage == "truncate":
        path.write_text("te")
    assert store.find(one) is None
    compute(store, [one])
    found = store.find(one)
    assert found is not None
    assert found.paths["part/data.txt"].read_text() == "text"


def test_two_runs_at_once_give_one_result(store: Store, log: Path) -> None:
    one = task("a", "text", log)

    def first_another_then(folder: Path, report: Reporter) -> Result:
        compute(store, [one])  # another run finishes meanwhile
        return write("text", log, folder, report)

    (stored,) = store.compute([Task("step", "a", {"text": "text"}, first_another_then)], WorkerPlan(1), NullReporter())
    assert isinstance(stored, StoredPartition)
    assert stored.paths["part/data.txt"].read_text() == "text"
    assert [path.name for path in (store.root / "step").iterdir()] == [store.folder(one).name]


_VICTIM = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
from microdiff.pipeline.workers import WorkerPlan
from microdiff.core.progress import NullReporter
from microdiff.pipeline.store import Store
from microdiff.pipeline.task import Task
from microdiff.core.ledger import Result
def write(folder, report):
    Path({log!r}).write_text("x\\n")
    (folder / "part").mkdir()
    (folder / "part" / "data.txt").write_text("x")
    return Result({{"in": 1, "kept": 1}}, {{"length": 1}})
def stop(folder, report):
    (folder / "half.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
store = Store(Path({root!r}))
tasks = [Task("step", "a", {{"text": "x"}}, write), Task("step", "b", {{"text": "y"}}, stop)]
list(store.compute(tasks, WorkerPlan(1), NullReporter()))
"""


def test_a_kill_leaves_finished_partitions_and_nothing_half_done(store: Store, log: Path, tmp_path: Path) -> None:
    script = _VICTIM.format(path=[str(REPO)], root=str(store.root), log=str(log))
    assert run_python("-c", script).returncode == -signal.SIGKILL
    leftovers = list(store.root.glob("step/tmp-*"))
    assert len(leftovers) == 1
    assert (leftovers[0] / "half.txt").exists()
    log.unlink()
    tasks = [task("a", "x", log), task("b", "y", log)]
    compute(store, tasks)
    assert log.read_text() == "y\n"  # a was found, b computed
    assert list(store.root.glob("step/tmp-*")) == []  # the dead run's folder is swept
    undisturbed = Store(tmp_path / "other")
    compute(undisturbed, tasks)
    assert without_notes(store.root) == without_notes(undisturbed.root)


def without_notes(root: Path) -> dict[str, bytes]:
    """Return a store's files but for the notes on which of them are known, which name inodes and times."""
    return {name: data for name, data in tree_bytes(root).items() if not name.endswith(f"/{NOTE}")}


def test_sweeping_spares_the_living(tmp_path: Path) -> None:
    dead = tmp_path / "tmp-dead"
    dead.mkdir()
    with scratch_folder(tmp_path) as alive:
        assert sweep(tmp_path) == 1
        assert alive.is_dir()
        assert not dead.exists()
    assert not alive.exists()


def test_pruning_removes_what_nothing_refers_to(store: Store, log: Path) -> None:
    kept, dropped = task("a", "x", log), task("b", "yyyy", log)
    compute(store, [kept, dropped])
    (store.root / "step" / "tmp-dead").mkdir()
    removed, freed = store.prune([store.folder(kept).name])
    assert removed == 2
    assert freed >= 4
    assert store.find(kept) is not None
    assert store.find(dropped) is None


def test_pruning_waits_for_running_steps(store: Store, log: Path) -> None:
    compute(store, [task("a", "x", log)])
    with store.in_use(), store.in_use(), pytest.raises(StepError, match="a step is running"):
        store.prune([])
    assert store.prune([])[0] == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"name": "a"}', "cut", "counts", "files"])
def test_a_result_whose_record_is_damaged_is_computed_again(store: Store, log: Path, damage: str) -> None:
    (stored,) = compute(store, [task("a", "x", log)])
    assert isinstance(stored, StoredPartition)
    record = stored.paths["part/data.txt"].parent.parent / RECORD
    text = record.read_text()
    value = json.loads(text)
    value |= {"counts": {"counts": {"in": 1}}, "files": {"files": {"part/data.txt": {"bytes": "1", "sha256": ""}}}}.get(
        damage, {}
    )
    record.write_text({"cut": text[:-20], "counts": json.dumps(value), "files": json.dumps(value)}.get(damage, damage))
    assert list(store.finished("step")) == []
    assert store.find(task("a", "x", log)) is None
    assert not record.parent.exists()
    (again,) = compute(store, [task("a", "x", log)])
    assert isinstance(again, StoredPartition)
    assert again.files == stored.files
    assert record.read_text() == text


def test_a_damaged_record_is_dropped_with_the_files_that_it_should_speak_of(store: Store, log: Path) -> None:
    (stored,) = compute(store, [task("a", "x", log)])
    assert isinstance(stored, StoredPartition)
    assert store.drop_files({"part/data.txt"}) == 0
    (stored.paths["part/data.txt"].parent.parent / RECORD).write_text("{")
    assert store.drop_files({"part/data.txt"}) == 1
    assert store.find(task("a", "x", log)) is None


def test_assembling_links_and_replaces_whole_folders(store: Store, log: Path, tmp_path: Path) -> None:
    def stored(name: str, text: str) -> StoredPartition:
        one = Task("step", name, {"text": text}, partial(write, text, log))
        compute(store, [one])
        found = store.find(one)
        assert found is not None
        return StoredPartition(found.step, name, found.fingerprints, found.result, found.files, found.paths)

    folder = tmp_path / "data" / "coco" / "raw"
    first = stored("a", "x")
    assemble(folder, [first], 1, {"in": 1, "kept": 1}, {"step": "step"}, {"extra.json": [1]})
    (folder / "stray.txt").write_text("left by somebody")
    second = stored("b", "yy")
    assemble(folder, [second], 1, {"in": 1, "kept": 1}, {"step": "step"}, {})
    assert sorted(tree_bytes(folder)) == ["manifest.json", "part/data.txt"]
    assert (folder / "part/data.txt").samefile(second.paths["part/data.txt"])
    manifest = read_manifest(folder)
    assert manifest.kept() == {"b": 1}
    assert manifest.partitions["b"].fingerprints == second.fingerprints
    assert manifest.facts["step"] == "step"
    assert [path.name for path in folder.parent.iterdir()] == ["raw"]


def test_copies_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("bytes")
    link_or_copy(source, target)
    assert target.read_text() == "bytes"
    assert not source.samefile(target)


def test_a_record_holds_nothing_of_its_machine(store: Store, log: Path) -> None:
    (stored,) = compute(store, [task("a", "x", log)])
    assert isinstance(stored, StoredPartition)
    record = json.loads((stored.paths["part/data.txt"].parent.parent / RECORD).read_text())
    assert record.keys() == {"name", "counts", "facts", "files", "digest"}
    assert str(store.root) not in json.dumps(record)
