"""Folders: as a storage on a file system that fails, and as a source that is used in place."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from microdiff.errors import SourceError
from microdiff.storage import SourceFile
from microdiff.storage import local as local_module
from microdiff.storage.checksums import checksum_of
from microdiff.storage.local import LocalSource, LocalStorage
from tests.storage_contract import DATA, FILES, MD5, PATH, Backend, MountedBackend, StorageContract, UnreliableFile

NEWER = DATA[::-1]
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


class TestLocalStorage(StorageContract):
    asks_for_time = False

    @pytest.fixture
    def backend(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
        root = tmp_path / "root"
        for path, data in FILES.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        backend = MountedBackend(LocalStorage(root=root))
        plain = Path.open

        def unreliable(path: Path, *arguments: Any, **options: Any) -> Any:
            if backend.faults and path == root / PATH:
                return UnreliableFile(DATA, backend.faults.popleft())
            return plain(path, *arguments, **options)

        monkeypatch.setattr(Path, "open", unreliable)
        return backend


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.zip").write_bytes(DATA)
    return LocalStorage(root=tmp_path / "root")


def test_describing_a_file_reads_none_of_it(storage: LocalStorage) -> None:
    before = storage.stat("a.zip")
    assert before.kind == "version"
    os.utime(storage.root / "a.zip", ns=(0, 1))
    assert storage.stat("a.zip") != before
    with storage.read("a.zip") as body:
        assert f"version:{body.version}" == storage.stat("a.zip").identity


def test_a_folder_that_is_not_there_is_told_from_a_file(storage: LocalStorage, tmp_path: Path) -> None:
    gone = LocalStorage(root=tmp_path / "gone", setting="the remote's settings")
    with pytest.raises(SourceError, match=r"gone: no such folder\. Mount it, or check the remote's settings"):
        gone.stat("a.zip")
    with pytest.raises(SourceError, match=r"b\.zip: no such file"):
        storage.stat("b.zip")
    with pytest.raises(SourceError, match=r"a\.zip/b: no such file"):
        storage.stat("a.zip/b")


@pytest.mark.parametrize("call", ["stat", "open"])
def test_a_file_that_may_not_be_read_is_said(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, call, refused)
    with pytest.raises(SourceError, match=r"a\.zip: .*Ask its owner for access"), storage.read("a.zip"):
        pass


# --- a local folder


@pytest.fixture
def local(tmp_path: Path) -> LocalSource:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.zip").write_bytes(DATA)
    return LocalSource(str(tmp_path / "root"), tmp_path / "digests")


def test_a_local_file_is_used_in_place(local: LocalSource) -> None:
    file = local.stat("a.zip", SHA256)
    assert file == local.stat("a.zip") == SourceFile("a.zip", len(DATA), SHA256)
    assert local.stat("a.zip", MD5).identity == MD5
    assert local.fetch(file) == Path(local.root) / "a.zip"
    local.forget(file)
    assert (Path(local.root) / "a.zip").read_bytes() == DATA


def test_a_missing_or_different_local_file_is_an_error_that_names_it(local: LocalSource) -> None:
    with pytest.raises(SourceError, match=r"b\.zip: no such file"):
        local.stat("b.zip")
    for found in (SHA256, MD5):
        kind, _, digits = found.partition(":")
        expected = f"{kind}:{'0' * len(digits)}"
        with pytest.raises(SourceError, match=rf"a\.zip: expected {expected}, found {found}"):
            local.stat("a.zip", expected)
    with pytest.raises(SourceError, match=r"a\.zip: unknown kind of checksum 'crc32'; expected one of sha256, md5"):
        local.stat("a.zip", "crc32:00000000")


def test_a_local_folder_is_listed(local: LocalSource) -> None:
    (Path(local.root) / "b" / "c").mkdir(parents=True)
    for path in ("b/2.zip", "b/1.zip", "b/c/3.zip"):
        (Path(local.root) / path).touch()
    assert local.list("") == ["a.zip"]
    assert local.list("b") == ["b/1.zip", "b/2.zip"]
    assert local.list("absent") == []


def test_a_digest_is_remembered_until_the_file_changes(local: LocalSource, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(local.root) / "a.zip"
    reads: list[Path] = []

    def checksum(path: Path, kind: str) -> str:
        reads.append(path)
        return checksum_of(path, kind)

    monkeypatch.setattr(local_module, "checksum_of", checksum)
    monkeypatch.setattr("microdiff.core.file_facts._TICK_NS", 0)  # or it is not remembered while it is this new
    assert local.stat("a.zip") == local.stat("a.zip")
    assert len(reads) == 1
    path.write_bytes(NEWER)  # same size
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert local.stat("a.zip").identity == f"sha256:{hashlib.sha256(NEWER).hexdigest()}"
    assert len(reads) == 2


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(NEWER + b"!")], ids=["gone", "changed"])
def test_a_local_file_that_changes_after_stat_is_not_handed_out(local: LocalSource, change: object) -> None:
    file = local.stat("a.zip")
    assert callable(change)
    change(Path(local.root) / "a.zip")
    with pytest.raises(SourceError, match=r"a\.zip"):
        local.fetch(file)
