"""Places that take no more bytes: which errors of the system mean that, which place is meant, and what to say of it.

A disk that is full is full for the next partition, too. So such an error ends a step at once, and names the place that
was written, not what was read: `os.link` and `shutil.copyfile` name the source first, `write` names nothing.
"""

import errno
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from microdiff.errors import WriteError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}
_REFUSED = (errno.EACCES, errno.EPERM)
_KINDS = (*_FULL, errno.EROFS, *_REFUSED)
_SQLITE = {13: errno.ENOSPC, 8: errno.EROFS}  # SQLITE_FULL, SQLITE_READONLY


@dataclass(frozen=True)
class Unwritable:
    """A place that could not be written. Picklable: it travels from a worker to the process that decides.

    Attributes:
        kind: The system's error number.
        place: The file or folder; empty if nothing names it.
    """

    kind: int
    place: str

    @classmethod
    def of(cls, error: BaseException | None) -> Self | None:
        """Return the place that an error is about, None if it means something else.

        Libraries wrap errors: where this one says nothing, the one that caused it is looked at.
        """
        is_wrapped = False
        while error is not None:
            kind = error.errno if isinstance(error, OSError) else _SQLITE.get(getattr(error, "sqlite_errorcode", 0))
            if kind in _KINDS and not (is_wrapped and kind in _REFUSED):  # that may be a network's refusal
                return cls(kind, _written(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
            is_wrapped = True
        return None

    def __str__(self) -> str:
        """Return what happened, where, and the remedy."""
        where = f"{self.place}: " if self.place else ""
        if self.kind in _FULL:
            return (
                f"{where}{_FULL[self.kind]}{_room(self.place)}. "
                "Make room there and run it again; finished partitions are kept."
            )
        if self.kind == errno.EROFS:
            mounted = f" (mounted at {_mount_point(self.place)})" if self.place else ""
            return f"{where}the file system{mounted} is read-only. Mount it for writing and run it again."
        return f"{where}permission denied{_ownership(self.place)}. Change its owner or mode and run it again."


def os_error_in_words(error: OSError) -> str | None:
    """Return one line for what the system refused, None where it names no file, as a bug of ours might."""
    if (unwritable := Unwritable.of(error)) is not None:
        return str(unwritable)
    name = _written(error)
    if not name:
        return None
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and (file := _file_in_the_way(Path(name))) is not None:
        return _not_a_folder(file)
    return f"{name}: {os.strerror(error.errno or 0)}"


def check_writable(folder: Path) -> None:
    """Check that a folder can be written, or be made.

    Raises:
        WriteError: It cannot, or there is a file in its place.
    """
    if (file := _file_in_the_way(folder)) is not None:
        raise WriteError(_not_a_folder(file))
    existing = _existing(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        is_read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
        raise WriteError(str(Unwritable(errno.EROFS if is_read_only else errno.EACCES, str(existing))))


@contextmanager
def writing_to(place: Path, source: Path | None = None) -> Iterator[None]:
    """Name a place in the errors that mean that it takes no more bytes, unless they name another.

    Args:
        place: What is written.
        source: What is read meanwhile, and is not meant where an error names it.
    """
    try:
        yield
    except Exception as error:  # libraries wrap what the system said; whatever else it is goes on as it came
        found = Unwritable.of(error)
        is_here = found is not None and Path(found.place or place).is_relative_to(place)
        if found is None or found.kind in _REFUSED or not (is_here or found.place == str(source)):
            raise
        raise OSError(found.kind, os.strerror(found.kind), str(place)) from error


def _written(error: BaseException) -> str:
    """Return the file that an error is about: of two, the second is the target."""
    for name in (getattr(error, "filename2", None), getattr(error, "filename", None)):
        if isinstance(name, str | bytes | os.PathLike):
            return os.fsdecode(name)
    return ""


def _not_a_folder(file: Path) -> str:
    return f"{file}: expected a folder, found a file. Move it away and run it again."


def _file_in_the_way(folder: Path) -> Path | None:
    """Return the file that stands where a folder is to be, or where one above it is."""
    return next((path for path in (folder, *folder.parents) if os.path.lexists(path) and not path.is_dir()), None)


def _existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


def _mount_point(place: str) -> Path:
    path = _existing(Path(place)).resolve()
    return next(each for each in (path, *path.parents) if each.is_mount())


def _room(place: str) -> str:
    """Return how much is free where a place is."""
    if not place:
        return ""
    facts = os.statvfs(_existing(Path(place)))
    free = f"{facts.f_bavail * facts.f_frsize / 1e6:.1f} MB free"
    if facts.f_files and not facts.f_favail:
        free = "no more files can be made"
    return f" ({free} on the file system at {_mount_point(place)})"


def _ownership(place: str) -> str:
    """Return whose a place is, and who wanted it."""
    if not place:
        return ""
    try:
        facts = _existing(Path(place)).stat()
    except OSError:  # in a folder that may not be entered
        return ""
    return f" (it is {_user(facts.st_uid)}'s, mode {facts.st_mode & 0o7777:o}; this is user {_user(os.geteuid())})"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # as in containers
        return str(number)
