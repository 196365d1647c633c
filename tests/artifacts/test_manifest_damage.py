"""A manifest: damaged, of another format, or of files that are not there is never taken for a whole one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from microdiff.artifacts.manifest import is_whole, parse_manifest, read_manifest, write_manifest
from microdiff.core.files import write_json
from microdiff.errors import SchemaError


def artifact(folder: Path, **changes: Any) -> Path:
    (folder / "512").mkdir(parents=True)
    partitions = {}
    for number, name in enumerate(("0000", "0001")):
        (folder / f"{name}.tar").write_bytes(b"x" * (5 + number))
        (folder / f"512/{name}.mds").write_bytes(b"y" * (7 + number))
        files = {
            f"{name}.tar": {"bytes": 5 + number, "sha256": f"tar {name}"},
            f"512/{name}.mds": {"bytes": 7 + number, "sha256": f"mds {name}"},
        }
        counts = {"in": 9, "kept": 4 + number, "nsfw": 5 - number}
        partitions[name] = {"fingerprints": [f"f{name}"], "counts": counts, "files": files}
    value = {
        "format": 1,
        "step": "shard",
        "withdrawn": 3,
        "source_records": 20,
        "counts": {"in": 18, "kept": 9, "nsfw": 9},
        "partitions": partitions,
        "extra": {"index.json": "sha"},
    }
    write_manifest(folder, {**value, **changes})
    return folder


def test_what_a_manifest_says(tmp_path: Path) -> None:
    manifest = read_manifest(artifact(tmp_path / "shards"))
    assert (manifest.source_records, manifest.withdrawn) == (20, 3)
    assert manifest.counts == {"in": 18, "kept": 9, "nsfw": 9}
    assert manifest.kept() == {"0000": 4, "0001": 5}
    assert manifest.digests("0001", ".tar") == {"0001.tar": "tar 0001"}
    assert manifest.digests("0001", ".mds", ".tar") == {"512/0001.mds": "mds 0001", "0001.tar": "tar 0001"}
    assert list(manifest.digests("0001", "")) == ["0001.tar", "512/0001.mds"]
    assert manifest.facts == {"step": "shard", "withdrawn": 3}
    assert manifest.extra == {"index.json": "sha"}


@pytest.mark.parametrize("file", ["0000.tar", "512/0001.mds"])
@pytest.mark.parametrize("change", ["shorter", "longer", "missing", "a folder"])
def test_files_of_another_size_are_named(tmp_path: Path, file: str, change: str) -> None:
    folder = artifact(tmp_path / "shards")
    path = folder / file
    data = path.read_bytes()
    path.unlink()
    if change == "a folder":
        path.mkdir()
    elif change != "missing":
        path.write_bytes(data[:-1] if change == "shorter" else data + b"x")
    with pytest.raises(SchemaError, match=f"{file}: expected {len(data)} bytes") as error:
        read_manifest(folder)
    found = {"shorter": f"it has {len(data) - 1}", "longer": f"it has {len(data) + 1}"}
    assert found.get(change, "it is missing") in str(error.value)
    assert parse_manifest(folder).source_records == 20  # whatever its files are


@pytest.mark.parametrize("number", [0, 2, "1"])
def test_another_format_is_refused(tmp_path: Path, number: object) -> None:
    with pytest.raises(SchemaError, match=f"format {number}, this version reads format 1"):
        read_manifest(artifact(tmp_path / "shards", format=number))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\xff"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    folder = artifact(tmp_path / "shards")
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SchemaError, match="not a manifest"):
        parse_manifest(folder)
    with pytest.raises(SchemaError, match=r"no manifest\.json there"):
        parse_manifest(tmp_path / "none")


def changed_value(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "source_records": 21}


def other_digest(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "digest": "0" * 64}


def without_digest(value: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name != "digest"}


@pytest.mark.parametrize("change", [changed_value, other_digest, without_digest])
def test_a_manifest_with_other_values_is_not_whole(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    folder = artifact(tmp_path / "shards")
    assert is_whole(folder)
    path = folder / "manifest.json"
    write_json(path, change(json.loads(path.read_text())))
    assert not is_whole(folder)


def test_a_manifest_that_says_the_same_in_other_bytes_is_not_whole(tmp_path: Path) -> None:
    """It would have another md5 than the one that DVC recorded."""
    folder = artifact(tmp_path / "shards")
    path = folder / "manifest.json"
    text = path.read_text()
    for other in (text + "\n", text.replace('"extra": {', '"extra":  {'), json.dumps(json.loads(text))):
        path.write_text(other)
        assert not is_whole(folder)
    path.write_text(text)
    assert is_whole(folder)
