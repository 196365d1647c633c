"""Reading samples into a batch: any columns, texts of any length, and what disks and networks do to a read."""

import ctypes
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microdiff.artifacts.mds_header import Column
from microdiff.core.withdrawn import Withdrawn
from microdiff.errors import SchemaError
from microdiff.loader.column_types import StoredArray
from microdiff.loader.read import batched_io, sample_reads
from microdiff.loader.read.batch_reader import BatchReader, ShardHandle
from microdiff.loader.read.batched_io import Reads
from microdiff.loader.read.buffers import RecycledBuffers
from tests.mds_factory import write_shard

ARRAYS = {"b": "ndarray:float16:7,5", "f": "ndarray:uint8:3", "large": "ndarray:uint8:40000", "n": "int32"}
NUM = 40  # samples in each of two shards


def texts_of(number: int, same_keys: bool) -> dict[str, str]:
    rng = np.random.default_rng(number)
    lengths = {"a": rng.integers(0, 300), "key": 6 if same_keys else rng.integers(1, 5), "z": rng.integers(0, 40)}
    return {name: "é€x"[number % 3] * int(length) for name, length in lengths.items()}


def write_shards(folder: Path, columns: Mapping[str, str], same_keys: bool) -> tuple[list[ShardHandle], list[Any]]:
    shards, samples = [], []
    for number in range(2):
        path = folder / f"shard.{number:05}.mds"
        made = [make_sample(number * NUM + sample, columns, same_keys) for sample in range(NUM)]
        shards.append(ShardHandle(path, write_shard(path, columns, made), Withdrawn({})))
        samples += made
    return shards, samples


def make_sample(number: int, columns: Mapping[str, str], same_keys: bool) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    sample: dict[str, Any] = {}
    for name, encoding in columns.items():
        column = Column.parse(name, encoding)
        if column.shape:
            size = column.size or 0
            sample[name] = np.frombuffer(rng.bytes(size), column.dtype).reshape(column.shape)
        else:
            sample[name] = number if encoding == "int32" else texts_of(number, same_keys)[name]
    return sample


