"""What loaders of one process have open, and that they give it back."""

import errno
import gc
import os
import resource
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microdiff.core.withdrawn import Withdrawn
from microdiff.errors import SourceError
from microdiff.loader.column_types import StoredArray
from microdiff.loader.read import open_shards
from microdiff.loader.read.batch_reader import BatchReader, ShardHandle
from microdiff.loader.read.buffers import RecycledBuffers
from tests.mds_factory import write_shard
from tests.shard_factory import NUM, build, keys_of, write_shard_set


def open_files() -> list[str]:
    gc.collect()
    found = []
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208  the one that lists them is among them
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115  some are no paths
        except FileNotFoundError:
            continue
    return sorted(found)


@pytest.mark.usefixtures("own_names")
def test_loaders_one_after_another_leave_nothing_open(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "coco/shards")
    build(tmp_path / "coco/shards")  # whatever is open from now on: a tracker of shared memory, random numbers
    before = open_files()
    for number in range(50):
        loader = build(tmp_path / "coco/shards", num_workers=number % 2, drop_last=False)
        assert len(keys_of(loader)) == NUM
        del loader
    assert open_files() == before


@pytest.mark.usefixtures("own_names")
def test_loaders_beside_each_other_have_each_the_same_open(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "coco/shards")
    loaders, counts = [], []
    for _ in range(8):
        loaders.append(build(tmp_path / "coco/shards"))
        next(iter(loaders[-1]))
        counts.append(len([path for path in open_files() if not path.endswith(".mds")]))
    steps = {after - before for before, after in pairwise(counts)}
    assert len(steps) == 1  # where each looks at the shared memory of those before, these grow


NUM_SHARDS = 60


@pytest.fixture
def shards(tmp_path: Path) -> list[ShardHandle]:
    """Shards of two samples; each sample's latents are its number."""
    handles = []
    for shard in range(NUM_SHARDS):
        path = tmp_path / f"shard.{shard:05}.mds"
        samples = [{"latents": np.full(64, number, np.uint8)} for number in (2 * shard, 2 * shard + 1)]
        handles.append(ShardHandle(path, write_shard(path, {"latents": "ndarray:uint8:64"}, samples), Withdrawn({})))
    return handles


def read(reader: BatchReader, ids: Any) -> list[int]:
    buffers = {"latents": RecycledBuffers(len(ids), StoredArray("latents", "uint8", (64,)), 1)}
    tensors, _ = reader.read(np.asarray(ids), buffers)
    assert (tensors["latents"] == tensors["latents"][:, :1]).all()
    values: list[int] = tensors["latents"][:, 0].tolist()
    return values


def open_shard_files() -> list[str]:
    return [Path(path).name for path in open_files() if path.endswith(".mds")]


def test_readers_share_how_many_shards_are_open(shards: list[ShardHandle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_shards, "_MAX_OPEN", 3)
    first, second = (BatchReader(shards, {"latents": 64}, (), None) for _ in range(2))
    assert read(first, [0, 2, 4]) == [0, 2, 4]
    assert read(first, [1]) == [1]  # again the first shard
    assert read(second, [6]) == [6]
    assert open_shard_files() == ["shard.00000.mds", "shard.00002.mds", "shard.00003.mds"]
    assert read(second, [8]) == [8]
    assert open_shard_files() == ["shard.00000.mds", "shard.00003.mds", "shard.00004.mds"]
    del second
    assert open_shard_files() == ["shard.00000.mds"]


@pytest.fixture
def few_files() -> Iterator[int]:
    """Let this process open few more files than it has; return how many it may have."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = len(open_files()) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
    yield most
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("may_go", [False, True])
def test_a_batch_from_more_shards_than_files_may_be_open(
    shards: list[ShardHandle], few_files: int, may_go: bool
) -> None:
    handles = [ShardHandle(shard.path, shard.entry, shard.withdrawn, None, may_go) for shard in shards]
    ids = np.random.default_rng(0).permutation(2 * NUM_SHARDS)
    assert len(open_files()) + NUM_SHARDS > few_files
    assert read(BatchReader(handles, {"latents": 64}, (), None), ids) == ids.tolist()


def test_shards_nobody_reads_are_closed_when_files_run_out(
    shards: list[ShardHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, os_open = BatchReader(shards, {"latents": 64}, (), None), os.open
    assert read(reader, [0, 2]) == [0, 2]
    kept_open = []

    def few(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith(".mds") and open_shard_files():
            kept_open.append(open_shard_files())
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return os_open(path, *args, **options)

    monkeypatch.setattr(os, "open", few)
    assert read(reader, [4]) == [4]
    assert kept_open == [["shard.00000.mds", "shard.00001.mds"]]


def test_when_no_file_can_be_opened_the_remedy_is_said(
    shards: list[ShardHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", none)
    with pytest.raises(SourceError, match=rf"{shards[0].path}: Too many open files: raise the limit .*ulimit -n"):
        read(BatchReader(shards, {"latents": 64}, (), None), [0])


def test_without_a_limit_shards_are_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, expected in ((resource.RLIM_INFINITY, 2048), (10**6, 2048), (1024, 512), (1, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert open_shards.max_open() == expected
