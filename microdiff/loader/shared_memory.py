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
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
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
    """Remove stale segments and lock files. All ranks may do so at once, each without waiting for the others."""
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


@contextlib.contextmanager
def made_alone() -> Iterator[None]:
    """Have streaming make a data set as for a process alone, at a number that nobody uses, while this thread does so.

    By itself it asks the environment alone for the ranks and takes their number from there for good; has the ranks
    agree on a number by the process group, makes one where there is none, and waits in it for ranks that may be
    building something else. It also maps each segment that it meets in its search for a number and keeps it until the
    process ends: one descriptor for each of the segments of all data sets on the machine, for each that is made.
    """
    from streaming.base import dataset as of_dataset
    from streaming.base.shared import prefix
    from streaming.base.world import World

    with _numbering:
        maker = threading.get_ident()

        def for_maker(ours: Callable[[], Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *given: ours() if threading.get_ident() == maker else theirs(*given)

        every_number, group, detect = prefix._each_prefix_int, prefix.dist, World.detect
        no_group = SimpleNamespace(
            is_available=for_maker(lambda: False, group.is_available),
            is_initialized=group.is_initialized,
            barrier=group.barrier,
            destroy_process_group=group.destroy_process_group,
        )
        changes: list[tuple[Any, str, Any]] = [
            (prefix, "_each_prefix_int", for_maker(lambda: _without_taken(every_number()), every_number)),
            (prefix, "dist", no_group),
            (of_dataset, "dist", no_group),
            (of_dataset, "maybe_init_dist", for_maker(lambda: False, of_dataset.maybe_init_dist)),
            (World, "detect", staticmethod(for_maker(lambda: World(1, 1, 1, 0), detect))),
        ]
        before = [(owner, name, vars(owner)[name]) for owner, name, _ in changes]
        for owner, name, value in changes:
            setattr(owner, name, value)
        try:
            yield
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)


def _without_taken(numbers: Iterator[int]) -> Iterator[int]:
    names = [path.name for path in SHARED_MEMORY.iterdir()] if SHARED_MEMORY.is_dir() else []
    taken = {match[1] for name in names if (match := _SEGMENT.fullmatch(name) or _HELD.fullmatch(name))}
    return (number for number in numbers if f"{number:06}" not in taken)


def hold_shared_memory(dataset: Any) -> None:
    """Mark a StreamingDataset's segments as in use until it, or this process, is gone, however that ends.

    They go with the data set.
    """
    segments = _segments_of(dataset)
    if not SHARED_MEMORY.is_dir():
        return
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
