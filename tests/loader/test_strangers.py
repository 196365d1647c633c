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
from microdiff.errors import MicrodiffError, SchemaError
from microdiff.remote.dvc_dir_object import folder_digest
from microdiff.remote.release_file import Release, release_document
from tests.mds_factory import write_shard
from tests.shard_factory import COLUMNS, build, keys_of, make_sample, write_published
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


# --- what lies in the folder


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced(path: Path, target: str) -> None:
    """Put a link in the place of a file."""
    path.unlink()
    path.symlink_to(target)


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"!")


def moved(path: Path, to: Path) -> None:
    """Move a file or folder, and leave a link in its place."""
    to.parent.mkdir(parents=True, exist_ok=True)
    path.rename(to)
    path.symlink_to(to)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard is a pipe": (lambda top: pipe(top / "shard.00001.mds"), r"00001\.mds: expected a file, found a pipe"),
    "index is a pipe": (lambda top: pipe(top / "index.json"), r"index\.json: expected a file, found a pipe"),
    "shard is a folder": (
        lambda top: ((top / "shard.00001.mds").unlink(), (top / "shard.00001.mds").mkdir()),
        r"00001\.mds: expected a file, found a folder",
    ),
    "shard is a device": (lambda top: replaced(top / "shard.00001.mds", "/dev/zero"), r"00001\.mds: a link to a place"),
    "index is a device": (lambda top: replaced(top / "index.json", "/dev/zero"), r"index\.json: .* found a device"),
    "shard is a link out": (
        lambda top: moved(top / "shard.00001.mds", top.parent / "elsewhere/shard.mds"),
        r"00001\.mds: a link to a place outside the folder, .*elsewhere/shard\.mds: name the folder",
    ),
    "shard is a link to itself": (
        lambda top: replaced(top / "shard.00001.mds", "shard.00001.mds"),
        r"00001\.mds: it cannot be read: Too many levels",
    ),
    "shard is a link to nothing": (lambda top: replaced(top / "shard.00001.mds", "gone"), r"00001\.mds is missing"),
    "shard is too long": (lambda top: lengthened(top / "shard.00001.mds"), "expected .* bytes, got"),
}


