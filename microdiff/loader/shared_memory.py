"""Clear away what lost runs left of mosaicml-streaming's shared memory and lock files, and nothing of live ones.

Streaming numbers its data sets on a machine and keeps for each a handful of segments `/dev/shm/000007_<name>` and two
lock files `<temporary folder>/000007_<name>` (older versions: in `streaming/` there). A killed process leaves all of
them, every process leaves the lock files, and a number with any of them left is never used again. Streaming's own
`clean_stale_shared_memory` removes the segments of live runs as well, and no lock files.

So each of our processes holds a lock on `/dev/shm/microdiff_000007` for as long as it lives: where nobody does, the
segments are stale. Segments without that file, of programs that use streaming by itself, are stale when no process has
them mapped; that can take a while, since streaming by itself also maps, and keeps, what it comes across when it looks
for a number.
"""

import atexit
import contextlib
import fcntl
import logging
import os
import re
import tempfile
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microdiff.core.files import is_at, try_lock

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where Linux has it, not a temporary file of ours
_SEGMENT = re.compile(
    r"(\d{6})_(?:locals|barrier|next_epoch|cache_usage|shard_states|shard_access_times|resume|epoch_shape|epoch_data)"
)
_LOCK_FILE = re.compile(r"(\d{6})_(?:barrier|cache)_filelock")
_HELD = re.compile(r"microdiff_(\d{6})")
_STARTING_S = 60  # whoever has just made a segment may be about to map it

_LOG = logging.getLogger(__name__)
_numbering = threading.Lock()


def clean_shared_memory() -> None:
    """Remove stale segments and lock files; of the ranks on a machine, one does, and the others wait for it."""
    from streaming.base.distributed import barrier, get_local_rank, maybe_init_dist
    from torch import distributed

    initialised = maybe_init_dist()
    if get_local_rank() == 0:
        _clean()
    barrier()
    if initialised:
        distributed.destroy_process_group()


@contextlib.contextmanager
def skip_taken_numbers() -> Iterator[None]:
    """Have streaming pass over numbers that are in use, by whomever, while this thread makes a data set.

    By itself it maps every segment that it meets in its search and keeps it until the process ends: one descriptor for
    each of the segments of all data sets on the machine, for each data set that is made.
    """
    from streaming.base.shared import prefix
    from streaming.base.world import World

    if not hasattr(prefix, "SHM_TO_CLEAN") and World.detect().ranks_per_node > 1:
        yield  # in older versions the other ranks count up to their leader's number, without a gap
        return
    with _numbering:
        every_number, maker = prefix._each_prefix_int, threading.get_ident()

        def free_numbers() -> Iterator[int]:
            numbers = every_number()
            return _without_taken(numbers) if threading.get_ident() == maker else numbers

        prefix._each_prefix_int = free_numbers
        try:
            yield
        finally:
            prefix._each_prefix_int = every_number


def _without_taken(numbers: Iterator[int]) -> Iterator[int]:
    names = [path.name for path in SHARED_MEMORY.iterdir()] if SHARED_MEMORY.is_dir() else []
    taken = {match[1] for name in names if (match := _SEGMENT.fullmatch(name) or _HELD.fullmatch(name))}
    return (number for number in numbers if f"{number:06}" not in taken)


def hold_shared_memory(dataset: Any) -> list[Any]:
    """Mark a StreamingDataset's segments as in use until it, or this process, is gone, however that ends.

    Returns:
        The segments that go with the data set; those that it makes later are to be added.
    """
    segments = _segments_of(dataset) if dataset._unique_rank_world.ranks_per_node == 1 else []
    if not SHARED_MEMORY.is_dir():
        return segments
    number = f"{dataset._shm_prefix_int:06}"
    path = SHARED_MEMORY / f"microdiff_{number}"
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_SH)
        if is_at(held, path):
            os.utime(held)  # newer than the segments
            break
        os.close(held)  # removed between the two calls
    weakref.finalize(dataset, _release, number, held, segments, os.getpid())
    return segments


def _segments_of(dataset: Any) -> list[Any]:
    arrays = (
        dataset._shared_barrier._arr,
        dataset._next_epoch.arr,
        dataset._cache_usage.arr,
        dataset._shard_states,
        dataset._shard_access_times,
    )
    return [dataset._locals_shm, *(array.shm for array in arrays)]


def _release(number: str, held: int, segments: list[Any], process: int) -> None:
    """Remove the segments, and, when the last process that used them is done, the lock files.

    Streaming would keep the segments of a data set that is no more until the process ends.
    """
    if os.getpid() == process:  # not in a fork
        for segment in segments:
            atexit.unregister(segment.cleanup)
            with contextlib.suppress(BufferError):  # somebody still looks at it
                segment.cleanup()
        if try_lock(held):
            _remove([SHARED_MEMORY / f"microdiff_{number}", *_lock_files().get(number, [])])
    os.close(held)


def _clean() -> None:
    if not SHARED_MEMORY.is_dir():
        return
    segments = _ours(SHARED_MEMORY, _SEGMENT)
    holders = _ours(SHARED_MEMORY, _HELD)
    lock_files = _lock_files()
    mapped = _mapped_numbers() if segments else set()
    for number in sorted(segments.keys() | holders.keys() | lock_files.keys()):
        files = [*segments.get(number, []), *lock_files.get(number, [])]
        if number in holders and not _is_starting(holders[number][0], number):
            removed = _remove_unless_held(holders[number][0], files)
        else:
            removed = mapped is not None and number not in mapped and not any(map(_is_young, files))
            if removed:
                _remove([*files, *holders.get(number, [])])
        if removed and number in segments:
            _LOG.info("removed the shared memory that a lost run left: number %s", number)


def _is_starting(holder: Path, number: str) -> bool:
    """Tell whether a number was taken after its holder's file was made: whoever did so is about to hold it."""
    try:
        return (SHARED_MEMORY / f"{number}_locals").stat().st_mtime_ns > holder.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def _remove_unless_held(holder: Path, files: list[Path]) -> bool:
    try:
        held = os.open(holder, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not try_lock(held) or not is_at(held, holder):
            return False
        _remove([*files, holder])
        return True
    finally:
        os.close(held)


def _ours(folder: Path, pattern: "re.Pattern[str]") -> defaultdict[str, list[Path]]:
    """Return this user's files by their number."""
    found = defaultdict(list)
    with os.scandir(folder) as entries:
        for entry in entries:
            match = pattern.fullmatch(entry.name)
            if match is None:
                continue
            with contextlib.suppress(FileNotFoundError):  # its owner has just removed it
                if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    found[match[1]].append(Path(entry.path))
    return found


def _lock_files() -> dict[str, list[Path]]:
    temporary = Path(tempfile.gettempdir())
    found = _ours(temporary, _LOCK_FILE)
    if os.access(temporary / "streaming", os.R_OK | os.X_OK):
        for number, files in _ours(temporary / "streaming", _LOCK_FILE).items():
            found[number] += files
    return found


def _mapped_numbers() -> set[str] | None:
    """Return the numbers of segments that a process of this user has mapped; None if one cannot be looked into."""
    pattern = re.compile(rf" {SHARED_MEMORY}/(\d{{6}})_")
    found: set[str] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == os.getuid():
                found.update(pattern.findall((folder / "maps").read_text(errors="replace")))
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            return None
    return found


def _is_young(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < _STARTING_S
    except FileNotFoundError:
        return False


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
