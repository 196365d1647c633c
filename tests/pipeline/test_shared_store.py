"""The shared store on a folder: what is written last, what is used, and what goes wrong without stopping work."""

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from conftest import tree_bytes
from microdiff.artifacts.manifest import MANIFEST, read_manifest
from microdiff.core.files import md5_of, read_json
from microdiff.core.ledger import Result
from microdiff.core.progress import NullReporter, Reporter
from microdiff.errors import ParamsError
from microdiff.pipeline.hashed import NOTE
from microdiff.pipeline.params import Params
from microdiff.pipeline.run import Run
from microdiff.pipeline.shared_store import VARIABLE, SharedStore, open_shared_store
from microdiff.pipeline.store_record import RECORD
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workers import WorkerPlan
from microdiff.pipeline.workspace import Workspace
from microdiff.storage import Unreachable
from microdiff.storage.writable import WritableFolder

NAMES = ("0000", "0001", "0002")


def write(name: str, folder: Path, report: Reporter) -> Result:
    (folder / "part").mkdir()
    (folder / "part" / f"{name}.txt").write_text(f"text of {name}")
    (folder / f"{name}.bin").write_bytes(name.encode() * 100)
    report.tick(1)
    return Result({"in": 1, "kept": 1}, {"fact": name})


def task(name: str) -> Task:
    return Task("clean", name, {"text": name}, partial(write, name))


