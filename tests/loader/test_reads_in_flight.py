"""Whatever interrupts a batch's reads, the system has ended them before their memory is used for anything else."""

import contextlib
import ctypes
import errno
import gc
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microdiff.core.withdrawn import Withdrawn
from microdiff.loader.column_types import StoredArray
from microdiff.loader.read import batched_io
from microdiff.loader.read.batch_reader import BatchReader, ShardHandle
from microdiff.loader.read.batched_io import Reads, read_many
from microdiff.loader.read.buffers import RecycledBuffers
from tests.mds_factory import write_shard

NUM, SIZE = 600, 512  # more reads than one call takes, and their bytes


@dataclass
class SlowSystem:
    """Takes reads and makes them only when somebody waits for them, or when it gets round to it: see `go_on`.

    Attributes:
        fault: Called with the name of each call and how often it was made before; returns what the call is to return
            without having done its work, None to let it do that.
        takes: How many reads one call takes at most.
        gives: How many results one call gives at most.
        in_flight: Reads that were taken and not yet made: number, descriptor, position, addresses and sizes.
        addresses: Where anything was ever to be written.
    """

    fault: Callable[[str, int], int | None] = lambda call, number: None
    takes: int = 256
    gives: int = 256
    in_flight: "deque[tuple[int, int, int, list[list[int]]]]" = field(default_factory=deque)
    addresses: set[int] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    def syscall(self, number: int, *args: Any) -> int:
        numbers = (batched_io._SETUP, batched_io._DESTROY, batched_io._SUBMIT, batched_io._GETEVENTS)
        name = ("setup", "destroy", "submit", "getevents")[numbers.index(number)]
        self.calls.append(name)
        answer = self.fault(name, self.calls.count(name) - 1)
        return getattr(self, name)(*args) if answer is None else answer

    def setup(self, *_: Any) -> int:
        return 0

    def submit(self, _: Any, number: Any, requests: Any) -> int:
        taken = min(number.value, self.takes)
        for address in (ctypes.c_uint64 * taken).from_address(requests.value):
            (request,) = np.ctypeslib.as_array((ctypes.c_uint8 * 64).from_address(address)).view(batched_io._REQUEST)
            pieces = np.ctypeslib.as_array(
                (ctypes.c_int64 * (2 * int(request["num_pieces"]))).from_address(int(request["pieces"]))
            )
            read = (int(request["data"]), int(request["descriptor"]), int(request["position"]))
            self.in_flight.append((*read, pieces.reshape(-1, 2).tolist()))
            self.addresses.update(pieces[::2].tolist())
        return taken

    def getevents(self, _: Any, least: Any, most: Any, events: Any, timeout: Any) -> int:
        number = min(most.value, self.gives)
        into = np.ctypeslib.as_array((ctypes.c_uint8 * (32 * number)).from_address(events.value))
        for event in into.view(batched_io._EVENT):
            event["data"], event["result"] = self.make_one()
        return number

    def destroy(self, _: Any) -> int:
        self.go_on()
        return 0

    def go_on(self) -> None:
        while self.in_flight:
            self.make_one()

    def make_one(self) -> tuple[int, int]:
        number, descriptor, position, pieces = self.in_flight.popleft()
        begin = position
        for address, size in pieces:
            data = os.pread(descriptor, size, position)
            ctypes.memmove(address, data, len(data))
            position += len(data)
        return number, position - begin

    def preadv(self, *args: int) -> int:
        self.calls.append("preadv")
        return int(LIBRARY.preadv(*args))


LIBRARY = batched_io._LIBRARY


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[SlowSystem], SlowSystem]:
    """Return a function that has such a system be used."""

    def use(system: SlowSystem) -> SlowSystem:
        monkeypatch.setattr(batched_io, "_LIBRARY", system)
        monkeypatch.setattr(batched_io, "_idle", deque())
        return system

    monkeypatch.setattr(batched_io, "_IS_KNOWN", True)
    for number, name in enumerate(("_SETUP", "_DESTROY", "_SUBMIT", "_GETEVENTS")):
        monkeypatch.setattr(batched_io, name, number)
    monkeypatch.delenv(batched_io.SWITCH, raising=False)
    return use


def failing(call: str, times: range, how: type[BaseException] | int) -> Callable[[str, int], int | None]:
    """Return a fault: a call raises, or returns -1 with an error number."""

    def fault(name: str, number: int) -> int | None:
        if name != call or number not in times:
            return None
        if not isinstance(how, int):
            raise how
        ctypes.set_errno(how)
        return -1

    return fault


