"""The list of a tracked folder's files, as DVC keeps it in an object `<md5>.dir`: the MD5 of each file by path."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from microdiff.core.files import locked_folder, scratch_folder
from microdiff.core.progress import LogReporter
from microdiff.errors import SourceError
from microdiff.storage.objects import NoSuchObject, ObjectStore
from microdiff.storage.objects.fetching import FEW_ATTEMPTS, fetch_object

_DIGITS = set("0123456789abcdef")


def read_listing(store: ObjectStore, directory: str, cache: Path, name: str) -> dict[str, str]:
    """Return the MD5 of each file of a tracked folder by path, from the cache or the remote.

    Args:
        store: Holds the object.
        directory: The object that lists the files, `<md5>.dir`.
        cache: The cache folder; the list is kept there.
        name: What it is, for messages.

    Raises:
        SourceError: The object cannot be had whole, or is no such list.
    """
    path = cache / "listings" / directory
    if not path.is_file():
        folder = cache / "partial" / directory
        with locked_folder(folder):
            if not path.is_file():
                part = folder / "part"
                try:
                    fetch_object(store, directory, part, LogReporter(), FEW_ATTEMPTS)
                except NoSuchObject as error:
                    raise SourceError(f"{name}: it is not on the remote ({error}). Push it: make push") from None
                path.parent.mkdir(parents=True, exist_ok=True)
                part.rename(path)
            shutil.rmtree(folder, ignore_errors=True)
    return parse_listing(path.read_bytes(), name)


def keep_listing(directory: str, files: Mapping[str, str], cache: Path) -> None:
    """Keep a list of files that came by another way than the remote, as `read_listing` does."""
    path = cache / "listings" / directory
    if not path.is_file():
        with scratch_folder(path.parent) as folder:
            (folder / directory).write_bytes(listing_bytes(files))
            (folder / directory).rename(path)


def parse_listing(data: bytes, name: str) -> dict[str, str]:
    """Return the MD5 of each file by path from the bytes of a list.

    Raises:
        SourceError: It is no such list, or names a file outside the folder.
    """
    try:
        files = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(data)}
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
        if not is_inside or len(md5) != 32 or set(md5) - set("0123456789abcdef"):
            raise SourceError(f"{name}: it lists a file {path!r} with MD5 {md5!r}, which cannot be. Do not trust it.")


def listing_bytes(files: Mapping[str, str]) -> bytes:
    """Return the bytes that DVC writes to list files; their MD5 names the list."""
    return json.dumps([{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]).encode()


def files_elsewhere(files: Mapping[str, str], directory: str, cache: Path) -> dict[str, Path]:
    """Return the files of other versions in a cache that a version has as well, by MD5."""
    wanted, found = set(files.values()), {}
    for listing in sorted((cache / "listings").glob("*.dir")):
        if listing.name != directory:
            folder = cache / "shards" / listing.name.removesuffix(".dir")
            for path, md5 in parse_listing(listing.read_bytes(), listing.name).items():
                if md5 in wanted:
                    found[md5] = folder / path
    return found
