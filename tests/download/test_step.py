"""The download step on a source of a few pictures made here: keys, what is withdrawn, and what is given back."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.parquet as pq
import pytest
from PIL import Image

from conftest import tree_bytes
from microdiff.artifacts.manifest import read_manifest
from microdiff.artifacts.raw import read_images
from microdiff.core.files import digest_json, read_json
from microdiff.core.progress import NullReporter, Progress
from microdiff.core.withdrawn import Withdrawal, Withdrawn, write_withdrawn
from microdiff.download.step import download
from microdiff.errors import SchemaError, SourceError, StepError
from microdiff.formats.records import Inputs, Partition, Rejection, Sample
from microdiff.handlers.sa1b import Sa1b
from microdiff.images.primaries import CODED_PRIMARIES, SRGB, matrix_profile
from microdiff.pipeline.params import Params
from microdiff.pipeline.workspace import Workspace
from microdiff.storage import SourceFile

MakeParams = Callable[..., Params]
SETTINGS = {"download.min_side_px": 8, "download.max_side_px": 16, "datasets.sa1b.max_rejected_share": 1.0}
SHARED = "shared.zip"
CAPTIONS = "captions.tar.gz"


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8 + number % 5, 9), (number, 2 * number, 200)).save(out, "PNG")
    return out.getvalue()


def sample(key: str, number: int = 1) -> Sample:
    return Sample(
        key=key, image=picture(number), captions=(f"caption {key}",), source=f"a.zip/{key}", meta={"b": 1, "a": 2}
    )


class Shelf:
    """A source, and the handler's part of it: records by partition, all of which need `shared.zip`."""

    name = "shelf"

    def __init__(self, folder: Path, records: Mapping[str, Sequence[Sample | Rejection]]) -> None:
        self.folder = folder
        self.records = records
        self.log: list[str] = []
        folder.mkdir()

    def with_reporter(self, _: object) -> "Shelf":
        return self

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        return SourceFile(path, 100 + len(path), f"etag:{path}")

    def fetch(self, file: SourceFile) -> Path:
        assert file == self.stat(file.path)
        self.log.append(f"fetch {file.path}")
        path = self.folder / file.path
        path.write_text(file.path)
        return path

    def forget(self, file: SourceFile) -> None:
        self.log.append(f"forget {file.path}")

    def partitions(self) -> list[Partition]:
        return [
            Partition(name=name, number=number, files=(SHARED, f"{name}.zip"))
            for number, name in enumerate(self.records)
        ]

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        assert {path: local.read_text() for path, local in inputs.files.items()} == {
            path: path for path in partition.files
        }
        assert inputs.scratch.is_dir()
        assert inputs.annotations.all_of("a") == ["of a"]
        self.log.append(f"read {partition.name}")
        yield from self.records[partition.name]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Stand in for SA-1B and its source; one worker, so that all of it happens in this process."""
    made = Shelf(tmp_path / "shelf", {"0000": [sample("a"), sample("b", 2)], "0001": [sample("c", 3), sample("d", 4)]})
    monkeypatch.setenv("MICRODIFF_WORKERS", "1")
    monkeypatch.setattr("microdiff.download.origin.open_source", lambda *_: made)
    monkeypatch.setattr(Sa1b, "partitions", lambda *_: made.partitions())
    monkeypatch.setattr(Sa1b, "annotation_files", lambda *_: (CAPTIONS,))
    monkeypatch.setattr(Sa1b, "read_annotations", lambda *_: iter([("a", "of a")]))
    monkeypatch.setattr(Sa1b, "read", lambda _, partition, inputs: made.read(partition, inputs))
    return made


def rows(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(workspace.artifact("sa1b", "raw") / f"{name}.parquet").to_pylist()
    return table


def withdraw(workspace: Workspace, keys: Mapping[str, str]) -> None:
    entries = {key: Withdrawal(key, "why", partition) for key, partition in keys.items()}
    write_withdrawn(workspace.withdrawn("sa1b"), Withdrawn(entries))


def computed(workspace: Workspace) -> int:
    number: int = read_json(workspace.run_facts("download", "sa1b"))["partitions_computed"]
    return number


def test_what_was_fetched_is_given_back_when_its_last_partition_is_stored(
    shelf: Shelf, workspace: Workspace, make_params: MakeParams
) -> None:
    assert download("sa1b", make_params(SETTINGS), workspace) == {"in": 4, "kept": 4}
    expected = [f"fetch {CAPTIONS}", f"forget {CAPTIONS}"]
    expected += ["fetch shared.zip", "fetch 0000.zip", "read 0000", "forget 0000.zip"]
    expected += ["fetch shared.zip", "fetch 0001.zip", "read 0001", "forget shared.zip", "forget 0001.zip"]
    assert shelf.log == expected
    shelf.log.clear()
    download("sa1b", make_params(SETTINGS), workspace)
    assert not [line for line in shelf.log if not line.startswith("forget")]


def test_annotations_among_the_partitions_files_are_kept_for_them(
    shelf: Shelf, workspace: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sa1b, "annotation_root", lambda _: None)
    monkeypatch.setattr(Sa1b, "annotation_files", lambda *_: (SHARED,))
    download("sa1b", make_params(SETTINGS), workspace)
    assert shelf.log[:2] == ["fetch shared.zip", "fetch shared.zip"]
    assert shelf.log.count("forget shared.zip") == 1
    assert shelf.log[-2:] == ["forget shared.zip", "forget 0001.zip"]


def test_a_key_in_two_partitions_is_an_error_and_in_one_a_rejection(
    shelf: Shelf, workspace: Workspace, make_params: MakeParams
) -> None:
    shelf.records = {"0000": [sample("a"), sample("a", 2), sample("a", 3)], "0001": [sample("c"), sample("d")]}
    download("sa1b", make_params(SETTINGS), workspace)
    assert [(row["key"], row["status"]) for row in rows(workspace, "0000")] == [
        ("a", "kept"),
        ("a#2", "duplicate_key"),
        ("a#3", "duplicate_key"),
    ]
    for twin in ("a", "a#3"):
        shelf.records = {**shelf.records, "0001": [sample("c"), sample("d"), sample(twin)], "0002": [sample("e")]}
        again = Workspace(workspace.root / twin)
        with pytest.raises(SchemaError, match=f"the key '{twin}' is in partitions 0000 and 0001"):
            download("sa1b", make_params(SETTINGS), again)
        assert not again.artifact("sa1b", "raw").exists()


def test_a_key_that_looks_like_a_second_one_is_left_to_it(
    shelf: Shelf, workspace: Workspace, make_params: MakeParams
) -> None:
    shelf.records = {"0000": [sample("a#2"), sample("a", 2), sample("a", 3)], "0001": []}
    download("sa1b", make_params(SETTINGS), workspace)
    assert [(row["key"], row["status"]) for row in rows(workspace, "0000")] == [
        ("a#2", "kept"),
        ("a", "kept"),
        ("a#3", "duplicate_key"),
    ]


def test_rows_and_members_are_the_same_wherever_they_are_made(
    shelf: Shelf, workspace: Workspace, make_params: MakeParams
) -> None:
    download("sa1b", make_params(SETTINGS), workspace)
    assert rows(workspace, "0000")[0]["meta"] == '{"a": 2, "b": 1}'
    with tarfile.open(workspace.artifact("sa1b", "raw") / "0001.tar") as tar:
        members = tar.getmembers()
    assert [(each.name, each.mode, each.mtime, each.uid, each.gid, each.uname) for each in members] == [
        ("c.png", 0o644, 0, 0, 0, ""),
        ("d.png", 0o644, 0, 0, 0, ""),
    ]


# What is withdrawn. Whatever a redacted partition is made of, it is the one that the source gives without the samples.

LETTERS = "abcdefgh"


@pytest.fixture
def many(shelf: Shelf) -> Shelf:
    """One partition of several samples, one of them with twins of its key."""
    first = [sample(letter, number) for number, letter in enumerate(LETTERS)]
    shelf.records = {"0000": [*first, sample("a", 20), sample("a", 21)], "0001": [sample("z", 30)]}
    return shelf


def redacted(workspace: Workspace, make_params: MakeParams, keys: str, partition: str = "0000") -> dict[str, bytes]:
    withdraw(workspace, dict.fromkeys(keys, partition))
    download("sa1b", make_params(SETTINGS), workspace)
    files = tree_bytes(workspace.artifact("sa1b", "raw"))
    return {name: data for name, data in files.items() if name.startswith("0000")}


def drop_whole(workspace: Workspace) -> None:
    """Take partition 0000 as the source has it out of the store, and only it."""
    for record in workspace.root.glob(".work/download/*/partition.json"):
        value = read_json(record)
        if value["name"] == "0000" and "withdrawn" not in value["counts"]:
            record.parent.rename(workspace.root / f"gone {digest_json(str(record))}")


def reads(shelf: Shelf) -> list[str]:
    found = [line for line in shelf.log if line.startswith("read")]
    shelf.log.clear()
    return found


@pytest.mark.parametrize(
    ("before", "keys", "needs_source"),
    [
        (["b"], "bd", False),
        (["b", "bc", "e"], "bcd", False),  # from `bc`, which is nearest
        (["e", "bcdf"], "bd", True),  # from neither: what is gone cannot come back
        (["a"], "ab", False),  # the twins of `a` went with it
        (["c"], "b", True),
        (["ac"], "ab", True),
        (["b", "c"], "bc", False),
    ],
)
def test_a_partition_is_redacted_from_the_nearest_that_lacks_no_other_sample(
    many: Shelf,
    workspace: Workspace,
    make_params: MakeParams,
    tmp_path: Path,
    before: list[str],
    keys: str,
    needs_source: bool,
) -> None:
    expected = redacted(Workspace(tmp_path / "fresh"), make_params, keys)
    download("sa1b", make_params(SETTINGS), workspace)
    for each in before:
        redacted(workspace, make_params, each)
    drop_whole(workspace)
    reads(many)
    assert redacted(workspace, make_params, keys) == expected
    assert reads(many) == (["read 0000"] if needs_source else [])
    assert computed(workspace) == 1
    gone = {row["key"] for row in rows(workspace, "0000") if row["status"] == "withdrawn"}
    assert gone == {*keys, *({"a#2", "a#3"} if "a" in keys else ())}
    kept = [image.key for image in read_images(workspace.artifact("sa1b", "raw") / "0000.tar")]
    assert kept == [letter for letter in LETTERS if letter not in keys]


def test_the_nearest_is_the_one_with_the_most_samples_gone(
    many: Shelf, workspace: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    from microdiff.download import redact as module

    used: list[int] = []
    whole = module.redact

    def redact(stored: Any, *arguments: Any) -> Any:
        used.append(stored.counts.get("withdrawn", 0))
        return whole(stored, *arguments)

    download("sa1b", make_params(SETTINGS), workspace)
    for each in ("b", "bcd", "bc"):
        redacted(workspace, make_params, each)
    drop_whole(workspace)
    monkeypatch.setattr(module, "redact", redact)
    redacted(workspace, make_params, "bcdef")
    assert used == [3]


def test_a_redaction_made_of_another_version_is_not_used(
    many: Shelf, workspace: Workspace, make_params: MakeParams, tmp_path: Path
) -> None:
    download("sa1b", make_params(SETTINGS), workspace)
    redacted(workspace, make_params, "b")
    drop_whole(workspace)
    other = {**SETTINGS, "download.max_side_px": 8}
    reads(many)
    withdraw(workspace, {"b": "0000", "c": "0000"})
    download("sa1b", make_params(other), workspace)
    assert "read 0000" in reads(many)
    assert {min(row["width"], row["height"]) for row in rows(workspace, "0000")} == {0, 8}


@pytest.mark.parametrize("listed", ["", "0001"])
def test_samples_are_found_where_the_list_does_not_say(
    many: Shelf, workspace: Workspace, make_params: MakeParams, tmp_path: Path, listed: str
) -> None:
    expected = redacted(Workspace(tmp_path / "fresh"), make_params, "ae")
    assert redacted(workspace, make_params, "ae", listed) == expected
    manifest = read_manifest(workspace.artifact("sa1b", "raw"))
    assert manifest.facts["licence"] == "SA-1B Dataset Research License; captions openrail"
    assert {name: partition.counts for name, partition in manifest.partitions.items()} == {
        "0000": {"in": 10, "kept": 6, "withdrawn": 4},
        "0001": {"in": 1, "kept": 1},
    }


def test_nothing_of_a_withdrawn_sample_is_left_but_its_key(
    many: Shelf, workspace: Workspace, make_params: MakeParams
) -> None:
    redacted(workspace, make_params, "c")
    row = rows(workspace, "0000")[2]
    assert {name: value for name, value in row.items() if value} == {
        "key": "c",
        "status": "withdrawn",
        "source": "a.zip/c",
        "meta": "{}",
    }


def test_withdrawn_keys_that_are_nowhere_are_told_of(
    shelf: Shelf, workspace: Workspace, make_params: MakeParams, caplog: pytest.LogCaptureFixture
) -> None:
    """They may be written in another way now, and their pictures back; those of partitions not asked for may not."""
    withdraw(workspace, {"a": "0000", "b_x": "0001", "z": "0007"})
    download("sa1b", make_params(SETTINGS), workspace)
    (told,) = [message for message in caplog.messages if "withdrawn keys" in message]
    assert "1 withdrawn keys are in no partition, such as b_x, and take nothing out" in told


def test_a_source_that_answers_and_is_wrong_is_an_error_whatever_is_withdrawn(
    shelf: Shelf, workspace: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it listed last time will do only where it does not answer."""
    download("sa1b", make_params(SETTINGS), workspace)
    withdraw(workspace, {"a": "0000"})

    def two_of_one_number(*_: object) -> NoReturn:
        raise SourceError("two archives have the same number")

    monkeypatch.setattr(Sa1b, "partitions", two_of_one_number)
    with pytest.raises(SourceError, match="two archives have the same number"):
        download("sa1b", make_params(SETTINGS), workspace)


