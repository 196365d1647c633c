"""Open shard files: few at a time, each checked once, with the offsets of their samples.

Imports neither torch nor streaming.
"""

import hashlib
import os
import resource
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import count
from operator import le
from pathlib import Path

from microdiff.artifacts.mds_header import MAX_HEADER_BYTES, ShardHeader
from microdiff.artifacts.mds_index import IndexedFile, ShardEntry
from microdiff.core.regular_files import open_regular
from microdiff.core.untrusted import load_json
from microdiff.errors import SchemaError
from microdiff.loader.read.read_plan import Layout, Plan

_MAX_OPEN = 2048
_SAMPLES_ASKED = 5


class OpenShard:
    """A shard file to read samples from; closed when nothing refers to it any more.

    Attributes:
        path: The file.
        descriptor: Its file descriptor.
        layout: Its columns.
        offsets: Position of each sample and of the end.
        usual_plan: The plan that most of its samples fit, as far as a few of them tell.
    """

    def __init__(self, path: Path, entry: ShardEntry, layout: Layout) -> None:
        """Open a shard.

        Raises:
            FileNotFoundError: It is not there.
            SchemaError: It is not the file that the index describes.
        """
        self.path, self.layout = path, layout
        self.descriptor = open_regular(path)
        size, samples = os.fstat(self.descriptor).st_size, entry.num_samples
        if size != entry.raw.num_bytes:
            raise SchemaError(f"{path}: expected {entry.raw.num_bytes} bytes, got {size}: write or pull it again")
        table = os.pread(self.descriptor, 4 * (samples + 2), 0)
        if len(table) != 4 * (samples + 2):
            raise SchemaError(f"{path}: it is too short for {samples} samples: write or pull it again")
        numbers = memoryview(table).cast("I")
        if numbers[0] != samples or numbers[-1] != size:
            raise SchemaError(f"{path}: expected {samples} samples, as the index says, got {numbers[0]}: pull it again")
        self.offsets: Sequence[int] = numbers[1:]
        if not all(map(le, self.offsets, self.offsets[1:])):
            raise SchemaError(f"{path}: its samples' offsets are out of order: write or pull it again")
        self._check_header(len(table))
        self.usual_plan = layout.only_plan or self._usual_plan(samples)

    def _check_header(self, begin: int) -> None:
        """Check that the columns are those of the index: where they differ, values would pass for others."""
        length = self.offsets[0] - begin
        text = os.pread(self.descriptor, length, begin) if 0 <= length <= MAX_HEADER_BYTES else b""
        if text in self.layout.known_headers:
            return
        try:
            columns = ShardHeader.parse(load_json(text)).columns
        except ValueError as error:
            raise SchemaError(f"{self.path}: not a shard, or damaged ({error}): write or pull it again") from None
        if columns != self.layout.header.columns:
            raise SchemaError(
                f"{self.path}: expected the columns of the index, {self.layout.header.encodings}, got {columns[0]} "
                f"with encodings {columns[1]} and sizes {columns[2]}: write or pull it again"
            )
        self.layout.known_headers.add(text)

    def own_plan(self, sample: int) -> Plan:
        """Return the plan that a sample's own sizes ask for.

        Raises:
            SchemaError: They are not what the index says.
        """
        begin, end = self.offsets[sample], self.offsets[sample + 1]
        head = self.bytes_of(sample, self.layout.head.size, begin)
        if len(head) != self.layout.head.size:
            raise self.damaged(sample, "the file ends too soon")
        sizes = self.layout.head.unpack(head)
        problem = self.layout.check(sizes)
        plan = self.layout.plan(sizes)
        guessed = 0 if plan.guessed is None else sizes[plan.guessed]
        if not problem and plan.sample_bytes + guessed != end - begin:
            problem = f"its columns take {plan.sample_bytes + guessed} bytes, but it has {end - begin}"
        if problem:
            raise self.damaged(sample, problem)
        return plan

    def bytes_of(self, sample: int, size: int, position: int) -> bytes:
        """Return at most so many bytes of a sample, from a position in the file.

        Raises:
            SchemaError: They cannot be read.
        """
        try:
            return os.pread(self.descriptor, size, position)
        except OSError as error:
            raise self.damaged(sample, f"cannot be read: {error.strerror}") from error

    def damaged(self, sample: int, problem: str) -> SchemaError:
        """Return the error for a sample that cannot be read."""
        return SchemaError(f"{self.path}: sample {sample}: {problem}: write or pull it again")

    def _usual_plan(self, samples: int) -> Plan:
        asked = dict.fromkeys(number * samples // _SAMPLES_ASKED for number in range(_SAMPLES_ASKED))
        return Counter(map(self.own_plan, asked)).most_common(1)[0][0]

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class OpenShards:
    """Keeps the shards used last open; how many, all loaders of a process share. Safe to use from several threads.

    Attributes:
        kept: The shards of this loader and when each was last used, the one unused for longest first.
    """

    def __init__(self) -> None:
        self.kept: OrderedDict[int, tuple[int, OpenShard]] = OrderedDict()
        with _lock:
            _of_process.add(self)

    def get(self, number: int) -> OpenShard | None:
        """Return an open shard and note that it was used."""
        with _lock:
            _, shard = self.kept.pop(number, (0, None))
            if shard is not None:
                self.kept[number] = next(_clock), shard
            return shard

    def keep(self, number: int, shard: OpenShard) -> None:
        """Keep a shard open, instead of those unused for longest; they are closed once nobody reads them."""
        with _lock:
            self.kept[number] = next(_clock), shard
            dropped = _drop(max_open())
        del dropped  # without the lock: it closes them

    def make_room(self) -> None:
        """Close what nobody reads, of any loader of the process."""
        with _lock:
            dropped = _drop(0)
        del dropped


_lock = threading.Lock()
_of_process: "weakref.WeakSet[OpenShards]" = weakref.WeakSet()
_clock = count()


def _drop(max_left: int) -> list[OpenShard]:
    """Take out those unused for longest, of any loader of this process, until there are only so many."""
    kept = [each.kept for each in _of_process if each.kept]
    dropped = []
    for _ in range(sum(map(len, kept)) - max_left):
        oldest = min(kept, key=lambda shards: next(iter(shards.values()))[0])
        dropped.append(oldest.popitem(last=False)[1][1])
        kept = [shards for shards in kept if shards]
    return dropped


def max_open() -> int:
    """Return how many shards a process keeps open: half of the files that it may have open, within reason."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MAX_OPEN if limit == resource.RLIM_INFINITY else max(1, min(_MAX_OPEN, limit // 2))


def check_hash(path: Path, stated: IndexedFile) -> None:
    """Compare a file with the hash that its index entry states.

    Raises:
        SchemaError: They differ, or the entry states none that this Python can compute.
    """
    hashes, name = stated.hashes, stated.known_hash
    if name is None:
        raise SchemaError(
            f"{path}: its index states no hash to check it by, only {sorted(hashes)}: leave the check out"
        )
    with os.fdopen(open_regular(path), "rb") as file:
        found = hashlib.file_digest(file, partial(hashlib.new, name, usedforsecurity=False)).hexdigest()
    if found != hashes[name]:
        raise SchemaError(f"{path}: expected {name} {hashes[name]}, got {found}: write or pull it again")
