"""DVC's object for a tracked folder, `<md5>.dir`: it lists the MD5 of each file by path."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microdiff.core.files import locked_folder, md5_of_bytes, scratch_folder, sync
from microdiff.core.progress import LogReporter
from microdiff.core.regular_files import read_regular
from microdiff.core.untrusted import check_name, check_names_fit, load_json
from microdiff.errors import SchemaError, SourceError
from microdiff.remote.dvc_objects import fetch_object
from microdiff.storage import NotFound, Storage
from microdiff.storage.retry import FEW_ATTEMPTS

SUFFIX = ".dir"
_MD5 = re.compile("[0-9a-f]{32}")
_DIRECTORY = re.compile(r"[0-9a-f]{32}\.dir")
_MAX_BYTES = 2**30

log = logging.getLogger("microdiff")


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
    if not _DIRECTORY.fullmatch(directory):  # it is part of paths
        raise SourceError(f"{name}: expected the MD5 of a folder, got {directory!r:.80}. Do not trust it.")
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
    return parse_dir_object(_read(path), name)


def _read(path: Path) -> bytes:
    """Return a dir object that is kept in a cache.

    Raises:
        SourceError: It is not the one that it is named after.
    """
    try:
        data = read_regular(path, _MAX_BYTES)
    except SchemaError as error:
        raise SourceError(str(error)) from None
    if f"{md5_of_bytes(data)}{SUFFIX}" != path.name:
        raise SourceError(f"{path}: damaged: its bytes have MD5 {md5_of_bytes(data)}. Remove it and start again.")
    return data


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
        entries = load_json(data)
        if not isinstance(entries, list):
            raise TypeError(type(entries))
        listed = [(entry["relpath"], entry["md5"]) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{name}: the object that lists its files is no such list ({type(error).__name__})") from None
    return checked_files(listed, name)


def checked_files(listed: Sequence[tuple[Any, Any]], name: str) -> dict[str, str]:
    """Return the MD5 of each file by path, once it is known that the files stay inside their folder.

    Args:
        listed: Paths and MD5s.
        name: What lists them, for messages.

    Raises:
        SourceError: A file does not, or is not named by MD5.
    """
    files = {}
    try:
        for path, md5 in listed:
            if not isinstance(md5, str) or not _MD5.fullmatch(md5):
                raise ValueError(f"a file {path!r:.80} with MD5 {md5!r:.80}")
            files[check_name(path)] = md5
        check_names_fit(path for path, _ in listed)
    except ValueError as error:
        raise SourceError(f"{name}: it lists {error}, which cannot be. Do not trust it.") from None
    return files


def dir_object_bytes(files: Mapping[str, str]) -> bytes:
    """Return the bytes of the dir object that DVC writes for files with these MD5s."""
    return json.dumps([{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]).encode()


def folder_digest(files: Mapping[str, str]) -> str:
    """Return the digest that DVC gives a folder of files with these MD5s: the name of its dir object."""
    return hashlib.md5(dir_object_bytes(files), usedforsecurity=False).hexdigest() + SUFFIX


def files_elsewhere(files: Mapping[str, str], directory: str, cache: Path) -> dict[str, Path]:
    """Return the files of other versions in a cache that a version has as well, by MD5."""
    wanted, found = set(files.values()), dict[str, Path]()
    for other in sorted((cache / "listings").glob(f"*{SUFFIX}")):
        if other.name != directory:
            folder = cache / "shards" / other.name.removesuffix(SUFFIX)
            try:
                listed = parse_dir_object(_read(other), other.name)
            except SourceError as error:
                log.debug("%s: not looked at for files of other versions", error)
                continue
            found |= {md5: folder / path for path, md5 in listed.items() if md5 in wanted}
    return found
