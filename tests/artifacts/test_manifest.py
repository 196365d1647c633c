"""A manifest's records: read as they were written, and refused in words where they are not records."""

import json
from pathlib import Path
from typing import Any

import pytest

from microdiff.artifacts.manifest import (
    MANIFEST,
    FileRecord,
    PartitionRecord,
    PartRecord,
    is_whole,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from microdiff.errors import SchemaError

FILES = {"0000.tar": FileRecord(3, "a" * 64), "sub/0000.parquet": FileRecord(4, "b" * 64)}
PARTS = (
    PartRecord("encode-join", "1" * 32, {"in": 5, "kept": 4, "nsfw": 1}, {"stats": [1]}, ("sub/0000.parquet",)),
    PartRecord("encode-image", "2" * 32, {"in": 5, "kept": 5}, {}, ("0000.tar",)),
)
RECORD = PartitionRecord(("1" * 32, "2" * 32), {"in": 5, "kept": 4, "nsfw": 1}, FILES, PARTS)


def document() -> dict[str, Any]:
    return {
        "step": "encode",
        "format": 1,
        "source_records": 9,
        "counts": {"in": 5, "kept": 4, "nsfw": 1},
        "partitions": {"0000": RECORD.to_json()},
        "extra": {"encoders.json": "c" * 64},
        "withdrawn": 2,
    }


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, document())
    manifest = parse_manifest(tmp_path)
    assert manifest.partitions == {"0000": RECORD}
    assert json.loads((tmp_path / MANIFEST).read_text())["partitions"] == {"0000": RECORD.to_json()}
    assert is_whole(tmp_path)
    assert (manifest.source_records, manifest.withdrawn) == (9, 2)
    assert (manifest.files, manifest.kept(), RECORD.num_bytes) == (FILES, {"0000": 4}, 7)
    assert manifest.digests("0000", ".tar") == {"0000.tar": "a" * 64}
    assert manifest.extra == {"encoders.json": "c" * 64}
    assert manifest.facts == {"step": "encode", "withdrawn": 2}


def test_a_partition_without_parts_and_a_manifest_without_extra_files_are_read(tmp_path: Path) -> None:
    value = document()
    del value["extra"], value["partitions"]["0000"]["parts"]
    write_manifest(tmp_path, value)
    manifest = parse_manifest(tmp_path)
    assert (manifest.partitions["0000"].parts, manifest.extra) == ((), {})


def test_files_must_be_there_with_their_sizes(tmp_path: Path) -> None:
    write_manifest(tmp_path, document())
    (tmp_path / "sub").mkdir()
    (tmp_path / "0000.tar").write_bytes(b"abc")
    with pytest.raises(SchemaError, match=r"sub/0000\.parquet: expected 4 bytes, it is missing"):
        read_manifest(tmp_path)
    (tmp_path / "sub/0000.parquet").write_bytes(b"abc")
    with pytest.raises(SchemaError, match=r"sub/0000\.parquet: expected 4 bytes, it has 3"):
        read_manifest(tmp_path)
    (tmp_path / "sub/0000.parquet").write_bytes(b"abcd")
    assert read_manifest(tmp_path).files == FILES


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (["partitions"], [], "not a manifest"),
        (["partitions", "0000"], [], "expected a partition, got"),
        (["partitions", "0000", "fingerprints"], "1" * 32, "expected a partition, got"),
        (["partitions", "0000", "counts"], [], "expected counts in, kept and by reason, got"),
        (["partitions", "0000", "counts"], {"in": 5}, "expected counts in, kept and by reason, got"),
        (["partitions", "0000", "counts", "nsfw"], "1", "expected counts in, kept and by reason, got"),
        (["partitions", "0000", "files"], ["0000.tar"], "expected files by name, got"),
        (["partitions", "0000", "files", "0000.tar"], 3, "expected bytes and sha256 of a file, got 3"),
        (["partitions", "0000", "files", "0000.tar", "bytes"], "3", "expected bytes and sha256 of a file"),
        (["partitions", "0000", "files", "0000.tar", "sha256"], None, "expected bytes and sha256 of a file"),
        (["partitions", "0000", "parts"], 3, "not a manifest"),
        (["partitions", "0000", "parts", 0], "part", "expected a part of a partition, got 'part'"),
        (["partitions", "0000", "parts", 0, "step"], None, "expected a part of a partition"),
        (["partitions", "0000", "parts", 0, "facts"], [], "expected a part of a partition"),
        (["partitions", "0000", "parts", 0, "counts"], {}, "expected counts"),
        (["partitions", "0000", "parts", 1, "files"], "0000.tar", "expected a part of a partition"),
        (["counts"], None, "expected counts"),
        (["source_records"], "many", "not a manifest"),
        (["extra"], 3, "not a manifest"),
        (["format"], 2, "format 2, this version reads format 1"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, where: list[Any], value: object, message: str) -> None:
    whole = document()
    part: Any = whole
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = value
    write_manifest(tmp_path, whole)
    with pytest.raises(SchemaError, match=message):
        parse_manifest(tmp_path)


@pytest.mark.parametrize("name", ["format", "source_records", "counts", "partitions"])
def test_a_manifest_without_one_of_its_parts_is_refused(tmp_path: Path, name: str) -> None:
    value = document()
    del value[name]
    write_manifest(tmp_path, value)
    with pytest.raises(SchemaError, match="not a manifest"):
        parse_manifest(tmp_path)
