"""The shard step on latents made up here: columns, order, takedown, compression, kills, and other readers."""

import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import REPO, tree_bytes
from microdiff.artifacts.manifest import FileRecord, read_manifest, write_manifest
from microdiff.artifacts.mds_index import read_index
from microdiff.artifacts.mds_scan import MdsFile
from microdiff.artifacts.tables import table_writer
from microdiff.core.files import digest_file, read_json
from microdiff.encode.merge import SCHEMA
from microdiff.errors import SchemaError, StepError
from microdiff.pipeline.params import Params
from microdiff.pipeline.store_record import StoreRecord
from microdiff.pipeline.workspace import Workspace
from microdiff.shard import writer
from microdiff.shard.sample_index import record_type
from microdiff.shard.step import shard
from tests.latents_factory import SHAPES, Samples, make_sample, write_artifact
from tests.waiting import run_python

MakeParams = Callable[..., Params]

SMALL = {"shard.shard_bytes": 65536}


def read_all(folder: Path) -> Samples:
    """Read a shard set without streaming, values by the index's encodings."""
    found: Samples = {}
    for entry in read_index(folder / "index.json"):
        for values in MdsFile(folder, entry):
            sample = {name: _decode(bytes(values[name]), entry.header.encodings[name]) for name in values}
            assert sample["key"] not in found
            found[sample["key"]] = sample
    return found


def _decode(value: bytes, encoding: str) -> Any:
    if encoding == "str":
        return value.decode()
    if encoding == "int32":
        return int.from_bytes(value, "little", signed=True)
    _, dtype, shape = encoding.split(":")
    return np.frombuffer(value, dtype).reshape([int(side) for side in shape.split(",")])


def assert_equal(found: Samples, expected: Samples) -> None:
    assert found.keys() == expected.keys()
    for key, sample in expected.items():
        assert found[key].keys() == sample.keys()
        for name, value in sample.items():
            assert np.array_equal(found[key][name], value), (key, name)


def shard_files(workspace: Workspace) -> dict[str, bytes]:
    files = tree_bytes(workspace.artifact("coco", "shards"))
    return {name: data for name, data in files.items() if ".mds" in name}


@pytest.fixture(scope="module", autouse=True)
def _lock_files_go_with_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("t")))
        yield


PARTITIONS = {"0000": list(range(40)), "0001": [], "0002": list(range(50, 75))}


