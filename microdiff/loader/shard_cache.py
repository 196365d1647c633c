"""Shards that are not there to be read from the start: remote ones, and compressed ones on this machine.

Both come whole and uncompressed into a cache folder, one shard at a time, when they are first needed. A cached shard
has a copy elsewhere, so it may be removed from there again.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from microdiff.artifacts.mds_header import MAX_SHARD_BYTES
from microdiff.artifacts.mds_index import ShardEntry
from microdiff.artifacts.zstd_frame import decompress
from microdiff.core.files import is_at, whole_file
from microdiff.core.regular_files import read_regular
from microdiff.core.withdrawn import Withdrawn
from microdiff.errors import SchemaError
from microdiff.remote.shard_source import ShardSource


def open_shard_source(given: "str | Path | ShardSource", cache: Path | None) -> ShardSource | None:
    """Return what fetches a remote shard set, None for a folder on this machine.

    Args:
        given: A folder, the URL of a remote set, the file of a release, or a source.
        cache: Where fetched shards are kept, None for the source's own choice.

    Raises:
        SourceError: The remote set cannot be had.
    """
    if not isinstance(given, str | Path):
        return given
    from microdiff.remote.dvc_url import is_shard_source, open_dvc_source

    if not is_shard_source(str(given)):
        return None
    source: ShardSource = open_dvc_source(str(given), cache)
    return source


@dataclass(frozen=True)
class FolderSource:
    """Compressed shards in a folder, decompressed into a cache beside which they stay.

    Attributes:
        folder: The shard set.
        cache: Folder for such caches, None for one of the user's own among the temporary files.
    """

    folder: Path
    cache: Path | None

    @property
    def local(self) -> Path:
        """The cache folder of this shard set."""
        name = hashlib.sha256(os.fsencode(os.path.realpath(self.folder))).hexdigest()[:16]
        return (self.cache or Path(tempfile.gettempdir()) / f"microdiff-{os.getuid()}") / name

    @property
    def withdrawn(self) -> Withdrawn:
        """Nothing: the list beside the folder counts."""
        return Withdrawn()

    def claim(self) -> None:
        """Make the cache folder, if it is to be among the temporary files, and check that it is this user's alone.

        Its name can be guessed: another user could have made it, with links in it to files of this one.

        Raises:
            SchemaError: It is somebody else's, a link, or open to others.
        """
        if self.cache is not None:
            return
        top = self.local.parent
        with contextlib.suppress(FileExistsError):
            top.mkdir(mode=0o700)
        facts = top.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
            raise SchemaError(f"{top}: expected a folder that only this user can write: remove it, or give cache=")

    def fetch(self, name: str) -> None:
        """Let a file that is not compressed be read from the cache folder, without copying it."""
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process has just done the same
            target.symlink_to(os.path.realpath(self.folder / name))


def is_fetched(folder: Path, entry: ShardEntry) -> bool:
    """Tell whether a shard lies in a cache, whole and uncompressed."""
    try:
        size = (folder / entry.raw.name).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return False
    return size == entry.raw.num_bytes


def is_current(source: ShardSource, prefix: str, entry: ShardEntry) -> bool:
    """Tell whether a shard lies in a source's cache, and is still what the source has."""
    if not is_fetched(source.local / prefix, entry):
        return False
    if not isinstance(source, FolderSource) or entry.zipped is None:
        return True
    compressed, raw = source.folder / prefix / entry.zipped.name, source.local / prefix / entry.raw.name
    try:
        return compressed.stat().st_mtime_ns == raw.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def fetch_shard(source: ShardSource, prefix: str, entry: ShardEntry) -> None:
    """Put a shard into the cache, whole and uncompressed; does nothing if it is there.

    Args:
        source: What fetches it.
        prefix: What precedes the shard's name for the source.
        entry: Its entry in the index.

    Raises:
        SchemaError: It does not decompress to what the index says.
        SourceError: It cannot be had.
    """
    path = source.local / prefix / entry.raw.name
    if is_current(source, prefix, entry):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path.with_name(f".{path.name}.lock")):
        if not is_current(source, prefix, entry):  # nor has another process just fetched it
            _fetch(source, prefix, entry)


def _fetch(source: ShardSource, prefix: str, entry: ShardEntry) -> None:
    folder = source.local / prefix
    path = folder / entry.raw.name
    path.unlink(missing_ok=True)  # left from another version of the set
    if entry.zipped is None:
        source.fetch(prefix + entry.raw.name)
        if not is_fetched(folder, entry):
            raise SchemaError(
                f"{path}: expected {entry.raw.num_bytes} bytes, got another size: remove it and start again"
            )
        return
    if isinstance(source, FolderSource):
        compressed = source.folder / prefix / entry.zipped.name
        written_ns = _time_of(compressed)
        with whole_file(path) as file:
            file.write(_decompressed(compressed, entry))
            file.flush()
            os.utime(file.fileno(), ns=(written_ns, written_ns))  # by which `is_current` knows it
        return
    source.fetch(prefix + entry.zipped.name)
    with whole_file(path) as file:
        file.write(_decompressed(folder / entry.zipped.name, entry))
    (folder / entry.zipped.name).unlink(missing_ok=True)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a file of that name alone; it goes at the end, or is free when this process is lost."""
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        if is_at(held, path):
            break
        os.close(held)  # it went while this process waited for it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        fcntl.flock(held, fcntl.LOCK_UN)  # a fork may have the file open, too
        os.close(held)


def _time_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        raise SchemaError(f"{path} has gone while it was to be read: write or pull it again") from None


def _decompressed(path: Path, entry: ShardEntry) -> bytes:
    if str(entry.header.compression).partition(":")[0] != "zstd":
        raise SchemaError(f"{path}: is compressed by {entry.header.compression}, expected zstd: write the set again")
    try:
        data = decompress(read_regular(path, MAX_SHARD_BYTES), entry.raw.num_bytes)
    except (FileNotFoundError, NotADirectoryError):
        raise SchemaError(f"{path} has gone while it was to be read: write or pull it again") from None
    except ValueError as error:
        raise SchemaError(f"{path}: {error}: write or pull it again") from None
    if (name := entry.raw.known_hash) is not None:
        found = hashlib.new(name, data, usedforsecurity=False).hexdigest()
        if found != entry.raw.hashes[name]:
            raise SchemaError(
                f"{path}: expected {name} {entry.raw.hashes[name]} when decompressed, got {found}: pull it again"
            )
    return data