def test_a_twin_may_be_withdrawn_alone(
    many: Shelf, workspace: Workspace, make_params: MakeParams, tmp_path: Path
) -> None:
    """Also from the source, where its key is another's."""
    download("sa1b", make_params(SETTINGS), workspace)
    for here in (workspace, Workspace(tmp_path / "fresh")):
        withdraw(here, {"a#2": "0000"})
        download("sa1b", make_params(SETTINGS), here)
        found = {row["key"]: (row["status"], row["captions"]) for row in rows(here, "0000")}
        assert found["a#2"] == ("withdrawn", [])
        assert (found["a"][0], found["a#3"][0]) == ("kept", "duplicate_key")


def test_a_picture_is_found_by_the_numbered_keys_that_it_has(
    many: Shelf, workspace: Workspace, make_params: MakeParams
) -> None:
    many.records = {"0000": [sample("p#7"), sample("q", 2)], "0001": [sample("r", 3)]}
    redacted(workspace, make_params, "p", "")
    assert [(row["key"], row["status"]) for row in rows(workspace, "0000")] == [("p#7", "withdrawn"), ("q", "kept")]


@pytest.mark.parametrize("name", ["0000.tar", "0000.parquet"])
def test_damage_is_not_made_into_a_whole_partition(
    many: Shelf,
    workspace: Workspace,
    make_params: MakeParams,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    download("sa1b", make_params(SETTINGS), workspace)
    (path,) = (path for path in workspace.root.glob(f".work/download/*/{name}"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # where nobody who reads it notices
    with path.open("r+b") as file:
        file.write(data)
    with monkeypatch.context() as patch:
        patch.setattr("microdiff.pipeline.store.check_hashed", lambda *_: None)  # it is damaged after it was found
        with pytest.raises(StepError, match=f"{name}: damaged, its sha256 is not the recorded one"):
            redacted(workspace, make_params, "c")
    found = redacted(workspace, make_params, "c")
    assert found == redacted(Workspace(tmp_path / "undamaged"), make_params, "c")
    assert f"{path}: damaged: expected sha256 " in caplog.text


def test_withdrawing_from_partitions_that_are_here_asks_for_no_annotations(
    many: Shelf, workspace: Workspace, make_params: MakeParams
) -> None:
    """Also where the annotations are in the store no more; and where one partition is not, they are fetched."""
    download("sa1b", make_params(SETTINGS), workspace)
    for folder in workspace.root.glob(".work/download-annotations/*"):
        folder.rename(workspace.root / f"gone {folder.name}")
    many.log.clear()
    redacted(workspace, make_params, "c")
    assert [line for line in many.log if line.startswith(("fetch", "read"))] == []
    drop_whole(workspace)
    many.records = {**many.records, "0002": [sample("y", 40)]}
    redacted(workspace, make_params, "c")
    assert f"fetch {CAPTIONS}" in many.log


def test_what_is_redacted_here_is_not_announced_as_a_download(
    many: Shelf, workspace: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[int] = []

    class Announced(Progress):
        def __init__(self, label: str, totals: Any, total_bytes: int = 0, devices: int = 1) -> None:
            announced.append(total_bytes)
            super().__init__(label, totals, total_bytes, devices)

    monkeypatch.setattr("microdiff.pipeline.run.Progress", Announced)
    download("sa1b", make_params(SETTINGS), workspace)
    redacted(workspace, make_params, "c")
    files = {SHARED, "0000.zip", "0001.zip"}
    assert announced == [sum(many.stat(path).num_bytes for path in files), 0]


def test_progress_counts_every_row(many: Shelf, workspace: Workspace, make_params: MakeParams, tmp_path: Path) -> None:
    from microdiff.download.redact import redact

    class Ticks(NullReporter):
        samples = 0

        def tick(self, samples: int = 0, num_bytes: int = 0, unit: str = "") -> None:
            self.samples += samples

    download("sa1b", make_params(SETTINGS), workspace)
    (stored,) = [item for item in workspace.store().finished("download") if item.name == "0000"]
    ticks = Ticks()
    result = redact(stored, Withdrawn({"c": Withdrawal("c", "")}), tmp_path, ticks)
    assert ticks.samples == result.counts["in"] == 10


def with_profile(key: str, profile: bytes | None, size: tuple[int, int] = (9, 9)) -> Sample:
    out = io.BytesIO()
    options = {} if profile is None else {"icc_profile": profile}
    Image.new("RGB", size, (60, 200, 60)).save(out, "PNG", **options)
    return Sample(key=key, image=out.getvalue(), captions=(key,), source=key, meta={"score": 1})


def test_profiles_are_counted_and_told_of_in_the_rows(
    shelf: Shelf, workspace: Workspace, make_params: MakeParams
) -> None:
    wide, srgb = matrix_profile(CODED_PRIMARIES[12], None), matrix_profile(SRGB, None)
    shelf.records = {
        "0000": [with_profile("a", wide), with_profile("b", b"none"), with_profile("c", srgb), with_profile("d", None)],
        "0001": [with_profile("e", wide), with_profile("f", wide, (3, 3))],
    }

    def told() -> tuple[int, int]:
        found = read_json(workspace.metrics("download", "sa1b"))
        return found["profiles_converted"], found["profiles_broken"]

    download("sa1b", make_params(SETTINGS), workspace)
    assert told() == (2, 1)
    metas = {row["key"]: json.loads(row["meta"]) for name in ("0000", "0001") for row in rows(workspace, name)}
    assert metas == {
        "a": {"score": 1, "colour_profile": "converted"},
        "b": {"score": 1, "colour_profile": "broken"},
        "c": {"score": 1},
        "d": {"score": 1},
        "e": {"score": 1, "colour_profile": "converted"},
        "f": {"score": 1},  # too small to be kept
    }
    withdraw(workspace, {"a": "0000"})
    download("sa1b", make_params(SETTINGS), workspace)
    assert told() == (1, 1)


def test_metrics_tell_of_no_profiles_where_there_are_none(
    shelf: Shelf, workspace: Workspace, make_params: MakeParams
) -> None:
    download("sa1b", make_params(SETTINGS), workspace)
    found = read_json(workspace.metrics("download", "sa1b"))
    assert (found["profiles_converted"], found["profiles_broken"]) == (0, 0)
