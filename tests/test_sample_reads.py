"""Reading samples into a batch: any columns, texts of any length, and what disks and networks do to a read."""

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microdiff.batch_reader import BatchReader, ShardFile
from microdiff.buffers import RecycledBuffers
from microdiff.errors import SchemaError
from microdiff.mds import Column, write_shard
from microdiff.withdrawn import Withdrawn

ARRAYS = {"b": "ndarray:float16:7,5", "f": "ndarray:uint8:3", "large": "ndarray:uint8:40000", "n": "int32"}
NUM = 40  # samples in each of two shards


def texts_of(number: int, same_keys: bool) -> dict[str, str]:
    rng = np.random.default_rng(number)
    lengths = {"a": rng.integers(0, 300), "key": 6 if same_keys else rng.integers(1, 5), "z": rng.integers(0, 40)}
    return {name: "é€x"[number % 3] * int(length) for name, length in lengths.items()}


def write_shards(folder: Path, columns: Mapping[str, str], same_keys: bool) -> tuple[list[ShardFile], list[Any]]:
    shards, samples = [], []
    for number in range(2):
        path = folder / f"shard.{number:05}.mds"
        made = [make_sample(number * NUM + sample, columns, same_keys) for sample in range(NUM)]
        shards.append(ShardFile(path, write_shard(path, columns, made, NUM), Withdrawn({})))
        samples += made
    return shards, samples


def make_sample(number: int, columns: Mapping[str, str], same_keys: bool) -> dict[str, Any]:
    rng, sample = np.random.default_rng(number), {}
    for name, encoding in columns.items():
        column = Column.parse(name, encoding)
        if column.shape:
            size = column.size or 0
            sample[name] = np.frombuffer(rng.bytes(size), column.dtype).reshape(column.shape)
        else:
            sample[name] = number if encoding == "int32" else texts_of(number, same_keys)[name]
    return sample


def read(
    shards: Sequence[ShardFile], columns: Mapping[str, str], arrays: Sequence[str], texts: Sequence[str], ids: Any
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    sizes = {name: Column.parse(name, columns[name]).size or 0 for name in arrays}
    reader = BatchReader(shards, sizes, texts, None)
    return reader.read(np.asarray(ids), {name: RecycledBuffers(len(ids), size) for name, size in sizes.items()})


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
def written(tmp_path: Path) -> tuple[list[ShardFile], list[Any], dict[str, str]]:
    columns = {**ARRAYS, "a": "str", "key": "str"}
    return *write_shards(tmp_path, columns, same_keys=False), columns


def test_reads_that_give_less_are_completed(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, samples, columns = written
    preadv, given = os.preadv, []

    def grudging(descriptor: int, views: Any, position: int, flags: int = 0) -> int:
        given.append(position)
        return preadv(descriptor, views[:1], position, flags)

    monkeypatch.setattr(os, "preadv", grudging)
    ids = np.arange(2 * NUM)[::-1]
    check(read(shards, columns, ("b", "large"), ("a", "key"), ids), samples, ids)
    assert given


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EOPNOTSUPP], ids=["not cached", "cannot say"])
def test_what_may_not_be_cached_is_announced_to_the_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    columns = {**ARRAYS, "key": "str"}
    shards, samples = write_shards(tmp_path, columns, same_keys=True)
    preadv, announced = os.preadv, []

    def uncached(descriptor: int, views: Any, position: int, flags: int = 0) -> int:
        if flags:
            raise OSError(code, "no")
        return preadv(descriptor, views, position)

    def advise(_: int, position: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        announced.append((position, length))

    monkeypatch.setattr(os, "preadv", uncached)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    ids = np.arange(NUM)
    check(read(shards, columns, ("b", "f"), (), ids), samples, ids)
    assert len(announced) == NUM
    assert announced == sorted(announced)
    monkeypatch.undo()
    monkeypatch.setattr(os, "posix_fadvise", advise)
    announced.clear()
    check(read(shards, columns, ("b", "f"), (), ids), samples, ids)
    assert not announced  # the tests' own files are cached


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


def test_a_file_cut_after_it_was_opened_is_an_error(written: Any) -> None:
    shards, _, columns = written
    size = Column.parse("b", columns["b"]).size or 0
    reader = BatchReader(shards, {"b": size}, (), None)
    reader.read(np.array([0]), {"b": RecycledBuffers(1, size)})
    os.truncate(shards[0].path, shards[0].path.stat().st_size // 2)
    with pytest.raises(SchemaError, match="the file ends too soon"):
        reader.read(np.arange(NUM), {"b": RecycledBuffers(NUM, size)})
