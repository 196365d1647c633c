"""File systems that fsspec reads and that have no module of their own here."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from microdiff.core.progress import NullReporter
from microdiff.errors import SourceError
from microdiff.storage import Changed, fetching
from microdiff.storage import fsspec as module
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.fsspec import FsspecStorage
from microdiff.storage.opening import open_source
from tests.storage_contract import DATA, FILES, Backend, MountedBackend, StorageContract, UnreliableFile

NEWER = DATA[::-1]
PATH = "zips/a.zip"


class TestFsspecStorage(StorageContract):
    asks_for_time = False

    @pytest.fixture
    def backend(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
        files = fsspec.filesystem("memory")
        files.pipe({f"/root/{path}": data for path, data in FILES.items()})
        backend = MountedBackend(FsspecStorage(root="memory://root"))
        plain = MemoryFileSystem._open

        def unreliable(system: MemoryFileSystem, path: str, *arguments: Any, **options: Any) -> Any:
            if backend.faults:
                return UnreliableFile(DATA, backend.faults.popleft())
            return plain(system, path, *arguments, **options)

        monkeypatch.setattr(MemoryFileSystem, "_open", unreliable)
        yield backend
        files.rm("/root", recursive=True)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FetchedSource]:
    files = fsspec.filesystem("memory")
    files.pipe({f"/root/{PATH}": DATA, "/root/zips/c/d.zip": DATA})
    source = open_source("memory://root/", tmp_path)
    assert isinstance(source, FetchedSource)
    assert isinstance(source.storage, FsspecStorage)
    yield source
    files.rm("/root", recursive=True)


def test_a_file_is_identified_by_what_the_file_system_says_of_it(source: FetchedSource) -> None:
    assert source.name == "memory://root"
    assert source.list("zips") == [PATH]
    assert source.list("absent") == []
    file = source.stat(PATH)
    assert file.identity.startswith("version:")
    assert source.fetch(file).read_bytes() == DATA
    with pytest.raises(SourceError, match=r"memory://root/zips: no such file\. Check datasets"):
        source.stat("zips")
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - sources travel to workers


class Replaces(NullReporter):
    """Puts a newer version there when bytes have come."""

    def tick(self, samples: int = 0, num_bytes: int = 0, unit: str = "") -> None:
        fsspec.filesystem("memory").pipe(f"/root/{PATH}", NEWER)


def test_a_file_that_changes_while_it_is_read_is_not_handed_out(
    source: FetchedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 2**16)
    monkeypatch.setattr(fetching, "_TICK_BYTES", 2**16)
    file = source.stat(PATH)
    with pytest.raises(Changed, match=f"memory://root/{PATH}: changed on the server: .* Run again"):
        source.with_reporter(Replaces()).fetch(file)
    assert not [path for path in source.fetched.rglob("*") if path.is_file() and path.stat().st_size]
    with pytest.raises(Changed, match="changed on the server: expected version"):
        source.fetch(file)
    assert source.fetch(source.stat(PATH)).read_bytes() == NEWER


@pytest.mark.parametrize(
    ("error", "message", "num_waits"),
    [
        (PermissionError("no"), r"zips/a\.zip: access denied\. Check the credentials", 0),
        (OSError("connection reset"), r"zips/a\.zip: OSError, 5 times in a row\. Check the network and datasets", 4),
        (FileNotFoundError("gone"), r"zips/a\.zip: no such file", 0),
    ],
)
def test_errors_are_said_in_words(
    source: FetchedSource, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str, num_waits: int
) -> None:
    from microdiff.storage import retry

    def refused(*_: Any, **__: Any) -> Any:
        raise error

    waits: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    with monkeypatch.context() as broken:
        broken.setattr(MemoryFileSystem, "info", refused)
        with pytest.raises(SourceError, match=message):
            source.stat(PATH)
    assert len(waits) == num_waits


def test_a_password_in_the_root_is_never_shown(tmp_path: Path) -> None:
    other = open_source("ftp://user:SECRET@host/files?SECRET", tmp_path)
    assert other.name == "ftp://host/files"
    assert "SECRET" not in repr(other)