@pytest.mark.parametrize("order", ["shuffled", "source"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_shards_hold_every_sample_as_it_was_encoded(
    workspace: Workspace, make_params: MakeParams, order: str, compression: str
) -> None:
    samples = write_artifact(workspace.root, PARTITIONS)
    shard("coco", make_params({**SMALL, "shard.order": order, "shard.compression": compression}), workspace)
    folder = workspace.artifact("coco", "shards")
    found = read_all(folder)
    assert_equal(found, samples)
    large = {key: sample for key, sample in samples.items() if "latents_512" in sample}
    assert_equal(read_all(folder / "512"), large)
    assert_equal(read_all(folder / "256"), {key: samples[key] for key in samples.keys() - large.keys()})
    entries = read_index(folder / "index.json")
    assert all(entry.raw.num_bytes <= 65536 for entry in entries)
    assert len(entries) > 10
    suffix = ".mds" if compression == "none" else ".mds.zstd"
    assert all(name.endswith(suffix) for name in shard_files(workspace))
    for group in ("512", "256"):
        keys = [key for key in found if (key in large) == (group == "512")]
        assert (keys == sorted(keys)) == (order == "source")


def test_index_and_manifest_tell_the_hash_of_every_shard(workspace: Workspace, make_params: MakeParams) -> None:
    write_artifact(workspace.root, PARTITIONS)
    for compression in ("none", "zstd"):
        shard("coco", make_params({**SMALL, "shard.compression": compression}), workspace)
        folder = workspace.artifact("coco", "shards")
        manifest = read_manifest(folder)
        stated = manifest.files
        indexed = {entry.stored.name: entry.stored for entry in read_index(folder / "index.json")}
        assert stated.keys() == indexed.keys() == shard_files(workspace).keys()
        for name, file in stated.items():
            assert digest_file(folder / name) == file.sha256 == indexed[name].hashes["sha256"]
            assert (folder / name).stat().st_size == file.num_bytes == indexed[name].num_bytes
    assert manifest.facts["columns"]["512"]["latents_512"] == "ndarray:float16:4,64,64"
    assert manifest.facts["columns"]["256"]["caption_latents_t5"] == "ndarray:uint16:5,4"
    assert {"encoders", "lineage", "settings", "code", "listings"} <= manifest.facts.keys()


def test_moments_and_one_group(workspace: Workspace, make_params: MakeParams) -> None:
    columns = {"caption_latents": ("float32", (3, 8)), "moments_256": ("float32", (8, 32, 32))}
    samples = write_artifact(workspace.root, PARTITIONS, columns)
    shard("coco", make_params({**SMALL, "shard.shard_bytes": 2**20}), workspace)
    assert_equal(read_all(workspace.artifact("coco", "shards")), samples)
    assert sorted(path.name for path in workspace.artifact("coco", "shards").iterdir()) == [
        "256",
        "index.json",
        "manifest.json",
    ]


@pytest.mark.parametrize("order", ["shuffled", "source"])
def test_takedown_rewrites_the_shards_concerned_only(workspace: Workspace, make_params: MakeParams, order: str) -> None:
    params = make_params({**SMALL, "shard.order": order})
    write_artifact(workspace.root, {"0000": list(range(200)), "0001": list(range(200, 400))})
    shard("coco", params, workspace)
    before = shard_files(workspace)
    rest = [number for number in range(200, 400) if number != 290]
    samples = write_artifact(workspace.root, {"0000": list(range(200)), "0001": rest})
    shard("coco", params, workspace)
    after = shard_files(workspace)
    rewritten = {name for name, data in after.items() if before.get(name) != data}
    assert len(after) > 60
    assert len(rewritten) <= 3
    assert read_json(workspace.run_facts("shard", "coco"))["partitions_computed"] == len(rewritten) + 1  # a listing
    assert_equal(read_all(workspace.artifact("coco", "shards")), samples)


def test_a_changed_value_rewrites_its_shard_only(workspace: Workspace, make_params: MakeParams) -> None:
    write_artifact(workspace.root, PARTITIONS)
    shard("coco", make_params(SMALL), workspace)
    before = shard_files(workspace)

    def changed(number: int, columns: Mapping[str, Any]) -> dict[str, Any]:
        return make_sample(number, columns) | ({"height": 1} if number == 7 else {})

    samples = write_artifact(workspace.root, PARTITIONS, make=changed)
    shard("coco", make_params(SMALL), workspace)
    after = shard_files(workspace)
    assert after.keys() == before.keys()
    assert sum(after[name] != before[name] for name in after) == 1
    assert_equal(read_all(workspace.artifact("coco", "shards")), samples)


def test_partition_names_decide_nothing(workspace: Workspace, make_params: MakeParams) -> None:
    params = make_params(SMALL)
    write_artifact(workspace.root, {"0000": list(range(30)), "0001": list(range(30, 60))})
    shard("coco", params, workspace)
    before = shard_files(workspace)
    write_artifact(workspace.root, {"a": list(range(45)), "b": list(range(45, 60))})
    shard("coco", params, workspace)
    assert shard_files(workspace) == before


def rewrite_manifest(folder: Path, value: dict[str, Any]) -> None:
    write_manifest(folder, {name: each for name, each in value.items() if name != "digest"})


def test_partitions_of_other_shapes_are_refused(workspace: Workspace, make_params: MakeParams) -> None:
    write_artifact(workspace.root, {"0000": [1, 2]})
    folder = workspace.artifact("coco", "latents")
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("0000")}
    manifest = read_json(folder / "manifest.json")
    write_artifact(workspace.root, {"0001": [4, 5]}, {**SHAPES, "latents_256": ("float16", (8, 32, 32))})
    for name, data in kept.items():
        (folder / name).write_bytes(data)
    joined = read_json(folder / "manifest.json")
    joined["partitions"] |= manifest["partitions"]
    joined["counts"] = {"in": 4, "kept": 4}
    rewrite_manifest(folder, joined)
    with pytest.raises(StepError, match=r"partition 0001 has .* at 256 px, others"):
        shard("coco", make_params(SMALL), workspace)


def test_a_sample_without_latents_is_named(workspace: Workspace, make_params: MakeParams) -> None:
    write_artifact(workspace.root, {"0000": [1, 2]})
    folder = workspace.artifact("coco", "latents")
    manifest = read_json(folder / "manifest.json")
    (folder / "0000.text_t5.safetensors").unlink()
    del manifest["partitions"]["0000"]["files"]["0000.text_t5.safetensors"]
    table = folder / "0000.parquet"
    with table_writer(table, SCHEMA) as add_row:
        for key, image_key in (("k0001", "image of k0001"), ("k0002", "nobody")):
            add_row({"key": key, "status": "kept", "caption": "", "image_key": image_key, "width": 1, "height": 1})
    manifest["partitions"]["0000"]["files"]["0000.parquet"] = {
        "bytes": table.stat().st_size,
        "sha256": digest_file(table),
    }
    rewrite_manifest(folder, manifest)
    with pytest.raises(StepError, match="sample k0002 of partition 0000 has"):
        shard("coco", make_params(SMALL), workspace)


def test_few_open_files_are_enough(workspace: Workspace, make_params: MakeParams, monkeypatch: Any) -> None:
    from functools import lru_cache

    samples = write_artifact(workspace.root, {f"{number:04d}": [number] for number in range(30)})
    opened = lru_cache(1)(writer._Partition)
    monkeypatch.setattr(writer, "_open_partitions", lambda: opened)
    shard("coco", make_params({"shard.shard_bytes": 2**20}), workspace)
    assert_equal(read_all(workspace.artifact("coco", "shards")), samples)


@pytest.mark.parametrize("buffer_bytes", [1, 100_000])  # less than a sample takes; a few samples
def test_the_buffer_is_used_again_only_when_it_is_written(
    workspace: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int
) -> None:
    samples = write_artifact(workspace.root, {"0000": list(range(10)), "0001": list(range(10, 20))})
    monkeypatch.setattr(writer, "_BUFFER_BYTES", buffer_bytes)
    shard("coco", make_params({"shard.shard_bytes": 2**20}), workspace)
    assert_equal(read_all(workspace.artifact("coco", "shards")), samples)


def test_latents_cut_short_after_they_were_indexed_are_named(
    workspace: Workspace, make_params: MakeParams, caplog: pytest.LogCaptureFixture
) -> None:
    write_artifact(workspace.root, {"0000": [1, 2]})
    shard("coco", make_params(SMALL), workspace)
    file = workspace.artifact("coco", "latents") / "0000.image.safetensors"
    os.truncate(file, file.stat().st_size - 8000)
    manifest = read_json(file.with_name("manifest.json"))
    manifest["partitions"]["0000"]["files"][file.name]["bytes"] -= 8000  # as if it happened since that was looked at
    rewrite_manifest(file.parent, manifest)
    writer._open_partitions.cache_clear()  # as in another process
    other = {"shard.shard_bytes": 2**20, "shard.seed": 5, "shard.compression": "zstd"}
    with pytest.raises(StepError, match=r"0000\.image\.safetensors is damaged and cannot be computed again"):
        shard("coco", make_params(other), workspace)
    assert re.search(r"0000\.image\.safetensors, sample k000[12]: damaged: expected sha256 ", caplog.text)


OTHER = {"shard.shard_bytes": 65536, "shard.seed": 5}


def flip(file: Path, at: int = -1) -> str:
    """Change a bit in place, and return the file's digest before that."""
    digest, data = digest_file(file), bytearray(file.read_bytes())
    data[at] ^= 1
    with file.open("r+b") as opened:
        opened.write(data)
    return digest


@pytest.mark.parametrize("kind", ["image", "text", "text_t5"])
def test_a_bit_that_changed_after_indexing_names_file_and_sample(
    workspace: Workspace, make_params: MakeParams, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    write_artifact(workspace.root, PARTITIONS)
    shard("coco", make_params(SMALL), workspace)
    published = shard_files(workspace)
    file = workspace.artifact("coco", "latents") / f"0002.{kind}.safetensors"
    digest = flip(file)  # in the last row of the last tensor, which is the first sample's: rows are written in reverse
    with pytest.raises(StepError, match=rf"0002\.{kind}\.safetensors is damaged and cannot be computed again"):
        shard("coco", make_params(OTHER), workspace)
    sample = "k0051" if kind == "image" else "k0050"  # the first one with latents for 512 px, and the first one
    found = digest_file(file)[:12] if file.exists() else "[0-9a-f]{12}"
    line = rf"0002\.{kind}\.safetensors, sample {sample}: damaged: expected sha256 {digest[:12]}\.\.\., found {found}"
    assert re.search(line, caplog.text)
    assert shard_files(workspace) == published


def test_a_file_that_was_mended_is_read_though_the_damaged_one_is_still_open(
    workspace: Workspace, make_params: MakeParams, caplog: pytest.LogCaptureFixture
) -> None:
    samples = write_artifact(workspace.root, PARTITIONS)
    shard("coco", make_params(SMALL), workspace)
    file = workspace.artifact("coco", "latents") / "0002.image.safetensors"
    whole = file.read_bytes()
    flip(file)  # the file that this process holds open
    file.unlink()
    file.write_bytes(whole)
    shard("coco", make_params(OTHER), workspace)
    assert_equal(read_all(workspace.artifact("coco", "shards")), samples)
    assert caplog.messages == []


def other_shape(index: Path) -> None:
    text = (index / "listing.json").read_text()
    (index / "listing.json").write_text(text.replace("ndarray:float16:4,64,64", "ndarray:float16:4,46,46"))


def other_row_bytes(index: Path) -> None:
    text = (index / "listing.json").read_text()
    (index / "listing.json").write_text(text.replace('"row_bytes": 32768', '"row_bytes": 32767'))


def column_gone(index: Path) -> None:
    text = (index / "listing.json").read_text()
    (index / "listing.json").write_text(text.replace('"latents_512"', '"latents_521"'))


def sample_without_latents(index: Path) -> None:
    records = np.fromfile(index / "records", record_type(len(SHAPES)))
    records["rows"][1][sorted(SHAPES).index("latents_256")] = -1
    records.tofile(index / "records")


def sample_of_other_size(index: Path, change: int = 1) -> None:
    records = np.fromfile(index / "records", record_type(len(SHAPES)))
    records["size"][0] = int(records["size"][0]) + change
    records.tofile(index / "records")


def record_as_it_is(index: Path) -> None:
    """Have a folder's record state the files that it holds: damage that a wrong program made, and no disk."""
    record = StoreRecord.read(index)
    files = {name: FileRecord((index / name).stat().st_size, digest_file(index / name)) for name in record.files}
    replace(record, files=files).write(index)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_shape, "expected latents_512 as ndarray:float16:4,64,64 of 32768 bytes, got ndarray:float16:4,46,46 of"),
        (other_row_bytes, "expected latents_512 as .* of 32768 bytes, got .* of 32767 bytes"),
        (column_gone, "expected latents_512 as .*, got no such column"),
        (sample_without_latents, "record 1: it has no latents_256"),
        (sample_of_other_size, r"record 0: its values take \d+ bytes, expected"),
        (partial(sample_of_other_size, change=-1), r"record 0: its values take \d+ bytes, expected"),
    ],
)
def test_what_a_shard_would_state_wrongly_is_refused(
    workspace: Workspace, make_params: MakeParams, damage: Callable[[Path], None], message: str
) -> None:
    write_artifact(workspace.root, {"0000": [3, 6, 9]})  # all have both resolutions
    shard("coco", make_params({"shard.shard_bytes": 2**20}), workspace)
    (listing,) = (workspace.root / ".work" / "shard-list").glob("*/listing.json")
    damage(listing.parent)
    record_as_it_is(listing.parent)
    writer._open_partitions.cache_clear()  # as in another process
    with pytest.raises(StepError, match=message):
        shard(
            "coco", make_params({"shard.shard_bytes": 2**20, "shard.seed": 5, "shard.compression": "zstd"}), workspace
        )


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_plain_streaming_reads_them(workspace: Workspace, make_params: MakeParams, compression: str) -> None:
    from streaming import StreamingDataset

    samples = write_artifact(workspace.root, PARTITIONS)
    shard("coco", make_params({**SMALL, "shard.compression": compression}), workspace)
    dataset = StreamingDataset(
        local=str(workspace.artifact("coco", "shards")), batch_size=1, shuffle=False, validate_hash="sha256"
    )
    assert_equal({dataset[number]["key"]: dataset[number] for number in range(len(dataset))}, samples)


