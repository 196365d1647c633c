"""One version of a shard set, fetched file by file into a local folder laid out like it.

A cache folder holds

    shards/<md5>/       one folder per version, named by the object that lists its files
    listings/<md5>.dir  these objects
    partial/<md5>/part  what an interrupted download has of an object; it is locked by who continues it
    git/                commits of other repositories (see microdiff.remote.git_revision)

A file in `shards/` is whole: it was checked and is on disk before it got its name. It may be deleted at any time, as
streaming's `cache_limit` does, and is then fetched again. What two versions have in common is one file with two names.
"""

import os
import shutil
import stat
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from microdiff.artifacts.manifest import MANIFEST
from microdiff.core.files import link_or_copy, locked_folder, md5_of, sweep, sync
from microdiff.core.progress import LogReporter, Reporter
from microdiff.core.withdrawn import Withdrawn
from microdiff.errors import SourceError
from microdiff.remote.dvc_objects import fetch_object
from microdiff.storage import NotFound, Storage
from microdiff.storage.retry import ATTEMPTS, FEW_ATTEMPTS

INDEX = "index.json"
_FORGOTTEN_AFTER_S = 7 * 86400
_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class CachedShards:
    """A version of a shard set on a DVC remote, and what is here of it; a `microdiff.remote.shard_source.ShardSource`.

    Attributes:
        name: What it is, for messages.
        directory: The object that lists its files, `<md5>.dir`.
        files: The MD5 of each file by path.
        store: Holds the objects.
        settings: The remote's, which may hold credentials.
        cache: The cache folder.
        inside: The folder in the set that is meant, empty for all of it.
        withdrawn: The samples that may not be used any more.
        elsewhere: Files of other versions in the cache, by MD5.
        report: Hears of bytes received and of attempts that are repeated.
    """

    name: str
    directory: str
    files: Mapping[str, str] = field(repr=False)
    store: Storage
    settings: Mapping[str, str] = field(repr=False)
    cache: Path
    inside: str = ""
    withdrawn: Withdrawn = field(default_factory=Withdrawn, repr=False)
    elsewhere: Mapping[str, Path] = field(default_factory=dict, repr=False)
    report: Reporter = field(default_factory=LogReporter, repr=False, compare=False)

    @property
    def local(self) -> Path:
        """The folder that is laid out like the set."""
        return self._root / self.inside

    @property
    def _root(self) -> Path:
        return self.cache / "shards" / self.directory.removesuffix(".dir")

    def fetch(self, name: str) -> None:
        """Put one file into `local`: verified, atomic, safe from many processes at once.

        Args:
            name: Relative to `local`.

        Raises:
            SourceError: The set has no such file, or it cannot be had whole.
        """
        path = str(PurePosixPath(self.inside, name))
        if path not in self.files:
            raise SourceError(f"{self.name}: it has no file {path}")
        self._fetch(path, ATTEMPTS)

    def fetch_indexes(self) -> None:
        """Fetch what a reader needs before any shard: the indexes and the manifest, several at once.

        Raises:
            SourceError: The set has no index, or one of them cannot be had whole.
        """
        if str(PurePosixPath(self.inside, INDEX)) not in self.files:
            raise SourceError(f"{self.name}: it has no {INDEX}, so it is no folder of shards")
        names = [path for path in self.files if PurePosixPath(path).name in (INDEX, MANIFEST)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda path: self._fetch(path, FEW_ATTEMPTS), names))

    def _fetch(self, path: str, attempts: int) -> None:
        target, md5 = self._root / path, self.files[path]
        if target.is_file():
            return
        folder = self.cache / "partial" / md5
        with locked_folder(folder):
            if not target.is_file():  # another process may have fetched it meanwhile
                target.parent.mkdir(parents=True, exist_ok=True)
                part = folder / "part"
                if not _take(self.elsewhere.get(md5), part, md5):
                    try:
                        fetch_object(self.store, md5, part, self.report, attempts)
                    except NotFound as error:
                        raise SourceError(
                            f"{self.name}: {path} is not on the remote ({error})\n"
                            "Have it pushed where it was made: make push"
                        ) from None
                part.rename(target)
                sync(target.parent)
            shutil.rmtree(folder, ignore_errors=True)


def tidy(cache: Path) -> None:
    """Remove what is left of downloads that nobody continued for a week."""
    sweep(cache / "listings")
    for part in (cache / "partial").glob("*/part"):
        try:
            is_old = time.time() - part.stat().st_mtime > _FORGOTTEN_AFTER_S
        except FileNotFoundError:
            continue
        if is_old:
            with locked_folder(part.parent):
                shutil.rmtree(part.parent, ignore_errors=True)


def cache_folder(given: Path | None) -> Path:
    """Return the cache folder: the one given, MICRODIFF_CACHE, or `microdiff` where caches are kept."""
    if given is not None:
        return given.expanduser().absolute()
    named = os.environ.get("MICRODIFF_CACHE")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "microdiff"
    return Path(named).expanduser().absolute() if named else usual


def _take(source: Path | None, part: Path, md5: str) -> bool:
    """Link a file of another version, if it is there and has these bytes.

    Another version may be a stranger's, whose shards were decompressed under names that its own list gives to others.
    """
    if source is None:
        return False
    taken = part.with_name("taken")
    taken.unlink(missing_ok=True)
    try:
        link_or_copy(source, taken)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(taken.lstat().st_mode) or md5_of(taken) != md5:
        taken.unlink()
        return False
    taken.replace(part)
    return True
