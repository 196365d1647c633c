"""What every kind of storage promises. The tests of a kind subclass `StorageContract` and supply `backend`."""

import errno
import hashlib
import io
import multiprocessing
import pickle
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from microdiff.errors import SourceError
from microdiff.storage import CannotResume, Damaged, NotFound, Storage, retry
from microdiff.storage.fetching import fetch_verified
from microdiff.storage.ranges import RangeFile
from tests.reporters import Said
from tests.waiting import PATIENCE_S
from tests.web_server import Fault, WebServer

PATH = "zips/a #1.zip"
DATA = bytes(range(256)) * 1200  # 300 KiB
MD5 = f"md5:{hashlib.md5(DATA, usedforsecurity=False).hexdigest()}"
FILES = {"top.bin": b"top", PATH: DATA, "zips/b.zip": b"b", "zips/c/d.zip": b"d"}


class Backend(ABC):
    """A storage that holds `FILES`, and ways to make it misbehave.

    Attributes:
        storage: The storage.
    """

    storage: Storage

    @abstractmethod
    def misbehave(self, *faults: Fault) -> None:
        """Have the next reads of a file break off (`drop_after`) or bring other bytes (`damage`), one each."""

    def always(self, fault: Fault) -> None:
        """Have all reads from now on misbehave."""
        self.misbehave(*[fault] * 30)


@dataclass
class ServedBackend(Backend):
    """A storage on a server.

    Attributes:
        server: Sends the bytes of the files.
    """

    storage: Storage
    server: WebServer

    def misbehave(self, *faults: Fault) -> None:
        self.server.on("GET", *faults)