KILLED = """
import os, signal, sys
from pathlib import Path
from microdiff.pipeline import publish, store
from microdiff.commands.cli import run_stage
from microdiff.shard import writer
from microdiff.shard.sample_index import record_type
from microdiff.shard.step import shard
from tests.latents_factory import SHAPES, Samples, make_sample, write_artifact
module, name = sys.argv[1].split(":")
target = {"store": store, "publish": publish}[module]
original, calls = getattr(target, name), int(sys.argv[2])
def dying(*args, **options):
    global calls
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **options)
setattr(target, name, dying)
run_stage(shard, "coco", Path(sys.argv[3]), Path(sys.argv[4]))
"""


@pytest.mark.parametrize(
    ("moment", "calls"),
    [
        ("store:sync", 1),  # before anything is finished
        ("store:digest_file", 2),  # while partitions are listed
        ("publish:link_or_copy", 1),  # all shards finished, none published
        ("publish:link_or_copy", 5),  # some linked
        ("publish:write_json", 1),  # all linked, no index
        ("publish:write_json", 3),  # indexes, no manifest
        ("publish:replace_folder", 1),  # everything but the name
    ],
)
def test_a_killed_writer_leaves_nothing_that_opens(
    workspace: Workspace, make_params: MakeParams, tmp_path: Path, moment: str, calls: int
) -> None:
    write_artifact(workspace.root, {"0000": list(range(30))})
    make_params(SMALL, tmp_path / "params.yaml")
    arguments = [moment, str(calls), str(tmp_path / "params.yaml"), str(workspace.root)]
    ended = run_python("-c", KILLED, *arguments, cwd=REPO)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    folder = workspace.artifact("coco", "shards")
    assert not folder.exists()
    with pytest.raises(SchemaError, match="is missing"):
        read_index(folder / "index.json")
    shard("coco", make_params(SMALL, tmp_path / "params.yaml"), workspace)
    assert len(read_all(folder)) == 30
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]
