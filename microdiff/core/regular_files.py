"""Read files that a stranger may have put there: no pipe that never ends, no device, no link to somewhere else."""

import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from microdiff.errors import SchemaError

# A link may lead to a file that is named by its content, as in DVC's cache and in the Hugging Face hub's.
_BY_CONTENT = re.compile(r".*/(files/md5/[0-9a-f]{2}/[0-9a-f]{30}|blobs/[0-9a-f]{40}([0-9a-f]{24})?)")
_PASSED_ON = (errno.ENOENT, errno.ENOTDIR, errno.EMFILE, errno.ENFILE)


def open_regular(path: Path) -> int:
    """Return a descriptor to read a file by, without waiting for anything.

    Raises:
        FileNotFoundError, NotADirectoryError: It is not there.
        OSError: This process, or the system, has too many files open.
        SchemaError: It is a folder, a pipe or a device, or may not be read.
    """
    try:
        _check_kind(path, path.stat().st_mode)  # to open a device can be to use it
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _PASSED_ON:
            raise
        raise SchemaError(f"{path}: it cannot be read: {error.strerror}") from None
    try:
        _check_kind(path, os.fstat(descriptor).st_mode)
    except SchemaError:  # put in its place since
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return a file's bytes.

    Raises:
        FileNotFoundError, NotADirectoryError: It is not there.
        SchemaError: It is no file to be read, or has more bytes than that.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise SchemaError(f"{path}: expected at most {max_bytes} bytes, got {size}: it is not what it is named")
        try:
            return file.read(size)
        except OSError as error:
            raise SchemaError(f"{path}: it cannot be read: {error.strerror}") from None


def check_files_inside(folder: Path, sizes: Iterable[tuple[str, int]]) -> None:
    """Check that files lie in a folder and have their sizes; nothing is opened.

    Args:
        folder: The folder; it may be a link itself.
        sizes: Names that `microdiff.core.untrusted.check_name` has let pass, and bytes.

    Raises:
        SchemaError: One is missing, has another size, is no regular file, or lies elsewhere by a link.
    """
    real = _real(folder)
    inside: dict[str, bool] = {}
    for name, expected in sizes:
        path = folder / name
        parent = name.rpartition("/")[0]
        if parent not in inside:
            inside[parent] = not parent or _real(folder / parent).is_relative_to(real)
        try:
            facts = path.lstat()
            is_inside = inside[parent]
            if is_inside and stat.S_ISLNK(facts.st_mode):
                is_inside = _leads_to_content(path, real)
                facts = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise SchemaError(f"{path} is missing, although the index lists it: write or pull it again") from None
        except OSError as error:
            raise SchemaError(f"{path}: it cannot be read: {error.strerror}") from None
        if not is_inside:
            raise SchemaError(
                f"{path}: a link to a place outside the folder, {_real(path)}: name the folder that it leads to, or "
                "put a copy in its place"
            )
        _check_kind(path, facts.st_mode)
        if facts.st_size != expected:
            raise SchemaError(f"{path}: expected {expected} bytes, got {facts.st_size}: write or pull it again")


def _leads_to_content(link: Path, folder: Path) -> bool:
    """Tell whether a link leads to a file in the folder, or to one that is named by its content."""
    target = _real(link)
    return target.is_relative_to(folder) or _BY_CONTENT.fullmatch(str(target)) is not None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `Path.resolve` raises a RuntimeError for links in a circle


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise SchemaError(f"{path}: expected a file, found {kind}: remove it, and write or pull the file again")
