"""Hundreds of reads with one system call: the right bytes in the right places, and failures by their numbers."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from microdiff.loader.read.batched_io import Reads, read_many

pytestmark = pytest.mark.usefixtures("way_to_read")

NUM = 600  # more than one call takes
SIZES = (7, 0, 4096, 301)  # of the pieces of each read


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    """What the file `data` in the test's folder holds."""
    data = np.random.default_rng(0).bytes(2**20)
    (tmp_path / "data").write_bytes(data)
    return data


@pytest.fixture
def descriptor(data: bytes, tmp_path: Path) -> Iterator[int]:
    """The file, open."""
    descriptor = os.open(tmp_path / "data", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def reads_of(descriptor: int, seed: int = 0) -> tuple[Reads, NDArray[np.uint8]]:
    """Return reads at random positions, and their memory, row by row."""
    memory = np.zeros((NUM, sum(SIZES)), np.uint8)
    positions = np.random.default_rng(seed).integers(0, 2**20 - sum(SIZES), NUM)
    pieces = np.zeros((NUM, len(SIZES), 2), np.int64)
    pieces[:, :, 0] = memory.ctypes.data + memory.strides[0] * np.arange(NUM)[:, None] + np.cumsum((0, *SIZES[:-1]))
    pieces[:, :, 1] = SIZES
    return Reads(np.full(NUM, descriptor, np.uint32), positions, pieces[:, :, 1].sum(axis=1), pieces), memory


def expected(data: bytes, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    found = [np.frombuffer(data, np.uint8)[position : position + sum(SIZES)] for position in positions]
    return np.stack(found)


def test_all_are_read(data: bytes, descriptor: int) -> None:
    reads, memory = reads_of(descriptor)
    assert len(read_many(reads)) == 0
    assert np.array_equal(memory, expected(data, reads.positions))


def test_threads_do_not_disturb_each_other(data: bytes, descriptor: int) -> None:
    def is_right(seed: int) -> bool:
        reads, memory = reads_of(descriptor, seed)
        return len(read_many(reads)) == 0 and np.array_equal(memory, expected(data, reads.positions))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(is_right, range(40)))


@pytest.mark.parametrize("bad", [[0], [3, 255, 256, 599]])
def test_reads_that_fail_or_fall_short_are_named_and_the_others_made(
    data: bytes, descriptor: int, bad: list[int]
) -> None:
    reads, memory = reads_of(descriptor)
    closed = os.dup(descriptor)
    os.close(closed)
    reads.descriptors[bad[::2]] = closed
    reads.positions[bad[1::2]] = len(data) - 10
    assert read_many(reads).tolist() == bad
    good = np.delete(np.arange(NUM), bad)
    assert np.array_equal(memory[good], expected(data, reads.positions[good]))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_reads_too(data: bytes, descriptor: int) -> None:
    reads, memory = reads_of(descriptor)
    read_many(reads)
    memory[:] = 0
    child = os.fork()
    if not child:
        code: Any = 1
        try:
            missing = len(read_many(reads))
            code = int(bool(missing) or not np.array_equal(memory, expected(data, reads.positions)))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not memory.any()