@pytest.mark.parametrize(("change", "message"), FILES.values(), ids=FILES)
def test_what_is_no_file_of_the_folder_is_refused_without_waiting(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    write_set(tmp_path / "shards", None)
    change(tmp_path / "shards")
    with pytest.raises(SchemaError, match=message):
        build(tmp_path / "shards")


def test_a_pipe_in_the_place_of_a_shard_after_it_was_checked_is_refused_without_waiting(tmp_path: Path) -> None:
    write_set(tmp_path / "shards", None)
    loader = build(tmp_path / "shards", drop_last=False)
    pipe(tmp_path / "shards/shard.00001.mds")
    with pytest.raises(SchemaError, match="found a pipe"):
        list(loader)


@pytest.mark.parametrize(
    "target",
    ["files/md5/ab/" + "0" * 30, "hub/blobs/" + "c" * 64, "hub/blobs/" + "c" * 40, "stranger/shards/kept/shard.mds"],
)
def test_links_to_files_named_by_content_and_links_inside_are_followed(tmp_path: Path, target: str) -> None:
    """As in DVC's cache and the Hugging Face hub's."""
    folder = tmp_path / "stranger/shards"
    write_set(folder, None)
    moved(folder / "shard.00001.mds", tmp_path / target)
    moved(folder / "index.json", tmp_path / "files/md5/cd/1")
    assert sorted(keys_of(build(folder, drop_last=False))) == KEYS


@pytest.mark.parametrize("group", ["", "512"])
def test_a_folder_that_is_a_link_out_is_refused_by_its_files(tmp_path: Path, group: str) -> None:
    write_set(tmp_path / "shards/sub", None)
    index = json.loads((tmp_path / "shards/sub/index.json").read_bytes())
    for entry in index["shards"]:
        entry["raw_data"]["basename"] = f"sub/{entry['raw_data']['basename']}"
    (tmp_path / "shards/index.json").write_text(json.dumps(index))
    assert sorted(keys_of(build(tmp_path / "shards", drop_last=False))) == KEYS
    moved(tmp_path / "shards/sub", tmp_path / "elsewhere")
    with pytest.raises(SchemaError, match=r"sub/.*: a link to a place outside the folder"):
        build(tmp_path / "shards")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")  # the set itself may be one
    assert sorted(keys_of(build(tmp_path / "link", drop_last=False))) == KEYS


def test_a_cache_among_temporary_files_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    write_set(tmp_path / "shards", ZSTD)
    assert sorted(keys_of(build(tmp_path / "shards", drop_last=False))) == KEYS
    (cache,) = (tmp_path / "tmp").glob("microdiff-*")
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    with pytest.raises(SchemaError, match="expected a folder that only this user can write"):
        build(tmp_path / "shards")
    cache.rename(tmp_path / "theirs")
    cache.symlink_to(tmp_path / "theirs")
    with pytest.raises(SchemaError, match="expected a folder that only this user can write"):
        build(tmp_path / "shards")


# --- numbers and types


def change(part: str, value: Any) -> Change:
    """Change one field of the first entry, given as `samples` or `raw_data.bytes`."""

    def apply(shards: list[dict[str, Any]]) -> None:
        *path, name = part.split(".")
        found: Any = shards[0]
        for step in path:
            found = found[step]
        found[int(name) if isinstance(found, list) else name] = value

    return apply


NUMBERS = [-1, 0, 2**31, 2**32, 2**63, 2**64, 10**400, 5.0, 5.5, 1e300, True, False, None, "5", [5], {}, float("nan")]


PARTS = [
    (part, each) for part in ("samples", "raw_data.bytes", "column_sizes.0", "column_sizes.2") for each in (None, ZSTD)
]


@pytest.mark.parametrize(("part", "compression"), [*PARTS, ("zip_data.bytes", ZSTD)])
@pytest.mark.parametrize("number", NUMBERS, ids=ascii)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, part: str, number: Any, compression: str | None) -> None:
    write_set(tmp_path / "shards", compression)
    change_index(tmp_path / "shards", change(part, number))
    unchanged = {"column_sizes.2": 77 * 64 * 2, "column_sizes.0": None}.get(part, ...)
    if number is unchanged:
        return
    with pytest.raises(SchemaError):
        list(build(tmp_path / "shards", cache=tmp_path / "cache", drop_last=False))
    assert not list((tmp_path / "cache").rglob("*.mds"))


COLUMN_CHANGES: dict[str, tuple[Change, str]] = {
    "twice": (change("column_names.0", "key"), "one of them twice"),
    "of no name": (change("column_names.0", ""), "column ''"),
    "of another name": (change("column_names.2", "tall"), "expected the columns of the index"),
    "swapped": (
        lambda shards: (
            [
                each.update(column_names=["caption", "caption_latents", "width", "key", "latents_256", "height"])
                for each in shards
            ]
            and None
        ),
        "expected the columns of the index",
    ),
    "of another shape": (change("column_encodings.1", "ndarray:float16:64,77"), "expected one encoding|columns of the"),
    "of another type": (change("column_encodings.1", "ndarray:uint16:77,64"), "expected one encoding|columns of the"),
    "of another size": (change("column_encodings.1", "ndarray:float16:77,65"), "and size 9856"),
    "huge": (change("column_encodings.1", "ndarray:float16:" + "9999999999," * 15 + "9"), "and size 9856"),
    "of an unknown type": (change("column_encodings.1", "ndarray:float16:0"), "encoding|expected the columns"),
    "hash of no digits": (change("raw_data.hashes", {"sha256": "zz"}), "got hashes"),
    "hash that is short": (change("raw_data.hashes", {"sha256": "abcd"}), "got hashes"),
    "hash that is a number": (change("raw_data.hashes", {"sha256": 5}), "got hashes"),
    "hashes of no names": (change("hashes", [5]), "got hashes"),
    "compressed nowhere": (change("zip_data", {"basename": "a.mds.zstd", "bytes": 5}), "compression None to a file"),
}


@pytest.mark.parametrize(("apply", "message"), COLUMN_CHANGES.values(), ids=COLUMN_CHANGES)
def test_columns_and_hashes_that_cannot_be_are_refused(tmp_path: Path, apply: Change, message: str) -> None:
    write_set(tmp_path / "shards", None)
    change_index(tmp_path / "shards", apply)
    with pytest.raises(SchemaError, match=message):
        list(build(tmp_path / "shards", drop_last=False))