def read(
    shards: Sequence[ShardHandle], columns: Mapping[str, str], arrays: Sequence[str], texts: Sequence[str], ids: Any
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    stored = {name: stored_array(name, columns[name]) for name in arrays}
    reader = BatchReader(shards, {name: array.row_bytes for name, array in stored.items()}, texts, None)
    return reader.read(np.asarray(ids), {name: RecycledBuffers(len(ids), array, 1) for name, array in stored.items()})


def stored_array(name: str, encoding: str) -> StoredArray:
    column = Column.parse(name, encoding)
    return StoredArray(name, encoding if column.dtype is None else column.dtype.name, column.shape or ())


def check(found: tuple[dict[str, Any], dict[str, list[str]]], samples: Sequence[Any], ids: Any) -> None:
    tensors, texts = found
    for name, tensor in tensors.items():
        values = [np.asarray(samples[each][name]) for each in ids]
        expected = b"".join(value.astype("<i4" if name == "n" else value.dtype).tobytes() for value in values)
        assert tensor.numpy().tobytes() == expected
    for name, texts_found in texts.items():
        assert texts_found == [samples[each][name] for each in ids]


@pytest.mark.parametrize("same_keys", [True, False])
@pytest.mark.parametrize(
    ("stored_texts", "arrays", "texts"),
    [
        ((), ("b", "f"), ()),
        (("a",), ("b", "f"), ()),
        (("a",), ("b", "n"), ("a",)),
        (("a", "key"), ("f", "large"), ("key",)),
        (("a", "key", "z"), ("n",), ("a", "key", "z")),
        (("a", "key", "z"), ("b", "large"), ("z",)),
        (("z",), ("b", "f", "large", "n"), ("z",)),
        (("key", "z"), (), ("key",)),
    ],
)
def test_any_columns_come_as_they_were_written(
    tmp_path: Path, stored_texts: Sequence[str], arrays: Sequence[str], texts: Sequence[str], same_keys: bool
) -> None:
    columns = {**ARRAYS, **dict.fromkeys(stored_texts, "str")}
    shards, samples = write_shards(tmp_path, columns, same_keys)
    for ids in (np.random.default_rng(1).permutation(2 * NUM), [NUM - 1], [3, NUM, 3]):
        check(read(shards, columns, arrays, texts, ids), samples, ids)


@pytest.fixture
def written(tmp_path: Path) -> tuple[list[ShardHandle], list[Any], dict[str, str]]:
    columns = {**ARRAYS, "a": "str", "key": "str"}
    return *write_shards(tmp_path, columns, same_keys=False), columns


@pytest.mark.usefixtures("way_to_read")
@pytest.mark.parametrize("texts", [("a", "key"), ()])
def test_both_ways_to_read_give_the_same(written: Any, texts: Sequence[str]) -> None:
    shards, samples, columns = written
    ids = np.random.default_rng(0).permutation(2 * NUM)
    check(read(shards, columns, ("b", "large", "n"), texts, ids), samples, ids)


@pytest.mark.parametrize("given", [0, 1, 5], ids=["nothing", "a byte", "some"])
def test_reads_that_give_less_are_completed(written: Any, monkeypatch: pytest.MonkeyPatch, given: int) -> None:
    shards, samples, columns = written
    grudged = []

    def grudging(reads: Reads) -> Any:
        for descriptor, position, pieces in zip(reads.descriptors, reads.positions, reads.pieces, strict=True):
            address, size = next(piece for piece in pieces.tolist() if piece[1])
            ctypes.memmove(address, os.pread(descriptor, min(size, given), position), min(size, given))
            grudged.append(position)
        return np.arange(len(reads.sizes))

    monkeypatch.setattr(sample_reads, "read_many", grudging)
    ids = np.arange(2 * NUM)[::-1]
    check(read(shards, columns, ("b", "large"), ("a", "key"), ids), samples, ids)
    assert grudged


def test_what_is_not_cached_is_announced_to_the_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way_to_read: str
) -> None:
    columns = {**ARRAYS, "key": "str"}
    shards, samples = write_shards(tmp_path, columns, same_keys=True)
    advise, announced = os.posix_fadvise, []

    def noted(descriptor: int, position: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        announced.append((descriptor, position))
        advise(descriptor, position, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", noted)
    ids = np.arange(2 * NUM)
    check(read(shards, columns, ("b", "f"), (), ids), samples, ids)
    if way_to_read == "queue" and says_what_is_cached(shards[0].path):
        assert not announced  # just written
        monkeypatch.setattr(batched_io, "_NOWAIT", 1 << 30)  # as where a file system does not know this flag
        check(read(shards, columns, ("b", "f"), (), ids), samples, ids)
    assert len(announced) == 2 * NUM
    assert announced == sorted(announced)


def test_an_error_of_the_disk_names_file_and_sample(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, _, columns = written
    pread = os.pread

    def failing(descriptor: int, size: int, position: int) -> bytes:
        if position >= shards[0].entry.raw.num_bytes // 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, size, position)

    monkeypatch.setattr(sample_reads, "read_many", lambda reads: np.arange(len(reads.sizes)))
    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(SchemaError, match=rf"{shards[0].path}: sample \d+: cannot be read: Input/output error"):
        read(shards, columns, ("b",), (), np.arange(NUM))


def says_what_is_cached(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except OSError:  # not every file system can
        return False
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("way_to_read")
def test_uncached_files_are_read_whole(written: Any) -> None:
    shards, samples, columns = written
    for shard in shards:
        descriptor = os.open(shard.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    ids = np.random.default_rng(0).permutation(2 * NUM)
    check(read(shards, columns, ("b", "large"), ("key",), ids), samples, ids)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("offset", r"sample 3: its columns take .* bytes, but it has"),
        ("order", "its samples' offsets are out of order"),
        ("text", "sample 3: key is no UTF-8 text"),
    ],
)
def test_damage_names_file_and_sample(written: Any, place: str, message: str) -> None:
    shards, _, columns = written
    path = shards[0].path
    data = bytearray(path.read_bytes())
    offset = int.from_bytes(data[4 + 4 * 4 :][:4], "little")
    if place != "text":
        data[4 + 4 * 4 : 8 + 4 * 4] = (offset + 1 if place == "offset" else 2**32 - 1).to_bytes(4, "little")
    else:
        begin = int.from_bytes(data[4 + 4 * 3 :][:4], "little")
        key = texts_of(3, same_keys=False)["key"].encode()
        at = data.rindex(key, begin, begin + 8 + 300 * 3 + 70 + 3 + len(key) + 8)
        data[at] = 0xFF
    path.write_bytes(data)
    with pytest.raises(SchemaError, match=f"{path}: {message}"):
        read(shards, columns, ("b",), ("key",), np.arange(NUM))


@pytest.mark.usefixtures("way_to_read")
def test_a_file_cut_after_it_was_opened_is_an_error(written: Any) -> None:
    shards, _, columns = written
    array = stored_array("b", columns["b"])
    reader = BatchReader(shards, {"b": array.row_bytes}, (), None)
    reader.read(np.array([0]), {"b": RecycledBuffers(1, array, 1)})
    os.truncate(shards[0].path, shards[0].path.stat().st_size // 2)
    with pytest.raises(SchemaError, match="the file ends too soon"):
        reader.read(np.arange(NUM), {"b": RecycledBuffers(NUM, array, 1)})
