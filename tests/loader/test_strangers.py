"""Shard sets of strangers: their indexes name no file outside their folder, and nothing outside the cache changes."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import tree_bytes
from microdiff.artifacts.mds import ZSTD
from microdiff.artifacts.mds_index import index_document
from microdiff.core.files import write_json
from microdiff.errors import MicrodiffError
from microdiff.remote.dvc_dir_object import folder_digest
from microdiff.remote.release_file import Release, release_document
from tests.mds_factory import write_shard
from tests.shard_factory import COLUMNS, build, keys_of, make_sample
from tests.shard_project import SHARDS, ShardProject, md5_of, objects

pytestmark = pytest.mark.usefixtures("own_names")

SIZES = (5, 4)  # samples of each shard
KEYS = [f"s{number:03}" for number in range(sum(SIZES))]
Change = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "DVC_", "GIT_", "XDG_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "home/.ssh").mkdir(parents=True)
    (tmp_path / "home/.ssh/id_rsa").write_bytes(b"secret")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MICRODIFF_CACHE", str(tmp_path / "cache"))


def write_set(folder: Path, compression: str | None) -> None:
    """Write a set of two shards."""
    folder.mkdir(parents=True)
    entries, begin = [], 0
    for number, size in enumerate(SIZES):
        samples = [make_sample("s", begin + each, COLUMNS) for each in range(size)]
        entries.append(write_shard(folder / f"shard.{number:05}.mds", COLUMNS, samples, compression))
        begin += size
    write_json(folder / "index.json", index_document(entries))
    (folder / "manifest.json").write_text('{"encoders": {}}')


def change_index(folder: Path, change: Change) -> None:
    """Change the entries of an index as JSON values."""
    index = json.loads((folder / "index.json").read_bytes())
    change(index["shards"])
    (folder / "index.json").write_text(json.dumps(index))


def read_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return keys_of(build(folder, cache=tmp_path / "cache", drop_last=False))


def read_release(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Read the files by a release file, from a remote that is a folder."""
    data = tree_bytes(folder)
    for name, value in objects(data).items():
        (tmp_path / "remote" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "remote" / name).write_bytes(value)
    files = {name: md5_of(value) for name, value in data.items()}
    remote = {"url": str(tmp_path / "remote")}
    release = Release("data/coco/shards", "c" * 40, remote, folder_digest(files), files, None)
    write_json(tmp_path / "r.json", release_document(release, {name: len(data[name]) for name in files}, {}, "v1"))
    return keys_of(build(str(tmp_path / "r.json"), drop_last=False))


def read_revision(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Read the files by `dvc://`."""
    project = ShardProject(tmp_path / "project")
    project.commit(tree_bytes(folder), "v1")
    monkeypatch.chdir(project.root)
    return keys_of(build(f"dvc://{SHARDS}@v1", drop_last=False))


WAYS = {"folder": read_folder, "release": read_release, "dvc": read_revision}
ways = pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
compressions = pytest.mark.parametrize("compression", [None, ZSTD], ids=["raw", "zstd"])


@ways
@compressions
def test_an_honest_set_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None, read: Any
) -> None:
    write_set(tmp_path / "stranger/shards", compression)
    assert sorted(read(tmp_path / "stranger/shards", tmp_path, monkeypatch)) == KEYS


OUTSIDE = {
    "absolute": "{home}/precious.mds",
    "above": "../../home/precious.mds",
    "above from below": "sub/../../../home/precious.mds",
    "not there": "../../home/new.mds",
    "backslash": "..\\home\\precious.mds",
    "empty part": "sub//shard.mds",
    "dot": "./shard.00000.mds",
    "ends in a slash": "shard.00000.mds/",
    "folder": "..",
    "nothing": "",
    "NUL": "shard\x00.mds",
    "end of line": "shard\n.mds",
    "half a surrogate": "shard\ud800.mds",
    "long": "s" * 300 + ".mds",
    "its own index": "index.json",
    "another shard": "shard.00001.mds",
}


@ways
@compressions
@pytest.mark.parametrize("which", ["raw_data", "zip_data", "both"])
@pytest.mark.parametrize("name", OUTSIDE.values(), ids=OUTSIDE)
def test_an_index_that_names_a_file_outside_is_refused_before_anything_is_touched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    which: str,
    compression: str | None,
    read: Any,
) -> None:
    folder, home = tmp_path / "stranger/shards", tmp_path / "home"
    write_set(folder, compression)
    (home / "precious.mds").write_bytes((folder / "shard.00000.mds").read_bytes() if compression is None else b"mine")
    name = name.replace("{home}", str(home))

    def rename(shards: list[dict[str, Any]]) -> None:
        for part in ("raw_data", "zip_data") if which == "both" else (which,):
            if shards[0][part] is None:
                shards[0][part] = dict(shards[0]["raw_data"])
            shards[0][part]["basename"] = name if part == "raw_data" else f"{name}.zstd"

    change_index(folder, rename)
    before = tree_bytes(home) | tree_bytes(tmp_path / "stranger")
    with pytest.raises(MicrodiffError, match=r"index\.json: expected shard|index\.json: expected shards"):
        read(folder, tmp_path, monkeypatch)
    assert tree_bytes(home) | tree_bytes(tmp_path / "stranger") == before
    assert not list((tmp_path / "cache").rglob("*.mds"))
