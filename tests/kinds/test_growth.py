"""A source that grows: the download step computes new partitions only, and `make` sees that there are any."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import REPO, changed, sample_preset, tree_bytes
from microdiff.artifacts.manifest import parse_manifest
from microdiff.commands.own import source_changed
from microdiff.core.withdrawn import Withdrawal, Withdrawn, write_withdrawn
from microdiff.download.inventory import SourceInventory, recall, remember
from microdiff.download.step import download
from microdiff.errors import RejectionError
from microdiff.formats.records import Partition
from microdiff.formats.url_list import Slice
from microdiff.kinds import Listed
from microdiff.kinds.parquet import RowGroup
from microdiff.pipeline.params import load_params
from microdiff.pipeline.workspace import Workspace
from tests.kinds.contract import picture, put, write_jsonl, write_parquet, write_tar


class Mine:
    """A project with one dataset of its own."""

    def __init__(self, root: Path, kind: str, source: Path, **settings: Any) -> None:
        self.workspace = Workspace(root)
        self.source = source
        entry = {"kind": kind, "download": {"source": str(source), **settings}, "clean": {}}
        root.mkdir(parents=True, exist_ok=True)
        document = changed(sample_preset(), {"datasets/mine": entry})
        (root / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")

    @property
    def root(self) -> Path:
        return self.workspace.root

    def download(self) -> dict[str, str]:
        """Run the step; return the fingerprints of its partitions."""
        download("mine", load_params(self.root / "params.yaml", "mine"), self.workspace)
        parts = parse_manifest(self.workspace.artifact("mine", "raw")).partitions
        return {name: part.fingerprints[0] for name, part in parts.items()}

    def computed(self) -> int:
        """Return how many partitions the store has."""
        return len(list((self.root / ".work/download").iterdir()))


def folder(source: Path, names: range, text: str = "of") -> None:
    for i in names:
        put(source / f"{i:03}.jpg", picture(i))
        put(source / f"{i:03}.txt", f"{text} {i}")


@pytest.fixture
def mine(tmp_path: Path) -> Mine:
    folder(tmp_path / "source", range(0, 12, 2))
    return Mine(tmp_path / "project", "folder", tmp_path / "source", records_per_partition=2)


def test_new_files_compute_new_partitions_only_wherever_they_sort(mine: Mine) -> None:
    before = mine.download()
    assert len(before) == mine.computed() == 3
    assert not source_changed(mine.root, "mine")
    folder(mine.source, range(1, 6, 2))
    assert source_changed(mine.root, "mine")
    after = mine.download()
    assert not source_changed(mine.root, "mine")
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before.keys()) == ["000003", "000004"]
    assert mine.computed() == 5


def test_what_goes_shrinks_its_partition_and_what_changes_computes_its_own(mine: Mine) -> None:
    before = mine.download()
    (mine.source / "000.jpg").unlink()
    (mine.source / "000.txt").unlink()
    put(mine.source / "010.txt", "another caption")
    assert source_changed(mine.root, "mine")
    after = mine.download()
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {"000000", "000002"}


def test_the_same_source_and_list_give_the_same_bytes_elsewhere(mine: Mine, tmp_path: Path) -> None:
    mine.download()
    folder(mine.source, range(1, 6, 2))
    mine.download()
    shutil.copytree(mine.source, tmp_path / "copy")
    other = Mine(tmp_path / "other", "folder", tmp_path / "copy", records_per_partition=2)
    shutil.copytree(mine.root / "data/mine", tmp_path / "other/data/mine", ignore=shutil.ignore_patterns("raw"))
    other.download()
    expected, found = (tree_bytes(each.workspace.artifact("mine", "raw")) for each in (mine, other))
    assert {name: data for name, data in found.items() if name != "manifest.json"} == {
        name: data for name, data in expected.items() if name != "manifest.json"
    }
    fingerprints = [parse_manifest(each.workspace.artifact("mine", "raw")).partitions for each in (mine, other)]
    assert fingerprints[0] == fingerprints[1]


def test_bad_files_are_counted_and_others_stated(mine: Mine) -> None:
    put(mine.source / "bad.jpg", picture(99)[:-300])
    put(mine.source / "bad.txt", "x")
    put(mine.source / "notes.docx", "x")
    with pytest.raises(RejectionError, match="1 of 7 source records"):
        mine.download()
    folder(mine.source, range(20, 40))
    mine.download()
    manifest = parse_manifest(mine.workspace.artifact("mine", "raw"))
    assert manifest.counts == {"in": 27, "kept": 26, "undecodable": 1}
    assert manifest.facts["other_files"] == 1


def test_a_withdrawn_sample_goes_though_the_source_is_gone(mine: Mine) -> None:
    mine.download()
    write_withdrawn(mine.workspace.withdrawn("mine"), Withdrawn({"004": Withdrawal("004", "asked", "000001")}))
    mine.source.rename(mine.source.with_name("away"))
    assert not source_changed(mine.root, "mine")
    mine.download()
    counts = parse_manifest(mine.workspace.artifact("mine", "raw")).counts
    assert counts == {"in": 6, "kept": 5, "withdrawn": 1}


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "jsonl", "csv"])
def test_other_kinds_grow_likewise(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"

    def write(name: str, seeds: range) -> None:
        for i in seeds if kind in ("jsonl", "csv") else ():
            put(source / f"{i:03}.jpg", picture(i))
        match kind:
            case "webdataset":
                members = [(f"{i}.{end}", data) for i in seeds for end, data in (("jpg", picture(i)), ("txt", b"x"))]
                write_tar(source / f"{name}.tar", members)
            case "parquet":
                write_parquet(source / f"{name}.parquet", [{"image": picture(i), "caption": "x"} for i in seeds])
            case "jsonl":
                write_jsonl(source / f"{name}.jsonl", [{"image": f"{i:03}.jpg", "caption": "x"} for i in seeds])
            case "csv":
                put(source / f"{name}.csv", "image,caption\n" + "".join(f"{i:03}.jpg,x\n" for i in seeds))

    write("m", range(10, 14))
    mine = Mine(tmp_path / "project", kind, source)
    before = mine.download()
    assert len(before) == 1
    assert not source_changed(mine.root, "mine")
    write("a", range(2))
    write("z", range(20, 22))
    assert source_changed(mine.root, "mine")
    after = mine.download()
    assert after["000000"] == before["000000"]
    assert len(after) == (2 if kind in ("jsonl", "csv") else 3)
    assert parse_manifest(mine.workspace.artifact("mine", "raw")).counts == {"in": 8, "kept": 8}


def test_partitions_that_are_remembered_are_those_that_were_listed(tmp_path: Path) -> None:
    common: dict[str, Any] = {"number": 1, "files": ("a",)}
    partitions = (
        Partition(name="0", **common),
        Slice(name="1", first_byte=1, first_line=2, **common),
        Listed(name="2", digest="d", **common),
        RowGroup(name="3", group=1, first_row=2, **common),
    )
    inventory = SourceInventory("source", partitions, {}, ())
    remember(tmp_path / "kept.json", {}, inventory)
    assert recall(tmp_path / "kept.json", {}) == inventory


def test_the_list_of_partitions_is_no_output_of_a_node() -> None:
    document = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))
    assert "partitions.tsv" not in str(document)
