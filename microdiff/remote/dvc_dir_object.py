"""DVC's object for a tracked folder, `<md5>.dir`: it lists the MD5 of each file by path."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from microdiff.core.files import locked_folder, scratch_folder, sync
from microdiff.core.progress import LogReporter
from microdiff.errors import SourceError
from microdiff.remote.dvc_objects import fetch_object
from microdiff.storage import NotFound, Storage
from microdiff.storage.retry import FEW_ATTEMPTS

SUFFIX = ".dir"
_MD5 = re.compile("[0-9a-f]{32}")


def fetch_dir_object(store: Storage, directory: str, cache: Path, name: str) -> dict[str, str]:
    """Return the MD5 of each file of a tracked folder by path, from the cache or the remote.

    Args:
        store: Holds the object.
        directory: The dir object's name, `<md5>.dir`.
        cache: The cache folder; the object is kept there.
        name: What it is, for messages.

    Raises:
        SourceError: The object cannot be had whole, or is no dir object.
    """
    path = cache / "listings" / directory
    if not path.is_file():
        folder = cache / "partial" / directory
        with locked_folder(folder):
            if not path.is_file():
                part = folder / "part"
                try:
                    fetch_object(store, directory, part, LogReporter(), FEW_ATTEMPTS)
                except NotFound as error:
                    raise SourceError(f"{name}: it is not on the remote ({error}) Push it: make push") from None
                path.parent.mkdir(parents=True, exist_ok=True)
                part.rename(path)
                sync(path.parent)
            shutil.rmtree(folder, ignore_errors=True)
    return parse_dir_object(path.read_bytes(), name)


def keep_dir_object(files: Mapping[str, str], cache: Path) -> None:
    """Keep the object of files that came by another way than the remote, as `fetch_dir_object` does."""
    directory = folder_digest(files)
    path = cache / "listings" / directory
    if not path.is_file():
        with scratch_folder(path.parent) as folder:
            (folder / directory).write_bytes(dir_object_bytes(files))
            (folder / directory).rename(path)


def parse_dir_object(data: bytes, name: str) -> dict[str, str]:
    """Return the MD5 of each file by path from a dir object's bytes.

    Raises:
        SourceError: It is no dir object, or names a file outside the folder.
    """
    try:
        entries: list[dict[str, object]] = json.loads(data)
        if not isinstance(entries, list):
            raise TypeError(type(entries))
        files = {str(entry["relpath"]): str(entry["md5"]) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{name}: the object that lists its files is no such list ({type(error).__name__})") from None
    check_paths(files, name)
    return files


def check_paths(files: Mapping[str, str], name: str) -> None:
    """Check that files stay inside their folder and are named by MD5.

    Raises:
        SourceError: One does not, or is not.
    """
    for path, md5 in files.items():
        is_inside = path and not path.startswith("/") and not {"..", ".", ""} & set(path.split("/"))
        if not is_inside or not _MD5.fullmatch(md5):
            raise SourceError(f"{name}: it lists a file {path!r} with MD5 {md5!r}, which cannot be. Do not trust it.")


def dir_object_bytes(files: Mapping[str, str]) -> bytes:
    """Return the bytes of the dir object that DVC writes for files with these MD5s."""
    return json.dumps([{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]).encode()


def folder_digest(files: Mapping[str, str]) -> str:
    """Return the digest that DVC gives a folder of files with these MD5s: the name of its dir object."""
    return hashlib.md5(dir_object_bytes(files), usedforsecurity=False).hexdigest() + SUFFIX


def files_elsewhere(files: Mapping[str, str], directory: str, cache: Path) -> dict[str, Path]:
    """Return the files of other versions in a cache that a version has as well, by MD5."""
    wanted, found = set(files.values()), {}
    for other in sorted((cache / "listings").glob(f"*{SUFFIX}")):
        if other.name != directory:
            folder = cache / "shards" / other.name.removesuffix(SUFFIX)
            for path, md5 in parse_dir_object(other.read_bytes(), other.name).items():
                if md5 in wanted:
                    found[md5] = folder / path
    return found
