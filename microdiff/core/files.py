"""Files that are whole or absent: atomic writes, durable renames, hard links, and digests."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Any

from microdiff.core.places import writing_to

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES)
_TEMPORARY = "tmp-"
_COPY_BYTES = 2**22


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys, one form for equal values, ending in a newline."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def digest_json(value: object) -> str:
    """Return the SHA-256 hex digest of a JSON value."""
    compact = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(compact.encode("utf-8", "surrogatepass")).hexdigest()


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of(path: Path) -> str:
    """Return the md5 of a file, by which DVC names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, new_md5).hexdigest()


def md5_of_bytes(data: bytes) -> str:
    """Return the md5 of bytes, by which DVC names a file that holds them."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def new_md5() -> "hashlib._Hash":
    """Return an MD5 hash, which names files here and protects nothing."""
    return hashlib.md5(usedforsecurity=False)


def write_json(path: Path, value: object) -> None:
    """Write canonical JSON to `path` atomically and durably, making its folder if needed."""
    write_text(path, canonical_json(value))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 to `path` atomically and durably, making its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(text.encode())


@contextmanager
def whole_file(path: Path) -> Iterator[BufferedWriter]:
    """Give a file that takes the name `path` only when the block has ended well and the bytes are on disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with _called(temporary, path), writing_to(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(folder: Path) -> None:
    """Flush the entries of a folder, and of all folders below it, to disk."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` by a hard link, or a copy where links are impossible."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with writing_to(target, source):
            shutil.copyfile(source, target)
            sync(target)


@contextmanager
def _called(temporary: Path, path: Path) -> Iterator[None]:
    """Have the system's errors name `path` where they name a temporary file or folder, which tells nobody anything."""
    try:
        yield
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)
        raise


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file; `target` is whole and on disk, or what it was."""
    with source.open("rb") as data, whole_file(target) as file:
        shutil.copyfileobj(data, file, _COPY_BYTES)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Give a new temporary folder inside `parent`, removed at the end unless it was renamed away.

    The folder stays locked while its owner lives, so `sweep` can tell a dead owner's folder from a live one's.
    """
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
        with _called(folder, parent):
            folder.mkdir()
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # swept between the two calls
            continue
        if try_lock(descriptor) and folder.exists():
            break
        os.close(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(parent: Path) -> int:
    """Remove temporary folders in `parent` whose owner died; return how many."""
    removed = 0
    for folder in sorted(parent.glob(f"{_TEMPORARY}*")):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            if try_lock(descriptor):
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        finally:
            os.close(descriptor)
    return removed


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, making it if needed; others wait."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # removed between the two calls
            continue
        except FileExistsError:  # removed while mkdir looked whether what exists is a folder
            if folder.exists() and not folder.is_dir():
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not is_at(descriptor, folder):  # removed while this process waited
                continue
            yield
            return
        finally:
            os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Tell whether a path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def replace_folder(new: Path, target: Path) -> None:
    """Put the finished folder `new` in the place of `target`, which may exist."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    new.rename(target)
    sync(target.parent)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder for this process, unless another has locked it; tell which."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
