"""Withdrawing samples: found, listed, and taken out of every artifact at the cost of the partitions concerned."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conftest import copy_of, tree_bytes
from microdiff.artifacts.manifest import read_manifest
from microdiff.artifacts.mds_index import read_index
from microdiff.artifacts.mds_scan import MdsFile
from microdiff.artifacts.raw import read_images
from microdiff.clean.step import clean
from microdiff.commands.forget import Request, find, forget, read_requests
from microdiff.core.files import read_json
from microdiff.core.ledger import check_rejected_share
from microdiff.core.withdrawn import Withdrawal, Withdrawn, read_withdrawn, write_withdrawn
from microdiff.download.step import download
from microdiff.encode.step import encode
from microdiff.errors import ParamsError, RejectionError, SourceError, StepError
from microdiff.pipeline.params import Params, load_params
from microdiff.pipeline.workspace import Workspace
from microdiff.shard.step import shard
from microdiff.storage import Source
from microdiff.storage.local import LocalSource
from tests.clean.raw_tables import raw_row, write_raw

STEPS = {"download": download, "clean": clean, "encode": encode, "shard": shard}


@pytest.fixture
def here(built: Workspace, tmp_path: Path) -> Workspace:
    return copy_of(built, tmp_path / "copy")


def rows(workspace: Workspace, kind: str, partition: str) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(workspace.artifact("coco", kind) / f"{partition}.parquet").to_pylist()
    return table


def kept(workspace: Workspace, partition: str, kind: str = "raw") -> list[str]:
    return [row["key"] for row in rows(workspace, kind, partition) if row["status"] == "kept"]


def params_of(workspace: Workspace) -> Params:
    return load_params(workspace.root / "params.yaml")


def run(workspace: Workspace, *steps: str) -> dict[str, int]:
    """Run steps and return how many partitions each computed."""
    for step in steps:
        STEPS[step]("coco", params_of(workspace), workspace)
    return {step: read_json(workspace.run_facts(step, "coco"))["partitions_computed"] for step in steps}


def withdraw(workspace: Workspace, *keys: str, partition: str = "") -> None:
    path = workspace.withdrawn("coco")
    entries = {**read_withdrawn(path).entries, **{key: Withdrawal(key, "why", partition) for key in keys}}
    write_withdrawn(path, Withdrawn(entries))


@pytest.fixture
def no_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pictures be fetched no more; what lists the partitions may be."""
    whole = LocalSource.fetch

    def fetch(self: LocalSource, file: object) -> Path:
        if "zips/" in str(file):
            raise AssertionError("the source was fetched again")
        return whole(self, file)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalSource, "fetch", fetch)


def everything(workspace: Workspace) -> Iterator[str]:
    """Yield every key that any artifact still holds something of."""
    for part in read_manifest(workspace.artifact("coco", "raw")).partitions:
        yield from (image.key for image in read_images(workspace.artifact("coco", "raw") / f"{part}.tar"))
        for kind in ("raw", "captions", "latents"):
            yield from kept(workspace, part, kind)
    shards = workspace.artifact("coco", "shards")
    for entry in read_index(shards / "index.json"):
        yield from (str(values["key"], "utf-8") for values in MdsFile(shards, entry))


