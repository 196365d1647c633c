"""Our shards against streaming's own writer and reader, and what the writer refuses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import tree_bytes
from microdiff.artifacts import mds
from microdiff.artifacts.mds import ZSTD, empty_bytes, write_encoded
from microdiff.artifacts.mds_header import Column
from microdiff.artifacts.mds_index import ShardEntry, index_document, read_index
from microdiff.artifacts.mds_scan import MdsFile
from microdiff.core.files import canonical_json, write_json
from microdiff.errors import SchemaError
from tests.mds_factory import write_shard
from tests.waiting import run_python

COLUMNS = {
    "key": "str",
    "caption": "str",
    "width": "int32",
    "height": "int32",
    "latents": "ndarray:float16:4,3,2",
    "ids": "ndarray:uint16:5",
}
CAPTIONS = ["a dog", "", "Füchse 狐 🦊", "line\nbreak"]


def make_samples() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [
        {
            "key": f"{number:03}",
            "caption": caption,
            "width": 512 + number,
            "height": -number,
            "latents": rng.normal(size=(4, 3, 2)).astype(np.float16),
            "ids": rng.integers(0, 2**16, 5, dtype=np.uint16),
        }
        for number, caption in enumerate(CAPTIONS)
    ]


def write(path: Path, samples: list[dict[str, Any]], compression: str | None = None) -> ShardEntry:
    return write_shard(path, COLUMNS, samples, compression)


def write_with_streaming(folder: Path, samples: list[dict[str, Any]], compression: str | None) -> dict[str, Any]:
    from streaming import MDSWriter

    options = {"hashes": ["sha256"], "size_limit": None, "compression": compression}
    with MDSWriter(out=str(folder), columns=COLUMNS, **options) as writer:
        for sample in samples:
            writer.write(sample)
    index: dict[str, Any] = json.loads((folder / "index.json").read_text())
    return index


@pytest.mark.parametrize("compression", [None, ZSTD])
def test_a_shard_is_the_bytes_streaming_writes_and_the_index_its_entry(tmp_path: Path, compression: str | None) -> None:
    samples = make_samples() * 500  # enough for several blocks of a zstd frame
    index = write_with_streaming(tmp_path / "theirs", samples, compression)
    (tmp_path / "ours").mkdir()
    entry = write(tmp_path / "ours" / "shard.00000.mds", samples, compression)
    assert index_document([entry]) == index
    assert tree_bytes(tmp_path / "ours").items() <= tree_bytes(tmp_path / "theirs").items()
    assert [path.name for path in (tmp_path / "ours").iterdir()] == [entry.stored.name]
    assert [read.to_json() for read in read_index(tmp_path / "theirs" / "index.json")] == index["shards"]


@pytest.mark.parametrize("compression", [None, ZSTD])
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # merge_index never closes them
def test_merged_index_is_what_merge_index_makes(tmp_path: Path, compression: str | None) -> None:
    from streaming.base.util import merge_index

    groups = {"512": make_samples()[:1], "256": make_samples()[1:]}
    nested = []
    for name, samples in groups.items():
        (tmp_path / name).mkdir()
        entry = write(tmp_path / name / "shard.00000.mds", samples, compression)
        write_json(tmp_path / name / "index.json", index_document([entry]))
        nested.append(entry.in_folder(name))
        assert entry.raw.name == "shard.00000.mds"
        assert nested[-1].without_folder() == entry
    merge_index([str(tmp_path / name / "index.json") for name in groups], str(tmp_path))
    assert read_index(tmp_path / "index.json") == nested


@pytest.mark.parametrize("compression", [None, ZSTD])
def test_each_value_is_read_as_stored(tmp_path: Path, compression: str | None) -> None:
    samples = make_samples()
    shard = MdsFile(tmp_path, write(tmp_path / "shard.mds", samples, compression))
    assert shard.num_samples == len(samples)
    assert list(shard) == [shard.sample(number) for number in range(len(samples))]
    for number, sample in enumerate(samples):
        values = shard.sample(number)
        assert str(values["caption"], "utf-8") == sample["caption"]
        assert values["latents"] == sample["latents"].tobytes()
        assert np.frombuffer(values["height"], np.int32)[0] == sample["height"]
        assert values.keys() == COLUMNS.keys()


def test_a_damaged_compressed_shard_is_named(tmp_path: Path) -> None:
    entry = write(tmp_path / "shard.mds", make_samples(), ZSTD)
    path = tmp_path / "shard.mds.zstd"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SchemaError, match=r"shard\.mds\.zstd: not a shard, or damaged"):
        MdsFile(tmp_path, entry)


def test_a_sample_whose_values_do_not_fill_it_is_named(tmp_path: Path) -> None:
    entry = write(tmp_path / "shard.mds", make_samples())
    shard = MdsFile(tmp_path, entry)
    data = bytearray(shard.data)
    position = len(data) - len(shard.data) + data.rindex(b"line\nbreak")
    length = data.rindex((10).to_bytes(4, "little"), 0, position)  # how many bytes that caption has
    data[length] = 9
    (tmp_path / "shard.mds").write_bytes(data)
    damaged = MdsFile(tmp_path, entry)
    assert str(damaged.sample(0)["caption"], "utf-8") == "a dog"
    with pytest.raises(SchemaError, match=r"shard\.mds: sample 3 is damaged"):
        list(damaged)


def test_samples_that_do_not_end_with_the_file_are_refused(tmp_path: Path) -> None:
    entry = write(tmp_path / "shard.mds", make_samples())
    path, data = tmp_path / "shard.mds", (tmp_path / "shard.mds").read_bytes()
    back = data[12:16] + data[8:12]  # where the second and the third sample begin, the other way round
    for damaged in (data + b"!", data[:-1], data[:8] + back + data[16:]):
        path.write_bytes(damaged)
        with pytest.raises(SchemaError, match=r"shard\.mds: damaged: its samples do not end where the file does"):
            MdsFile(tmp_path, entry)


def test_one_buffer_carries_all_samples(tmp_path: Path) -> None:
    write_shard(tmp_path / "whole.mds", {"a": "int32"}, [{"a": 1}, {"a": 2}, {"a": 3}])
    buffer = bytearray(4)

    def pieces() -> Iterator[bytearray]:
        for number in (1, 2, 3):
            buffer[:] = number.to_bytes(4, "little")
            yield buffer

    write_encoded(tmp_path / "pieces.mds", {"a": "int32"}, [4, 4, 4], pieces())
    assert (tmp_path / "pieces.mds").read_bytes() == (tmp_path / "whole.mds").read_bytes()
    for sizes in ([4, 4, 5], [4, 4, 3]):
        with pytest.raises(SchemaError, match="bytes of samples and header, got"):
            write_encoded(tmp_path / "other.mds", {"a": "int32"}, sizes, pieces())
        assert not (tmp_path / "other.mds").exists()


def test_bytes_are_counted_whatever_the_items_of_a_buffer(tmp_path: Path) -> None:
    entry = write_encoded(tmp_path / "a.mds", {"a": "int32"}, [4], [memoryview(np.array([1, 2], "<u2"))])
    assert entry.raw.num_bytes == (tmp_path / "a.mds").stat().st_size
    assert bytes(MdsFile(tmp_path, entry).sample(0)["a"]) == b"\1\0\2\0"


def test_size_before_samples_is_what_a_shard_has(tmp_path: Path) -> None:
    for compression in (None, ZSTD):
        entry = write_shard(tmp_path / "a.mds", {"a": "int32"}, [{"a": 1}, {"a": 2}], compression)
        assert entry.raw.num_bytes == empty_bytes({"a": "int32"}, compression) + 2 * (4 + 4)


def test_shard_too_large_for_its_offsets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = write(tmp_path / "shard.mds", make_samples()).raw.num_bytes
    monkeypatch.setattr(mds, "MAX_BYTES", {None: size})
    write(tmp_path / "exact.mds", make_samples())
    monkeypatch.setattr(mds, "MAX_BYTES", {None: size - 1})
    with pytest.raises(SchemaError, match="exceeded at sample 3 of 4"):
        write(tmp_path / "large.mds", make_samples())


def test_failed_writer_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "shard.mds"
    write(path, make_samples())
    before = path.read_bytes()

    def failing() -> Iterator[bytes]:
        yield b"1234"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_encoded(path, {"a": "int32"}, [4, 4], failing())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "encoding",
    ["bytes", "pkl", "ndarray", "ndarray:float16", "ndarray:float16:0,2", "ndarray:bfloat16:2", "int"],
)
def test_column_without_a_fixed_type_is_refused(encoding: str) -> None:
    with pytest.raises(SchemaError, match=f"column 'x': expected encoding .* got '{encoding}'"):
        Column.parse("x", encoding)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        (b"{", "expected a JSON index"),
        (b"\xff", "expected a JSON index"),
        (b"[]", "index of version 2"),
        (b'{"version": 1, "shards": []}', "index of version 2"),
        (b'{"version": 2}', "expected a list of shards"),
        (
            b'{"version": 2, "shards": [{"version": 2, "format": "json"}]}',
            "expected shard 0 to be an MDS entry",
        ),
    ],
)
def test_unreadable_index_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(SchemaError, match=message):
        read_index(tmp_path / "index.json")


@pytest.mark.parametrize("compression", [None, ZSTD])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"column_sizes": [4]}, r"got columns \('caption', .* with encodings .* and sizes \(4,\)"),
        ({"column_names": "key"}, "got column_names 'key'"),
        ({"column_names": [[]] * 6}, r"got column \[\]"),
        ({"version": 1}, "got version 1 of format 'mds'"),
        ({"format": "json"}, "got version 2 of format 'json'"),
        ({"samples": "4"}, "got samples '4'"),
        ({"samples": None}, "got samples None"),
        ({"samples": True}, "got samples True"),
        ({"raw_data": None}, "got raw_data None"),
        ({"raw_data": {"basename": "a.mds"}}, "got bytes None"),
        ({"raw_data": {"bytes": 1}}, "got basename None"),
        ({"raw_data": {"basename": "a.mds", "bytes": 1, "hashes": ["sha1"]}}, r"got hashes \['sha1'\]"),
        ({"zip_data": {"bytes": 1}}, "got basename None"),
        ({"zip_data": "a.mds.zstd"}, "got zip_data 'a.mds.zstd'"),
        ({"compression": 3}, "got compression 3"),
        ({"size_limit": "1gb"}, "got size_limit '1gb'"),
    ],
)
def test_an_index_entry_with_a_wrong_field_is_refused_by_name(
    tmp_path: Path, compression: str | None, change: dict[str, Any], message: str
) -> None:
    good = write(tmp_path / "shard.mds", make_samples(), compression).to_json()
    write_json(tmp_path / "index.json", {"version": 2, "shards": [good, good | change]})
    with pytest.raises(SchemaError, match=f"expected shard 1 to be an MDS entry, .*{message}"):
        read_index(tmp_path / "index.json")


@pytest.mark.parametrize("absent", ["zip_data", "compression", "hashes", "size_limit"])
def test_an_index_entry_without_what_has_a_default_is_read(tmp_path: Path, absent: str) -> None:
    entry = write(tmp_path / "shard.mds", make_samples()).to_json()
    del entry[absent], entry["raw_data"]["hashes"]
    write_json(tmp_path / "index.json", {"version": 2, "shards": [entry]})
    (read,) = read_index(tmp_path / "index.json")
    assert (read.zipped, read.header.compression, read.raw.hashes) == (None, None, {})


@pytest.mark.parametrize("compression", [None, ZSTD])
def test_what_is_read_is_written_as_it_was(tmp_path: Path, compression: str | None) -> None:
    entries = [write(tmp_path / f"{number}.mds", make_samples(), compression) for number in range(3)]
    write_json(tmp_path / "index.json", index_document(entries))
    read = read_index(tmp_path / "index.json")
    assert read == entries
    assert canonical_json(index_document(read)).encode() == (tmp_path / "index.json").read_bytes()
    assert read[0].header is read[2].header  # one object for all shards
    assert all(MdsFile(tmp_path, entry).header == entry.header for entry in read)


def test_importing_the_package_and_the_writer_is_cheap() -> None:
    code = (
        "import sys, microdiff, microdiff.artifacts.mds, microdiff.loader.shard_set, microdiff.loader.build; "
        "sys.exit(' '.join(sys.modules.keys() & {'torch', 'streaming', 'transformers', 'bs4'}) or 0)"
    )
    finished = run_python("-c", code)
    assert (finished.returncode, finished.stderr.strip()) == (0, "")


def test_public_names_resolve_lazily() -> None:
    import microdiff
    from microdiff.loader.build import build_streaming_latents_dataloader

    assert microdiff.build_streaming_latents_dataloader is build_streaming_latents_dataloader
    assert "clean_caption" in dir(microdiff)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = microdiff.missing
