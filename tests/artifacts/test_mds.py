"""Our shards against streaming's own writer and reader, and what the writer refuses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import tree_bytes
from microdiff.artifacts import mds
from microdiff.artifacts.mds import (
    ZSTD,
    empty_bytes,
    index_document,
    nest_entry,
    read_index,
    read_sample,
    write_encoded,
    write_shard,
)
from microdiff.core.files import write_json
from microdiff.errors import SchemaError
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


def write(path: Path, samples: list[dict[str, Any]], compression: str | None = None) -> dict[str, Any]:
    return write_shard(path, COLUMNS, samples, len(samples), compression)


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
    assert [path.name for path in (tmp_path / "ours").iterdir()] == [
        (entry["zip_data"] or entry["raw_data"])["basename"]
    ]


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
        nested.append(nest_entry(entry, name))
        assert entry["raw_data"]["basename"] == "shard.00000.mds"
    merge_index([str(tmp_path / name / "index.json") for name in groups], str(tmp_path))
    assert read_index(tmp_path / "index.json") == nested


@pytest.mark.parametrize("compression", [None, ZSTD])
def test_read_sample_gives_each_value_as_stored(tmp_path: Path, compression: str | None) -> None:
    samples = make_samples()
    entry = write(tmp_path / "shard.mds", samples, compression)
    for number, sample in enumerate(samples):
        values = read_sample(tmp_path, entry, number)
        assert values["caption"].decode() == sample["caption"]
        assert values["latents"] == sample["latents"].tobytes()
        assert np.frombuffer(values["height"], np.int32)[0] == sample["height"]
        assert values.keys() == COLUMNS.keys()


def test_a_damaged_compressed_shard_is_named(tmp_path: Path) -> None:
    entry = write(tmp_path / "shard.mds", make_samples(), ZSTD)
    path = tmp_path / "shard.mds.zstd"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SchemaError, match=r"shard\.mds\.zstd: not a whole zstd file"):
        read_sample(tmp_path, entry, 0)


def test_one_buffer_carries_all_samples(tmp_path: Path) -> None:
    write_shard(tmp_path / "whole.mds", {"a": "int32"}, [{"a": 1}, {"a": 2}, {"a": 3}], 3)
    buffer = bytearray(4)

    def pieces() -> Iterator[bytearray]:
        for number in (1, 2, 3):
            buffer[:] = number.to_bytes(4, "little")
            yield buffer

    write_encoded(tmp_path / "pieces.mds", {"a": "int32"}, [4, 4, 4], pieces())
    assert (tmp_path / "pieces.mds").read_bytes() == (tmp_path / "whole.mds").read_bytes()
    with pytest.raises(SchemaError, match="bytes of samples and header, got"):
        write_encoded(tmp_path / "short.mds", {"a": "int32"}, [4, 4, 5], pieces())
    assert not (tmp_path / "short.mds").exists()


def test_size_before_samples_is_what_a_shard_has(tmp_path: Path) -> None:
    for compression in (None, ZSTD):
        entry = write_shard(tmp_path / "a.mds", {"a": "int32"}, [{"a": 1}, {"a": 2}], 2, compression)
        assert entry["raw_data"]["bytes"] == empty_bytes({"a": "int32"}, compression) + 2 * (4 + 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": b"bytes"}, "sample 1: column 'caption': expected str, got bytes"),
        ({"caption": "\ud800"}, "column 'caption': expected UTF-8 text"),
        ({"width": 2**31}, "column 'width': expected int32, got int 2147483648"),
        ({"width": 1.0}, "column 'width': expected int32, got float"),
        ({"width": True}, "column 'width': expected int32, got bool"),
        ({"width": np.int64(1)}, "column 'width': expected int32, got int64"),
        ({"latents": np.zeros((4, 3, 2), np.float32)}, "float16:4,3,2, got float32 array of shape 4,3,2"),
        ({"latents": np.zeros((3, 4, 2), np.float16)}, "float16:4,3,2, got float16 array of shape 3,4,2"),
        ({"latents": np.zeros((4, 3, 2), ">f2")}, "float16:4,3,2, got >f2 array"),
        ({"latents": np.zeros((4, 3, 2), np.float16).tobytes()}, "float16:4,3,2, got bytes"),
        ({"latents": None}, "float16:4,3,2, got NoneType"),
        ({"licence": "CC0"}, r"\[\] missing and \['licence'\] extra"),
        ({"key": ...}, r"\['key'\] missing and \[\] extra"),
    ],
)
def test_sample_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    samples = make_samples()
    samples[1] = {name: value for name, value in (samples[1] | change).items() if value is not ...}
    with pytest.raises(SchemaError, match=message):
        write(tmp_path / "shard.mds", samples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("stated", "message"), [(3, "expected 3 samples, got more"), (5, "5 samples, got 4")])
def test_wrong_number_of_samples_is_refused(tmp_path: Path, stated: int, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        write_shard(tmp_path / "shard.mds", COLUMNS, make_samples(), stated)
    assert list(tmp_path.iterdir()) == []


def test_empty_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="expected 1 samples, got 0"):
        write(tmp_path / "shard.mds", [])


def test_shard_too_large_for_its_offsets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = write(tmp_path / "shard.mds", make_samples())["raw_data"]["bytes"]
    monkeypatch.setattr(mds, "MAX_BYTES", {None: size})
    write(tmp_path / "exact.mds", make_samples())
    monkeypatch.setattr(mds, "MAX_BYTES", {None: size - 1})
    with pytest.raises(SchemaError, match="exceeded at sample 3 of 4"):
        write(tmp_path / "large.mds", make_samples())


def test_failed_writer_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "shard.mds"
    write(path, make_samples())
    before = path.read_bytes()

    def failing() -> Iterator[dict[str, Any]]:
        yield make_samples()[0]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_shard(path, COLUMNS, failing(), 2)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "encoding",
    ["bytes", "pkl", "ndarray", "ndarray:float16", "ndarray:float16:0,2", "ndarray:bfloat16:2", "int"],
)
def test_column_without_a_fixed_type_is_refused(encoding: str) -> None:
    with pytest.raises(SchemaError, match=f"column 'x': expected encoding .* got '{encoding}'"):
        mds.Column.parse("x", encoding)


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


def test_index_entry_must_describe_all_its_columns(tmp_path: Path) -> None:
    entry = write(tmp_path / "shard.mds", make_samples())
    write_json(tmp_path / "index.json", index_document([entry | {"column_sizes": [4]}]))
    with pytest.raises(SchemaError, match="expected shard 0 to be an MDS entry"):
        read_index(tmp_path / "index.json")


def test_importing_the_package_and_the_writer_is_cheap() -> None:
    code = (
        "import sys, microdiff, microdiff.artifacts.mds, microdiff.loader.shard_set, microdiff.loader.build; "
        "sys.exit(' '.join(sys.modules.keys() & {'torch', 'streaming', 'transformers', 'bs4'}))"
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