@pytest.mark.usefixtures("no_fetching")
def test_a_withdrawn_sample_leaves_every_artifact_and_only_its_partition_is_computed(
    built: Workspace, here: Workspace
) -> None:
    key = kept(here, "0001")[2]
    other = kept(here, "0001")[3]
    (done,) = forget([Request(key, None, "asked by its author")], here)
    assert (done.added, done.partitions, done.restored) == ([key], {"0001"}, 0)
    before = tree_bytes(here.root / "data" / "coco")
    computed = run(here, *STEPS)
    num_shards = len(read_index(here.artifact("coco", "shards") / "index.json"))
    assert {name: computed[name] for name in ("download", "clean", "encode")} == {
        "download": 1,
        "clean": 1,
        "encode": 3,  # pictures, captions, and the joining of them
    }
    assert 0 < computed["shard"] < num_shards
    keys = set(everything(here))
    assert key not in keys
    assert other in keys
    after = tree_bytes(here.root / "data" / "coco")
    changed = {name for name in after if before.get(name) != after[name] and not name.startswith("shards/")}
    assert {name.partition("/")[2].partition(".")[0] for name in changed} == {"0001", "manifest"}
    (row,) = [row for row in rows(here, "raw", "0001") if row["key"] == key]
    assert row["status"] == "withdrawn"
    assert not [name for name, value in row.items() if value and name not in ("key", "status", "source", "meta")]
    assert row["meta"] == "{}"
    assert read_json(here.metrics("download", "coco"))["rejected_withdrawn"] == 1
    assert not [row for kind in ("captions", "latents") for row in rows(here, kind, "0001") if key in str(row)]
    assert not [name for name, data in after.items() if name.endswith(".safetensors") and key.encode() in data]


@pytest.mark.parametrize("steps", [("a", "b", "ab"), ("ab",), ("ab", "a")])
@pytest.mark.parametrize("named", [True, False])
def test_stored_partition_and_source_give_the_same_bytes(
    built: Workspace, here: Workspace, tmp_path: Path, steps: tuple[str, ...], named: bool
) -> None:
    names = dict(zip("ab", (kept(here, "0000")[0], kept(here, "0000")[-1]), strict=True))
    for step in steps:
        write_withdrawn(here.withdrawn("coco"), Withdrawn())
        withdraw(here, *(names[letter] for letter in step), partition="0000" if named else "")
        assert run(here, "download")["download"] <= 1
    fresh = Workspace(tmp_path / "fresh")
    shutil.copytree(here.root / "data" / "coco", fresh.root / "data" / "coco", ignore=lambda *_: ["raw"])
    shutil.copy(here.root / "params.yaml", fresh.root)
    run(fresh, "download")
    assert tree_bytes(fresh.artifact("coco", "raw")) == tree_bytes(here.artifact("coco", "raw"))
    assert len(list(fresh.root.glob(".work/download/*"))) == (3 if named else 4)  # the whole one, to look into


@pytest.mark.usefixtures("no_fetching")
def test_a_second_withdrawal_is_made_from_the_first_when_the_whole_partition_is_gone(here: Workspace) -> None:
    first, second, third = kept(here, "0001")[:3]
    withdraw(here, first, partition="0001")
    run(here, *STEPS)
    removed, _ = here.store().prune(here.fingerprints())
    assert removed >= 5  # the whole partition of every step
    withdraw(here, second, partition="0001")
    assert run(here, "download") == {"download": 1}
    assert kept(here, "0001")[0] == third


def test_undoing_a_withdrawal_needs_the_whole_partition(here: Workspace, built: Workspace) -> None:
    withdraw(here, kept(here, "0001")[0])
    run(here, "download")
    here.withdrawn("coco").unlink()
    assert run(here, "download") == {"download": 0}
    assert tree_bytes(here.artifact("coco", "raw")) == tree_bytes(built.artifact("coco", "raw"))


def test_a_key_listed_under_another_partition_is_found(here: Workspace) -> None:
    key = kept(here, "0002")[0]
    withdraw(here, key, partition="0000")
    run(here, "download")
    raw = read_manifest(here.artifact("coco", "raw"))
    assert {name: part.counts.get("withdrawn", 0) for name, part in raw.partitions.items()} == {
        "0000": 0,
        "0001": 0,
        "0002": 1,
    }
    assert key not in kept(here, "0002")


