"""What the store and the artifacts publish is on disk before it has its name, and its name before anybody is told."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from disk_spy import DiskSpy
from microdiff.artifacts.manifest import read_manifest
from microdiff.artifacts.mds import ZSTD, write_encoded
from microdiff.core.files import link_or_copy
from microdiff.core.ledger import Result
from microdiff.core.progress import NullReporter, Reporter
from microdiff.pipeline.hashed import NOTE
from microdiff.pipeline.offer import Offer
from microdiff.pipeline.publish import assemble
from microdiff.pipeline.store import Store
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workers import WorkerPlan


def write(folder: Path, report: Reporter) -> Result:
    (folder / "0000.tar").write_bytes(b"pictures" * 1000)
    (folder / "512").mkdir()
    (folder / "512" / "shard.mds").write_text("samples")
    return Result({"in": 1, "kept": 1}, {"length": 7})


def computed(store: Store) -> StoredPartition:
    (stored,) = store.compute([Task("step", "0000", {"a": 1}, write)], WorkerPlan(1), NullReporter())
    assert isinstance(stored, StoredPartition)
    return stored


def publish(folder: Path, stored: StoredPartition) -> None:
    assemble(folder, [stored], 1, {"in": 1, "kept": 1}, {"step": "step"}, {"512/index.json": [1], "extra.json": {}})


def test_a_finished_partition_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = DiskSpy(monkeypatch, spared=(NOTE,))
    stored = computed(Store(tmp_path))
    assert stored.paths["512/shard.mds"].parents[1] in disk.renamed
    assert (disk.lost, disk.unsynced) == ([], [])


@pytest.mark.parametrize("links", [True, False])
def test_a_published_artifact_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    disk = DiskSpy(monkeypatch, spared=(NOTE,))
    stored = computed(Store(tmp_path / "work"))
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    folder = tmp_path / "data" / "raw"
    for _ in range(2):
        publish(folder, stored)
        assert disk.renamed[-1] == folder
        assert (disk.lost, disk.unsynced) == ([], [])
    assert (folder / "0000.tar").samefile(stored.paths["0000.tar"]) is links
    assert read_manifest(folder).partitions["0000"].files == stored.files


def test_a_partition_taken_in_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = DiskSpy(monkeypatch, spared=(NOTE,))
    stored = computed(Store(tmp_path / "one"))
    other = Store(tmp_path / "other")
    offer = Offer(stored.record, lambda name, _, target: link_or_copy(stored.paths[name], target), "the first store")
    assert other.add("step", stored.fingerprints[0], offer)
    assert disk.renamed[-1].parent == other.root / "step"
    assert (disk.lost, disk.unsynced) == ([], [])


def test_what_a_killed_run_left_of_an_artifact_is_not_published(tmp_path: Path) -> None:
    stored = computed(Store(tmp_path / "work"))
    partial = tmp_path / "data" / ".raw.partial"
    partial.mkdir(parents=True)
    (partial / "stray").write_text("of a run that was killed")
    (partial / "0000.tar").write_text("half")
    publish(tmp_path / "data" / "raw", stored)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["raw"]
    files = {path.relative_to(tmp_path / "data/raw").as_posix() for path in (tmp_path / "data/raw").rglob("*.*")}
    assert files == {"0000.tar", "512/shard.mds", "512/index.json", "extra.json", "manifest.json"}


def test_partitions_are_published_in_order(tmp_path: Path) -> None:
    """Whatever order they were finished in."""
    store = Store(tmp_path / "work")

    def stored(name: str) -> StoredPartition:
        def one(folder: Path, report: Reporter) -> Result:
            (folder / f"{name}.txt").write_text(name)
            return Result({"in": 1, "kept": 1})

        (found,) = store.compute([Task("step", name, {}, one)], WorkerPlan(1), NullReporter())
        assert isinstance(found, StoredPartition)
        return found

    items = [stored(name) for name in ("0001", "0002", "0000")]
    assemble(tmp_path / "raw", items, 3, {"in": 3, "kept": 3}, {"step": "step"}, {})
    assert list(read_manifest(tmp_path / "raw").partitions) == ["0000", "0001", "0002"]


def failing() -> Iterator[bytes]:
    yield b"\x01\0\0\0"
    raise ZeroDivisionError


@pytest.mark.parametrize("compression", [None, ZSTD])
def test_a_shard_has_its_name_only_when_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None
) -> None:
    disk = DiskSpy(monkeypatch, spared=(NOTE,))
    columns = {"key": "str", "width": "int32"}
    sample = b"\x01\0\0\0" + b"a" + b"\x07\0\0\0"
    entry = write_encoded(tmp_path / "shard.mds", columns, [len(sample)], [sample], compression)
    assert [path.name for path in disk.renamed] == [entry.stored.name]
    assert disk.lost == []
    with pytest.raises(ZeroDivisionError):
        write_encoded(tmp_path / "other.mds", columns, [9, 9], failing(), compression)
    assert [path.name for path in tmp_path.iterdir()] == [disk.renamed[0].name]