class UnreliableFile(io.BytesIO):
    """An open file that fails as an `Fault` says."""

    def __init__(self, data: bytes, fault: Fault) -> None:
        super().__init__(data[:1000] + b"?" * 10 + data[1010:] if fault.damage else data)
        self._left = len(data) + 1 if fault.drop_after is None else fault.drop_after

    def read(self, size: int | None = -1, /) -> bytes:
        if not self._left:
            raise OSError(errno.EIO, "Input/output error")
        data = super().read(self._left if size is None or size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


@dataclass
class MountedBackend(Backend):
    """A storage whose files are opened by this process, which finds `faults` there."""

    storage: Storage
    faults: deque[Fault] = field(default_factory=deque)

    def misbehave(self, *faults: Fault) -> None:
        self.faults.extend(faults)


def _read_into(storage: Storage, target: Path) -> None:
    with storage.read(PATH) as body:
        target.write_bytes(b"".join(body.chunks))


class StorageContract:
    """The promises."""

    lists = True  # plain web servers do not
    asks_for_time = True  # only servers do

    @pytest.fixture(autouse=True)
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The seconds that were to be waited, which nobody does."""
        waited: list[float] = []
        monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waited.append))
        return waited

    def test_files_are_described(self, backend: Backend) -> None:
        file = backend.storage.stat(PATH)
        assert (file.path, file.num_bytes) == (PATH, len(DATA))
        assert file.kind in ("sha256", "md5", "git", "etag", "version", "name")
        assert file.identity.partition(":")[2]
        assert backend.storage.stat(PATH) == file
        assert backend.storage.stat(PATH, MD5).identity == MD5

    def test_all_files_are_found_whatever_their_folder(self, backend: Backend) -> None:
        if not self.lists:
            with pytest.raises(SourceError, match="cannot be listed"):
                list(backend.storage.all_files())
            return
        assert sorted(backend.storage.all_files()) == [(path, False) for path in sorted(FILES)]

    def test_parts_of_a_file_can_be_read(self, backend: Backend) -> None:
        described = backend.storage.stat(PATH)
        with io.BufferedReader(RangeFile(backend.storage, described), 64) as file:
            assert file.read(5) == DATA[:5]
            file.seek(-7, io.SEEK_END)
            assert file.read() == DATA[-7:]
            file.seek(1000)
            assert file.read(300_000) == DATA[1000:301_000]

    def test_folders_are_listed(self, backend: Backend) -> None:
        if not self.lists:
            with pytest.raises(SourceError, match="zips: the files on a plain web server cannot be listed"):
                backend.storage.list("zips")
            return
        assert list(backend.storage.list("")) == ["top.bin"]
        assert list(backend.storage.list("zips")) == list(backend.storage.list("zips/")) == [PATH, "zips/b.zip"]
        assert list(backend.storage.list("zips/c")) == ["zips/c/d.zip"]
        assert list(backend.storage.list("absent")) == []
        assert list(backend.storage.list("top.bin")) == []

    @pytest.mark.parametrize("start", [0, 1, 100_000, len(DATA) - 1])
    def test_files_are_read_from_any_byte_on(self, backend: Backend, start: int) -> None:
        with backend.storage.read(PATH, start) as body:
            assert (body.start, body.num_bytes) == (start, len(DATA))
            assert b"".join(body.chunks) == DATA[start:]

    @pytest.mark.parametrize("start", [len(DATA), len(DATA) + 10])
    def test_nothing_is_read_past_the_end(self, backend: Backend, start: int) -> None:
        with pytest.raises(CannotResume), backend.storage.read(PATH, start):
            pass

    def test_what_is_missing_is_named(self, backend: Backend) -> None:
        with pytest.raises(NotFound, match="zips/absent"):
            backend.storage.stat("zips/absent")
        with pytest.raises(NotFound, match="zips/absent"), backend.storage.read("zips/absent"):
            pass

    def test_a_fetch_goes_on_where_it_broke_off(self, backend: Backend, tmp_path: Path) -> None:
        file, said, part = backend.storage.stat(PATH), Said(), tmp_path / "part"
        backend.misbehave(Fault(drop_after=100_000), Fault(drop_after=50_000))
        storage = backend.storage.with_reporter(said)
        fetch_verified(storage, PATH, part, identity=file.identity, num_bytes=file.num_bytes)
        assert part.read_bytes() == DATA
        assert said.num_bytes == len(DATA)  # none of them twice
        assert ["after 100000 of 307200 bytes" in said.messages[0], "after 150000 of" in said.messages[1]] == [True] * 2

    def test_a_size_need_not_be_known(self, backend: Backend, tmp_path: Path) -> None:
        backend.misbehave(Fault(drop_after=100_000))
        fetch_verified(backend.storage, PATH, tmp_path / "part", identity=MD5)
        assert (tmp_path / "part").read_bytes() == DATA

    def test_damaged_bytes_are_fetched_once_more_and_then_refused(self, backend: Backend, tmp_path: Path) -> None:
        backend.misbehave(Fault(damage=True))
        fetch_verified(backend.storage, PATH, tmp_path / "part", identity=MD5)
        assert (tmp_path / "part").read_bytes() == DATA
        backend.misbehave(Fault(damage=True), Fault(damage=True))
        with pytest.raises(Damaged, match=f"expected {MD5}, got md5:.*, twice. Nothing was kept"):
            fetch_verified(backend.storage, PATH, tmp_path / "other", identity=MD5)
        assert [path.name for path in tmp_path.glob("other*")] == []

    def test_every_byte_of_progress_renews_the_patience(
        self, backend: Backend, tmp_path: Path, waits: list[float]
    ) -> None:
        backend.misbehave(*[Fault(drop_after=20_000)] * 14)
        fetch_verified(backend.storage, PATH, tmp_path / "part", identity=MD5)
        assert (tmp_path / "part").read_bytes() == DATA
        assert len(waits) == 14
        assert max(waits) <= 0.75  # each is the first of its kind

    def test_without_progress_the_patience_ends(self, backend: Backend, tmp_path: Path, waits: list[float]) -> None:
        backend.misbehave(Fault(drop_after=20_000))
        backend.always(Fault(drop_after=0))
        with pytest.raises(
            SourceError, match=r"after 20000.* bytes, 10 times in a row\. Check the network and .*from th"
        ):
            fetch_verified(backend.storage, PATH, tmp_path / "part", identity=MD5)
        assert (tmp_path / "part").read_bytes() == DATA[:20_000]
        assert len(waits) == 9
        assert waits[:8] == sorted(waits[:8])  # longer each time, up to a minute
        assert 180 <= sum(waits) <= 280

    def test_what_has_come_is_on_disk_while_it_waits(
        self, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        part, sizes = tmp_path / "part", []
        monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: sizes.append(part.stat().st_size)))
        backend.misbehave(Fault(drop_after=1000), Fault(drop_after=500))
        fetch_verified(backend.storage, PATH, part, identity=MD5)
        assert sizes == [1000, 1500]

    def test_a_server_that_asks_for_time_gets_it(self, backend: Backend, tmp_path: Path, waits: list[float]) -> None:
        if self.asks_for_time:
            backend.misbehave(Fault(status=503, headers={"Retry-After": "7"}))
            fetch_verified(backend.storage, PATH, tmp_path / "part", identity=MD5)
            assert len(waits) == 1
            assert 7.0 <= waits[0] <= 10.5

    def test_it_travels_to_workers(self, backend: Backend, tmp_path: Path) -> None:
        assert pickle.loads(pickle.dumps(backend.storage)) == backend.storage  # noqa: S301 - our own
        _read_into(backend.storage, tmp_path / "here")  # opens connections, which must not be used there
        worker = multiprocessing.get_context("fork").Process(
            target=_read_into, args=(backend.storage, tmp_path / "there")
        )
        worker.start()
        worker.join(PATIENCE_S)
        assert worker.exitcode == 0
        assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes() == DATA
