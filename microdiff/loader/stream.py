"""One shard set as mosaicml-streaming's `Stream`: its index already read, its shards fetched by a source if need be.

Streaming keeps what it is good at: one download of a shard per machine, prefetching, and a limited cache. Importing
this module takes some ten seconds, as streaming does.
"""

import numpy as np
from numpy.typing import NDArray
from streaming import Stream
from streaming.base.format.base.reader import FileInfo
from streaming.base.format.mds import MDSReader
from streaming.base.world import World

from microdiff.artifacts.mds_index import IndexedFile, ShardEntry
from microdiff.loader.shard_cache import fetch_shard, is_current
from microdiff.loader.shard_set import ShardSet


class LatentsStream(Stream):  # type: ignore[misc]  # streaming ships without type information
    """A checked shard set.

    Args:
        shard_set: The shard set.
        proportion: Its share in an epoch, None for every sample once.
    """

    def __init__(self, shard_set: ShardSet, proportion: float | None) -> None:
        super().__init__(local=str(shard_set.folder), proportion=proportion)
        self.shard_set = shard_set
        self._entries = {entry.raw.name: entry for entry in shard_set.entries}

    def get_shards(self, world: World, allow_unsafe_types: bool) -> list[MDSReader]:
        """Return the shards that the index lists; it was read and checked before."""
        return [_reader(self.local, entry) for entry in self.shard_set.entries]

    def set_up_local(self, shards: list[MDSReader], cache_usage_per_shard: NDArray[np.int64]) -> None:
        """Find out which shards are there."""
        for number, (shard, entry) in enumerate(zip(shards, self.shard_set.entries, strict=True)):
            source, prefix = self.shard_set.source, self.shard_set.prefix
            here = source is None or is_current(source, prefix, entry)
            cache_usage_per_shard[number] = shard.raw_data.bytes if here else 0

    def get_index_size(self) -> int:
        """Return 0: the index does not count as cache, since it is never removed."""
        return 0

    def prepare_shard(self, shard: MDSReader) -> int:
        """Fetch a shard if it is not there; return by how many bytes the cache has grown."""
        source, entry = self.shard_set.source, self._entries[shard.raw_data.basename]
        if source is None or is_current(source, self.shard_set.prefix, entry):
            return 0
        fetch_shard(source, self.shard_set.prefix, entry)
        grown: int = shard.raw_data.bytes
        return grown


def _reader(folder: str, entry: ShardEntry) -> MDSReader:
    """Return streaming's object for a shard, without the deep copy that its own way from JSON takes."""
    return MDSReader(
        dirname=folder,
        split="",
        column_encodings=list(entry.header.column_encodings),
        column_names=list(entry.header.column_names),
        column_sizes=list(entry.header.column_sizes),
        compression=entry.header.compression,
        hashes=list(entry.header.hashes),
        raw_data=_file(entry.raw),
        samples=entry.num_samples,
        size_limit=None,
        zip_data=None if entry.zipped is None else _file(entry.zipped),
    )


def _file(file: IndexedFile) -> FileInfo:
    return FileInfo(file.name, file.num_bytes, dict(file.hashes))