TASKS = [task(name) for name in NAMES]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that MICRODIFF_STORE names; and all happens in this process."""
    folder = tmp_path / "mounted" / "store"
    folder.mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, str(folder))
    monkeypatch.setenv("MICRODIFF_WORKERS", "1")
    return folder


Machine = Callable[[str], Run]


@pytest.fixture
def machine(tmp_path: Path, make_params: Callable[..., Params]) -> Machine:
    """Return a function that starts a run on a machine of a name, which has a store of its own."""
    params = make_params()
    return lambda name: Run("clean", "coco", Workspace(tmp_path / name), params)


def work(run: Run, tasks: list[Task] = TASKS) -> list[str]:
    """Compute tasks, publish them, and return the names of those that were computed, not found."""
    before = {path.parent.name for path in run.store.root.glob(f"clean/*/{RECORD}")}
    computed: list[str] = []

    def compute(each: Task, folder: Path, report: Reporter) -> Result:
        computed.append(each.name)
        return each.compute(folder, report)

    watched = [Task(each.step, each.name, each.cache_key, partial(compute, each)) for each in tasks]
    with run.active():
        stored = run.compute(watched)
        publish(run, stored)
    assert before <= {path.parent.name for path in run.store.root.glob(f"clean/*/{RECORD}")}
    assert [item.name for item in stored] == [each.name for each in tasks]
    return computed


def publish(run: Run, stored: list[StoredPartition]) -> None:
    run.publish(run.workspace.artifact("coco", "captions"), stored, None, None, None, 1.0, {"step": "clean"})


def artifact(run: Run) -> dict[str, bytes]:
    return tree_bytes(run.workspace.artifact("coco", "captions"))


def folder_of(run: Run, name: str, store: Path) -> Path:
    return store / "clean" / run.store.folder(task(name)).name


def without_note(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree_bytes(folder).items() if name != NOTE}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_what_one_machine_computed_another_has(store: Path, machine: Machine) -> None:
    one, other = machine("one"), machine("other")
    assert work(one) == list(NAMES)
    assert work(other) == []
    assert artifact(other) == artifact(one)
    facts = read_json(other.workspace.run_facts("clean", "coco"))
    assert (facts["partitions_computed"], facts["partitions_reused"]) == (0, 3)
    folder = folder_of(one, "0001", store)
    assert tree_bytes(folder).keys() == {RECORD, "0001.bin", "part/0001.txt"}
    assert sorted(path.name for path in store.iterdir()) == ["clean", "manifests"]  # no trace of the proof of access


def test_manifests_are_there_by_the_md5_that_dvc_records(store: Path, machine: Machine) -> None:
    run = machine("one")
    work(run)
    path = run.workspace.artifact("coco", "captions") / MANIFEST
    shared = open_shared_store()
    assert shared is not None
    assert shared.manifest(md5_of(path)) == path.read_bytes()
    assert shared.manifest("0" * 32) is None


def test_the_record_is_written_last(store: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    whole = WritableFolder.write

    def watched(self: WritableFolder, path: str, file: Path) -> None:
        written.append(path)
        whole(self, path, file)

    monkeypatch.setattr(WritableFolder, "write", watched)
    work(machine("one"), [task("0000")])
    of_partition = [path.rpartition("/")[2] for path in written if path.startswith("clean/")]
    assert sorted(of_partition) == sorted(["0000.bin", "0000.txt", RECORD])
    assert of_partition[-1] == RECORD


def test_what_a_killed_writer_left_is_no_partition_and_is_written_again(store: Path, machine: Machine) -> None:
    one = machine("one")
    work(one)
    folder = folder_of(one, "0001", store)
    (folder / RECORD).unlink()
    flip(folder / "0001.bin")  # half of it, for all that anybody knows
    other = machine("other")
    assert work(other) == ["0001"]
    assert tree_bytes(folder) == without_note(other.store.folder(task("0001")))
    assert work(machine("third")) == []


@pytest.mark.parametrize("file", ["0001.bin", "part/0001.txt", RECORD])
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_what_is_damaged_there_is_not_used_and_is_replaced(
    store: Path, machine: Machine, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    one = machine("one")
    work(one)
    whole = tree_bytes(store / "clean")
    path = folder_of(one, "0001", store) / file
    if damage == "bit":
        flip(path)
    elif damage == "cut":
        os.truncate(path, path.stat().st_size - 2)
    else:
        path.unlink()
    other = machine("other")
    assert work(other) == ["0001"]
    assert artifact(other) == artifact(one)
    assert tree_bytes(store / "clean") == whole
    if damage == "bit":
        assert any(str(path.name) in each and "not used" in each for each in caplog.messages)
    assert work(machine("third")) == []


def test_two_writers_at_once_give_one_partition(store: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find nothing, and both write all."""
    both = threading.Barrier(2)
    has = SharedStore.has

    def waiting(self: SharedStore, step: str, fingerprint: str) -> bool:
        found = has(self, step, fingerprint)
        both.wait(60)
        return found

    runs, failures = [machine("one"), machine("other")], []
    for run in runs:
        list(run.store.compute([task("0000")], WorkerPlan(1), NullReporter()))
    monkeypatch.setattr(SharedStore, "has", waiting)

    def send(run: Run) -> None:
        stored, shared = run.store.find(task("0000")), open_shared_store()
        assert shared is not None
        if stored is None or not shared.send(stored):
            failures.append(run.workspace.root)

    threads = [threading.Thread(target=send, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    monkeypatch.undo()
    monkeypatch.setenv(VARIABLE, str(store))
    monkeypatch.setenv("MICRODIFF_WORKERS", "1")
    assert work(machine("third"), [task("0000")]) == []
    assert not [path for path in store.rglob("*") if "tmp" in path.name]


def test_a_partition_of_another_name_is_not_taken(
    store: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    one = machine("one")
    work(one)
    there, wrong = folder_of(one, "0001", store), folder_of(one, "0002", store)
    for path in there.iterdir():
        path.rename(wrong / path.name) if path.is_file() else None
    assert "0002" in work(machine("other"))
    assert "it is partition 0001, expected 0002: not used" in caplog.text


def test_a_folder_that_may_only_be_read_is_used_and_said(
    store: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    work(machine("one"), [task("0000")])
    before = tree_bytes(store)
    refuse_writing(monkeypatch)
    assert work(machine("other")) == ["0001", "0002"]
    assert tree_bytes(store) == before
    said = [each for each in caplog.messages if "read only: what is computed here is not put there" in each]
    assert caplog.messages == said
    assert len(said) == 1
    assert "Permission denied" in said[0]


def refuse_writing(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    patch.setattr("microdiff.storage.writable.copy_whole", refuse)


def test_a_folder_that_is_not_there_is_an_error_before_anything_is_computed(store: Path, machine: Machine) -> None:
    """It may be a file system that is not mounted: to make the folder would fill the wrong disk."""
    store.rmdir()
    with pytest.raises(ParamsError, match=r"mounted/store: no such folder. Mount it, or make it; check MICRODIFF_S"):
        machine("one")
    assert not store.exists()


@pytest.mark.parametrize("root", ["https://host/store", "hf://datasets/store"])
def test_what_cannot_be_written_to_is_an_error(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.setenv(VARIABLE, root)
    with pytest.raises(ParamsError, match=r"cannot be written to. Check MICRODIFF_STORE"):
        open_shared_store()


@pytest.mark.parametrize(
    ("root", "problem"),
    [
        ("s3://", r"names no bucket, expected s3://BUCKET/PREFIX. Check MICRODIFF_STORE"),
        ("s3:///prefix", r"names no bucket"),
        ("foo://x", r"foo://x: unknown kind of source; .* Check MICRODIFF_STORE"),
    ],
)
def test_what_names_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch, root: str, problem: str) -> None:
    monkeypatch.setenv(VARIABLE, root)
    with pytest.raises(ParamsError, match=problem):
        open_shared_store()


@pytest.mark.parametrize("place", [".", "sub/folder", "link"])
def test_a_folder_of_the_project_is_no_shared_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    own = tmp_path / "own"
    (own / "sub/folder").mkdir(parents=True)
    (own / "link").symlink_to(own / "sub")
    monkeypatch.setenv(VARIABLE, str(own / place))
    with pytest.raises(ParamsError, match=r"MICRODIFF_STORE: .* is in .*own, which is this project's own"):
        open_shared_store(tmp_path / "another", own)


def test_no_store_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert open_shared_store() is None


def test_a_store_that_gives_back_other_bytes_is_an_error(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microdiff.pipeline.shared_store.read_whole", lambda *_: b"other")
    with pytest.raises(ParamsError, match="other bytes come back than were written"):
        open_shared_store()


class Outage:
    """A file system that hangs up, from one write on."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        whole = WritableFolder.write

        def failing(storage: WritableFolder, path: str, file: Path) -> None:
            self.left -= 1
            if self.left < 0:
                raise Unreachable(f"{storage.name}/{path}: no answer, 10 times in a row")
            whole(storage, path, file)

        patch.setattr(WritableFolder, "write", failing)


@pytest.mark.parametrize("after", [1, 2, 3, 4, 6, 9])
def test_a_store_that_fails_in_the_middle_stops_nothing_and_gets_the_rest_later(
    store: Path, machine: Machine, caplog: pytest.LogCaptureFixture, after: int
) -> None:
    """The first write is the proof of access; each partition takes three."""
    run = None
    with pytest.MonkeyPatch.context() as patch:
        Outage(patch, after)
        run = machine("one")
        assert work(run) == list(NAMES)
    warned = [each for each in caplog.messages if "could not be put into the shared store" in each]
    assert len(warned) == 1
    assert "the next run tries again" in warned[0]
    assert read_manifest(run.workspace.artifact("coco", "captions")).kept() == dict.fromkeys(NAMES, 1)
    assert work(machine("one")) == []
    assert work(machine("other")) == []


def test_a_store_out_of_reach_from_the_start_is_said_once_and_done_without(
    store: Path, machine: Machine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> bytes:
        raise Unreachable("no answer, 10 times in a row")

    with monkeypatch.context() as patch:
        Outage(patch, 0)
        patch.setattr("microdiff.pipeline.shared_store.read_whole", unreachable)
        assert work(machine("one")) == list(NAMES)
    assert sum("Work goes on without the shared store" in each for each in caplog.messages) == 1


def test_a_store_that_cannot_be_read_in_the_middle_is_said_once(
    store: Path, machine: Machine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> bytes:
        raise Unreachable("no answer, 10 times in a row")

    run = machine("one")
    monkeypatch.setattr("microdiff.pipeline.shared_store._PAUSE_S", 0.0)  # so that it is asked every time
    monkeypatch.setattr("microdiff.pipeline.shared_store.read_whole", unreachable)
    assert [run.finder.find(each) for each in TASKS] == [None] * 3
    assert sum("Work goes on without the shared store" in each for each in caplog.messages) == 1


def test_nothing_is_remembered_of_what_was_not_there(store: Path, machine: Machine) -> None:
    """A machine that asked before another one had finished asks again."""
    slow = machine("slow")
    assert slow.finder.find(task("0000")) is None
    work(machine("quick"), [task("0000")])
    assert slow.finder.find(task("0000")) is not None