def test_a_damaged_partition_is_not_made_into_a_whole_looking_one(
    built: Workspace, here: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is dropped, and the source gives what stays."""
    undamaged = copy_of(built, tmp_path / "undamaged")
    withdraw(undamaged, kept(here, "0000")[0], partition="0000")
    run(undamaged, "download")
    withdraw(here, kept(here, "0000")[0], partition="0000")
    tar = here.artifact("coco", "raw") / "0000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 3] ^= 1
    with tar.open("r+b") as file:  # in place: the store has the same file
        file.write(data)
    run(here, "download")
    assert tree_bytes(here.artifact("coco", "raw")) == tree_bytes(undamaged.artifact("coco", "raw"))
    assert any("0000.tar: damaged: expected sha256 " in each and "dropped" in each for each in caplog.messages)


@pytest.mark.usefixtures("no_fetching")
def test_on_a_machine_that_pulled_the_artifacts_no_other_partition_is_computed(here: Workspace) -> None:
    shutil.rmtree(here.root / ".work")
    (done,) = forget([Request(kept(here, "0001")[0], "coco", "why")], here)
    assert done.restored == 3 * 5 + len(read_index(here.artifact("coco", "shards") / "index.json"))
    computed = {}
    for step, kind in zip(STEPS, ("raw", "captions", "latents", "shards"), strict=True):
        shutil.rmtree(here.artifact("coco", kind))  # as DVC does before a step runs
        computed |= run(here, step)
    assert (computed["download"], computed["clean"], computed["encode"]) == (1, 1, 3)


@pytest.fixture
def lost_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_source(root: str, work: Path) -> Source:
        raise SourceError(f"{root}: the links have expired")

    monkeypatch.setattr("microdiff.download.origin.open_source", open_source)


@pytest.mark.usefixtures("lost_source")
def test_samples_go_though_the_source_answers_no_more(here: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    key = kept(here, "0001")[0]
    withdraw(here, key, partition="0001")
    assert run(here, *STEPS)["download"] == 1
    assert key not in set(everything(here))
    assert "the links have expired" in caplog.text
    assert "what the source listed last time" in caplog.text


@pytest.mark.usefixtures("lost_source")
@pytest.mark.parametrize("case", ["nothing is withdrawn", "another selection", "never listed"])
def test_a_lost_source_is_an_error_otherwise(here: Workspace, case: str) -> None:
    params = params_of(here)
    if case != "nothing is withdrawn":
        withdraw(here, kept(here, "0001")[0])
    if case == "another selection":
        params = replace(params, datasets={"coco": replace(params.dataset("coco"), partitions="0")})
    if case == "never listed":
        (here.root / ".work/listings/coco.json").unlink()
    with pytest.raises(SourceError, match="links have expired"):
        download("coco", params, here)


@pytest.mark.usefixtures("lost_source")
def test_what_the_store_lacks_cannot_come_from_a_lost_source(here: Workspace) -> None:
    withdraw(here, kept(here, "0001")[0], partition="0001")
    shutil.rmtree(here.root / ".work/download")
    shutil.rmtree(here.artifact("coco", "raw"))
    with pytest.raises(StepError, match=r"is needed, but .* the links have expired"):
        run(here, "download")


@pytest.mark.parametrize("gone", [(), ("raw",), ("raw", "captions"), ("raw", "captions", "latents")])
def test_keys_are_found_in_whatever_is_there(here: Workspace, gone: tuple[str, ...]) -> None:
    keys = {kept(here, "0001")[0], kept(here, "0002")[-1]}
    for kind in gone:
        shutil.rmtree(here.artifact("coco", kind))
    places = find("coco", here, keys | {"nobody"})
    assert places.keys() == keys
    assert set(places.values()) == ({""} if len(gone) == 3 else {"0001", "0002"})


def test_an_unknown_key_changes_nothing(here: Workspace) -> None:
    known = kept(here, "0000")[0]
    (here.root / "data" / "sa1b").mkdir()
    with pytest.raises(ParamsError, match="1 of 2 keys are in no artifact of coco, sa1b: nobody"):
        forget([Request(known, None, "why"), Request("nobody", None, "why")], here)
    assert not here.withdrawn("coco").exists()
    with pytest.raises(ParamsError, match="no such dataset: cocoa"):
        forget([Request(known, "cocoa", "why")], here)
    (done,) = forget([Request(known, "coco", "a"), Request("nobody", "coco", "b")], here, allow_unknown=True)
    assert here.withdrawn("coco").read_text() == (f"key\treason\tpartition\n{known}\ta\t0000\nnobody\tb\t\n")
    assert done.added == [known, "nobody"]


def test_listing_twice_and_by_a_captions_key(here: Workspace) -> None:
    key = kept(here, "0000")[0]
    (done,) = forget([Request(f"{key}#3", "coco", "first"), Request(key, "coco", "again")], here)
    assert (done.added, done.already) == ([key], 0)
    (done,) = forget([Request(key, "coco", "second")], here)
    assert (done.added, done.already) == ([], 1)
    assert read_withdrawn(here.withdrawn("coco")).entries[key].reason == "first"
    run(here, "download")
    (done,) = forget([Request(key, "coco", "third")], here)  # its row says no more than that it is withdrawn
    assert (done.added, done.already) == ([], 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n\nb\r\n", [Request("a", "d", "r"), Request("b", "d", "r")]),
        ("coco\ta\nsa1b\tb\tits author asked", [Request("a", "coco", "r"), Request("b", "sa1b", "its author asked")]),
        ("coco\ta\t", [Request("a", "coco", "")]),
    ],
)
def test_lists_of_keys(tmp_path: Path, text: str, expected: list[Request]) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(text.encode())
    assert read_requests(path, "d", "r") == expected


@pytest.mark.parametrize("text", ["", "\n", "a\tb\tc\td\n", "\ta\n", "coco\t\twhy\n"])
def test_bad_lists_of_keys(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(text)
    with pytest.raises(ParamsError, match=r"keys\.txt"):
        read_requests(path, None, "r")
    with pytest.raises(ParamsError, match="expected a list of keys"):
        read_requests(tmp_path / "none", None, "r")


def test_withdrawals_are_no_losses(here: Workspace) -> None:
    counts = {"in": 100, "kept": 60, "too_small": 30, "withdrawn": 10}
    check_rejected_share("coco", "download", 100, counts, 0.3, withdrawn=10)
    with pytest.raises(RejectionError, match="30 of 100 source records are rejected so far"):
        check_rejected_share("coco", "download", 100, counts, 0.29, withdrawn=10)
    check_rejected_share("coco", "download", 2, {"in": 2, "kept": 0, "withdrawn": 2}, 0.0, withdrawn=2)
    entry = params_of(here).dataset("coco")
    raw = read_manifest(here.artifact("coco", "raw"))
    share = 1 - raw.counts["kept"] / raw.counts["in"]
    strict = replace(entry, max_rejected_share=share)
    withdraw(here, *kept(here, "0000")[:5])
    params = replace(params_of(here), datasets={"coco": strict})
    for step in ("download", "clean"):
        STEPS[step]("coco", params, here)
        manifest = read_manifest(here.artifact("coco", {"download": "raw", "clean": "captions"}[step]))
        assert (manifest.source_records, manifest.withdrawn) == (raw.counts["in"], 5)


def test_samples_of_the_same_picture_are_named(here: Workspace) -> None:
    """They stay: whoever asks for a picture to be taken out means all of them."""
    table = here.artifact("coco", "raw") / "0001.parquet"
    row = next(row for row in pq.read_table(table).to_pylist() if row["status"] == "kept")
    folder = here.artifact("other", "raw")
    folder.mkdir(parents=True)
    twin, stranger = raw_row("twin", "a", sha256=row["sha256"]), raw_row("stranger", "b", sha256="1" * 64)
    write_raw(folder, {"0000": [twin, stranger]})
    (done,) = forget([Request(row["key"], "coco", "why")], here)
    assert done.twins == ["other: twin"]


def test_a_name_that_may_mean_two_keys_changes_nothing(tmp_path: Path) -> None:
    here = Workspace(tmp_path)
    folder = here.artifact("coco", "raw")
    folder.mkdir(parents=True)
    write_raw(folder, {"0000": [raw_row("a", "one"), raw_row("a%232", "two")]})  # of a.jpg and of a#2.jpg
    with pytest.raises(ParamsError, match=r"coco: a#2 may mean a or a%232\. Nothing was changed"):
        forget([Request("a#2", "coco", "why")], here)
    assert not here.withdrawn("coco").exists()