@pytest.fixture
def reads(tmp_path: Path) -> Any:
    """Reads of a file, backwards; their memory; and what it is to hold."""
    data = np.random.default_rng(0).integers(0, 256, (NUM, SIZE), np.uint8)
    (tmp_path / "data").write_bytes(data.tobytes())
    memory = np.zeros((NUM, SIZE), np.uint8)
    pieces = np.empty((NUM, 1, 2), np.int64)
    pieces[:, 0, 0] = memory.ctypes.data + SIZE * np.arange(NUM)
    pieces[:, 0, 1] = SIZE
    descriptor = os.open(tmp_path / "data", os.O_RDONLY)
    positions = SIZE * np.arange(NUM)[::-1].copy()
    yield Reads(np.full(NUM, descriptor, np.uint32), positions, np.full(NUM, SIZE), pieces), memory, data[::-1]
    os.close(descriptor)


SYSTEMS: dict[str, Callable[[], SlowSystem]] = {
    "plain": SlowSystem,
    "few results": lambda: SlowSystem(gives=7),
    "few taken": lambda: SlowSystem(takes=100),
    "one by one": lambda: SlowSystem(takes=1, gives=1),
    "signals": lambda: SlowSystem(failing("getevents", range(3), errno.EINTR), gives=100),
    "no results": lambda: SlowSystem(failing("getevents", range(1), errno.EINVAL)),
    "some results": lambda: SlowSystem(failing("getevents", range(1, 2), errno.EINVAL), gives=100),
    "busy": lambda: SlowSystem(failing("submit", range(1, 2), errno.EAGAIN)),
    "always busy": lambda: SlowSystem(failing("submit", range(9), errno.EAGAIN)),
    "no queue": lambda: SlowSystem(failing("setup", range(9), errno.EAGAIN)),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_everything_is_read_and_waited_for(install: Any, reads: Any, system: str) -> None:
    slow = install(SYSTEMS[system]())
    asked, memory, expected = reads
    assert read_many(asked).tolist() == []
    assert not slow.in_flight
    assert np.array_equal(memory, expected)
    assert ("preadv" in slow.calls) == (system in ("always busy", "no queue"))
    assert ("destroy" in slow.calls) == (system in ("no results", "some results"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
@pytest.mark.parametrize("when", ["taken", "first results", "last results"])
def test_what_was_taken_is_waited_for_when_an_error_comes(
    install: Any, reads: Any, when: str, error: type[BaseException]
) -> None:
    system = install(SlowSystem(gives=50))
    if when == "taken":
        submit = system.submit

        def taken_and_interrupted(*args: Any) -> int:
            submit(*args)
            raise error  # as a signal's handler does before the caller has heard how many were taken

        system.submit = taken_and_interrupted
    else:
        system.fault = failing("getevents", range(2, 3) if when == "first results" else range(13, 14), error)
    asked, _, _ = reads
    with pytest.raises(error):
        read_many(asked)
    assert system.addresses
    assert not system.in_flight
    assert not batched_io._idle  # nobody else gets the results that are left


def test_nothing_is_written_into_a_later_batch(install: Any, tmp_path: Path) -> None:
    columns = {"latents": "ndarray:uint8:64"}
    samples = [{"latents": np.full(64, number, np.uint8)} for number in range(200)]
    entry = write_shard(tmp_path / "shard.00000.mds", columns, samples)
    shard = ShardHandle(tmp_path / "shard.00000.mds", entry, Withdrawn({}))
    reader = BatchReader([shard], {"latents": 64}, (), None)
    buffers = {"latents": RecycledBuffers(100, StoredArray("latents", "uint8", (64,)), 1)}

    system = install(SlowSystem(failing("getevents", range(1), KeyboardInterrupt)))
    with contextlib.suppress(KeyboardInterrupt):
        reader.read(np.arange(100), buffers)
    gc.collect()
    written_to = set(system.addresses)
    tensors, _ = reader.read(np.arange(100, 200), buffers)
    assert tensors["latents"].data_ptr() in written_to  # it is the memory that the first batch had
    system.go_on()
    assert tensors["latents"][:, 0].tolist() == list(range(100, 200))


def test_the_switch_has_each_read_be_a_call(install: Any, reads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, memory, expected = reads
    for value, calls in (("0", {"preadv"}), ("1", {"setup", "submit", "getevents"})):
        system = install(SlowSystem())
        monkeypatch.setenv(batched_io.SWITCH, value)
        memory[:] = 0
        assert read_many(asked).tolist() == []
        assert np.array_equal(memory, expected)
        assert set(system.calls) == calls
