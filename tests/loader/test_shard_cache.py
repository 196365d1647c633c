"""Shards in the cache: whole, uncompressed, of the size that the index says, and nothing beside them."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from microdiff.artifacts.mds import ZSTD, write_encoded
from microdiff.artifacts.mds_index import ShardEntry
from microdiff.core.withdrawn import Withdrawn
from microdiff.errors import SchemaError
from microdiff.loader.shard_cache import FolderSource, fetch_shard, is_fetched
from tests.durability import DiskOrder

COLUMNS = {"a": "int32"}


@dataclass(frozen=True)
class Remote:
    """A source that, as a DVC remote does, fetches nothing that has its name already."""

    folder: Path
    local: Path
    fetched: list[str] = field(default_factory=list)
    withdrawn: Withdrawn = field(default_factory=Withdrawn)

    def fetch(self, name: str) -> None:
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            self.fetched.append(name)
            target.write_bytes((self.folder / name).read_bytes())


def write(folder: Path, compression: str | None = None) -> ShardEntry:
    folder.mkdir(parents=True)
    return write_encoded(folder / "shard.0.mds", COLUMNS, [4, 4], [b"abcd", b"efgh"], compression)


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path / "remote", tmp_path / "local")


def cached(remote: Remote) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in remote.local.rglob("*") if path.is_file()}


@pytest.mark.parametrize("compression", [None, ZSTD])
def test_a_shard_is_fetched_once_and_lies_there_uncompressed_alone(remote: Remote, compression: str | None) -> None:
    entry = write(remote.folder / "512", compression)
    for _ in range(2):
        fetch_shard(remote, "512/", entry)
    assert is_fetched(remote.local / "512", entry)
    assert remote.fetched == [f"512/{entry.stored.name}"]
    assert cached(remote) == {"shard.0.mds": entry.raw.num_bytes}


def test_a_shard_of_another_size_gives_way_to_the_one_of_the_index(remote: Remote) -> None:
    entry = write(remote.folder)
    remote.local.mkdir()
    (remote.local / "shard.0.mds").write_bytes(b"of another version")
    assert not is_fetched(remote.local, entry)
    fetch_shard(remote, "", entry)
    assert (remote.local / "shard.0.mds").read_bytes() == (remote.folder / "shard.0.mds").read_bytes()


@pytest.mark.parametrize("compression", [None, ZSTD])
@pytest.mark.parametrize("more", [-1, 1])
def test_what_is_not_of_the_size_of_the_index_is_refused(remote: Remote, compression: str | None, more: int) -> None:
    entry = write(remote.folder, compression)
    other = replace(entry, raw=replace(entry.raw, num_bytes=entry.raw.num_bytes + more))
    with pytest.raises(SchemaError, match=rf"expected {other.raw.num_bytes} bytes"):
        fetch_shard(remote, "", other)
    assert not is_fetched(remote.local, other)


def test_compression_of_another_kind_is_refused(remote: Remote) -> None:
    entry = write(remote.folder, ZSTD)
    with pytest.raises(SchemaError, match="is compressed by br:3, expected zstd"):
        fetch_shard(remote, "", replace(entry, header=replace(entry.header, compression="br:3")))


def test_a_decompressed_shard_has_its_name_only_when_it_is_on_disk(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = write(remote.folder, ZSTD)
    order = DiskOrder(monkeypatch)
    fetch_shard(remote, "", entry)
    synced = [path.name for what, path in order.steps if what == "sync"]
    assert [name.startswith(".shard.0.mds.") or name for name in synced] == [True, "local"]


def test_folders_of_one_name_have_caches_of_their_own(tmp_path: Path) -> None:
    caches = {FolderSource(tmp_path / name / "shards", tmp_path / "cache").local for name in ("coco", "cc12m")}
    assert len(caches) == 2
    assert {cache.parent for cache in caches} == {tmp_path / "cache"}


def test_a_compressed_shard_that_was_written_again_is_decompressed_again(tmp_path: Path) -> None:
    source = FolderSource(tmp_path / "set", tmp_path / "cache")
    entry = write(tmp_path / "set", ZSTD)
    fetch_shard(source, "", entry)
    cached_path = source.local / entry.raw.name
    before = cached_path.stat()
    fetch_shard(source, "", entry)
    assert cached_path.stat() == before
    other = write_encoded(tmp_path / "set/shard.0.mds", COLUMNS, [4, 4], [b"ABCD", b"EFGH"], ZSTD)
    assert other.raw.num_bytes == entry.raw.num_bytes
    fetch_shard(source, "", other)
    assert cached_path.read_bytes().endswith(b"ABCDEFGH")


def test_a_compressed_shard_in_a_folder_of_its_own_is_decompressed(tmp_path: Path) -> None:
    source = FolderSource(tmp_path / "top", tmp_path / "cache")
    entry = write(tmp_path / "top/sub", ZSTD).in_folder("sub")
    fetch_shard(source, "", entry)
    assert (source.local / "sub/shard.0.mds").read_bytes().endswith(b"abcdefgh")