@pytest.mark.parametrize("name", ["shake_128", "xxh64", "crc"])
def test_a_hash_that_cannot_be_computed_is_told_at_once(tmp_path: Path, name: str) -> None:
    write_set(tmp_path / "shards", None)
    change_index(tmp_path / "shards", change("raw_data.hashes", {name: "ab" * 8}))
    with pytest.raises(SchemaError, match="its index states no hash"):
        build(tmp_path / "shards", validate_hash=True)


@pytest.mark.parametrize("depth", [200, 5_000, 200_000])
@pytest.mark.parametrize("mark", ["[", '{"a":'])
def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path, mark: str, depth: int) -> None:
    write_set(tmp_path / "shards", None)
    nested = mark * depth + ("]" * depth if mark == "[" else "1" + "}" * depth)
    for name in ("index.json", "manifest.json"):
        kept = (tmp_path / "shards" / name).read_bytes()
        (tmp_path / "shards" / name).write_text(f'{{"encoders": {nested}, "version": 2, "shards": []}}')
        with pytest.raises(SchemaError, match="nested too deeply"):
            build(tmp_path / "shards")
        (tmp_path / "shards" / name).write_bytes(kept)


# --- hashes


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("compression", "validate"), [(None, True), (ZSTD, False), (ZSTD, True)])
def test_a_flipped_bit_in_a_value_is_refused_where_hashes_are_checked(
    tmp_path: Path, compression: str | None, validate: bool, num_workers: int
) -> None:
    folder = tmp_path / "shards"
    write_set(folder, compression)
    path = next(folder.glob("shard.00001.mds*"))
    whole = path.read_bytes()
    options: dict[str, Any] = {"validate_hash": validate, "num_workers": num_workers, "cache": tmp_path / "cache"}
    for place in (0.3, 0.6, 0.9):
        damaged = bytearray(whole)
        damaged[int(place * len(damaged))] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(SchemaError, match=r"expected sha256|zstd"):
            list(build(folder, drop_last=False, **options))
    path.write_bytes(whole)
    assert sorted(keys_of(build(folder, drop_last=False, validate_hash=validate, cache=tmp_path / "cache"))) == KEYS


def test_a_shard_is_hashed_once_however_many_threads_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from microdiff.loader.read import batch_reader

    checked: list[str] = []
    check_hash = batch_reader.check_hash

    def counted(path: Path, stated: Any) -> None:
        checked.append(path.name)
        check_hash(path, stated)

    monkeypatch.setattr(batch_reader, "check_hash", counted)
    write_set(tmp_path / "shards", None)
    loader = build(tmp_path / "shards", 1, validate_hash=True, num_workers=4)
    list(loader)
    list(loader)
    assert sorted(checked) == ["shard.00000.mds", "shard.00001.mds"]


# --- memory


@pytest.mark.parametrize("name", ["index.json", "manifest.json"])
def test_a_file_of_gigabytes_is_not_read(tmp_path: Path, name: str) -> None:
    write_set(tmp_path / "shards", None)
    os.truncate(tmp_path / "shards" / name, 2**33)  # without a byte on disk
    with pytest.raises(SchemaError, match=rf"{name}: expected at most 1073741824 bytes, got 8589934592"):
        build(tmp_path / "shards")


def test_a_count_that_its_bytes_have_no_room_for_is_refused_before_an_order_is_made(tmp_path: Path) -> None:
    """As where columns state no sizes, and the file is as large as its index says, without a byte on disk."""
    write_published(tmp_path / "shards", (77, 1024))
    index = json.loads((tmp_path / "shards/index.json").read_bytes())
    entry = index["shards"][-1]  # the first is looked into
    entry["samples"] = 2**27
    entry["raw_data"]["bytes"] = 2**32 - 1
    (tmp_path / "shards/index.json").write_text(json.dumps(index))
    os.truncate(tmp_path / "shards" / entry["raw_data"]["basename"], 2**32 - 1)
    with pytest.raises(SchemaError, match="expected at least"):
        build(tmp_path / "shards", columns=())


def test_what_finds_no_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from microdiff.loader.read.buffers import RecycledBuffers

    def take(*_: object) -> None:
        raise MemoryError

    write_set(tmp_path / "shards", None)
    monkeypatch.setattr(RecycledBuffers, "take", take)
    with pytest.raises(SchemaError, match=r"no memory for 4 values of \w+, of \d+ bytes each"):
        next(iter(build(tmp_path / "shards")))
