"""Room in a cache of limited size that several processes fetch into: the ranks of a machine, or several jobs.

What is there is looked up on disk, where all see the same. What is on its way is noted in a file of each process, since
shards that are fetched beside each other would else exceed the limit together; a note counts as long as its process
lives.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock

_NOTE = f".coming-{socket.gethostname()}-"


class CacheRoom:
    """Counts bytes. One thread of a process at a time may call its methods.

    Args:
        folder: Where the notes are, the same for all that share the cache.
        files: Paths of the shards when they are in the cache.
        limit: Bytes that may be taken.
    """

    def __init__(self, folder: Path, files: Sequence[Path], limit: int) -> None:
        self._folder, self._files, self._limit = folder, files, limit
        self._coming, self._process = 0, os.getpid()

    def used(self) -> int:
        """Return the bytes of what is in the cache and on its way."""
        return sum(size for size, _ in map(_size_and_time, self._files)) + sum(self._notes())

    def take(self, num_bytes: int, last_used: Mapping[int, int]) -> tuple[bool, list[int]]:
        """Take room, and make it if need be.

        Args:
            num_bytes: How many.
            last_used: By the number of a shard that may be removed: when this process has used it last, in ns.

        Returns:
            Whether there was room, and the numbers of the shards that were removed.
        """
        removed: list[int] = []
        with self._alone():
            sizes, times = zip(*map(_size_and_time, self._files), strict=True)
            surplus = sum(sizes) + sum(self._notes()) + num_bytes - self._limit
            # Another process may have fetched lately what this one has not used for long.
            for number in sorted(last_used, key=lambda each: max(last_used[each], times[each])):
                if surplus <= 0:
                    break
                if sizes[number]:
                    surplus -= sizes[number]
                    self._files[number].unlink(missing_ok=True)
                    removed.append(number)
            if surplus <= 0:
                self._note(num_bytes)
        return surplus <= 0, removed

    def give_back(self, num_bytes: int) -> None:
        """Give back what was taken: the shard has come, or does not."""
        with self._alone():
            self._note(-num_bytes)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / ".room.lock"):
            yield

    def _note(self, more: int) -> None:
        if self._process != os.getpid():  # a fork
            self._coming, self._process = 0, os.getpid()
        self._coming = max(0, self._coming + more)
        path = self._folder / f"{_NOTE}{self._process}-{id(self)}"
        if self._coming:
            path.write_text(f"{self._coming}")
        else:
            path.unlink(missing_ok=True)

    def _notes(self) -> Iterator[int]:
        """Yield what processes of this machine have on its way; remove the notes of those that are no more."""
        for path in self._folder.glob(f"{_NOTE}*"):
            if Path("/proc", path.name.removeprefix(_NOTE).partition("-")[0]).is_dir():
                yield int(path.read_text() or 0)
            else:
                path.unlink(missing_ok=True)


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return a file's bytes and when it got there, in ns; 0 where there is none."""
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    return facts.st_size, facts.st_ctime_ns
