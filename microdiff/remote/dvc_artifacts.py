"""The versions of a tracked folder that a project knows of, and their files: from DVC's cache, else from its remote.

What dvc.lock has recorded comes first, then what the last commit has, then what earlier commits have. Nothing is
fetched but what is asked for, file by file.
"""

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from microdiff.core.files import link_or_copy, md5_of, scratch_folder
from microdiff.core.progress import LogReporter
from microdiff.core.verified_files import InputFile
from microdiff.errors import SourceError
from microdiff.remote.dvc_config import cache_folder, project_settings, remotes
from microdiff.remote.dvc_dir_object import fetch_dir_object, parse_dir_object
from microdiff.remote.dvc_lock import LOCK, parse_lock
from microdiff.remote.dvc_objects import fetch_object, object_path
from microdiff.remote.git_revision import earlier_versions
from microdiff.storage import NotFound, Storage
from microdiff.storage.opening import open_remote

log = logging.getLogger("microdiff")

_MOST_COMMITS = 20  # whose artifacts are looked at
_PROTECTED = 0o444  # as DVC has it


@dataclass(frozen=True)
class TrackedVersion:
    """A tracked folder as one dvc.lock has it.

    Attributes:
        path: Of the folder, relative to the project's.
        digest: Of its dir object, `<md5>.dir`.
        files: MD5 of each file by path in the folder.
        project: Has them.
    """

    path: str
    digest: str
    files: Mapping[str, str]
    project: "DvcArtifacts" = field(repr=False, compare=False)

    @property
    def objects(self) -> dict[str, str]:
        """What it consists of, by MD5: its files' names, and its dir object."""
        return {self.digest: "the list of its files", **{md5: name for name, md5 in self.files.items()}}

    def put(self, name: str, target: Path, expected: tuple[int, str] | None = None) -> None:
        """Put a file at a path, verified.

        Args:
            name: Its path in the folder.
            target: Where to; there is nothing yet.
            expected: Its size and SHA-256, if they are known; else its MD5 is checked where it is fetched.

        Raises:
            SourceError: It is neither in the cache nor on the remote, or is damaged there.
        """
        md5 = self.files.get(name)
        if md5 is None:
            raise NotFound(f"{self.path}/{name}: DVC has recorded no such file")
        self.project.put(md5, target, f"{self.path}/{name}", expected)


class DvcArtifacts:
    """What DVC keeps of a project's tracked folders.

    Args:
        root: The project.
        work: Folder for what is fetched.

    Attributes:
        cache: Folder in which DVC's cache has files by their MD5.
    """

    def __init__(self, root: Path, work: Path) -> None:
        self._root = root
        self._work = work
        self._lock = threading.Lock()
        self.cache = cache_folder(root)
        self._remote: Storage | None = None
        self._has_remote = True
        self._locks: list[bytes] | None = None

    def current(self, path: str) -> TrackedVersion | None:
        """Return a folder as dvc.lock records it, None where that cannot be had."""
        file = self._root / LOCK
        digest = _digest_of(path, file.read_bytes()) if file.is_file() else None
        files = None if digest is None else self._files(digest, path)
        return None if digest is None or files is None else TrackedVersion(path, digest, files, self)

    def versions(self, path: str) -> Iterator[TrackedVersion]:
        """Yield the versions of a folder, the one in dvc.lock first; those of which nothing can be had are left out."""
        seen = set()
        for text in self._lock_files():
            digest = _digest_of(path, text)
            if digest is None or digest in seen:
                continue
            seen.add(digest)
            files = self._files(digest, path)
            if files is not None:
                yield TrackedVersion(path, digest, files, self)

    def put(self, md5: str, target: Path, name: str, expected: tuple[int, str] | None) -> None:
        """See `TrackedVersion.put`."""
        cached = self.cached(md5)
        if cached.is_file():
            if expected is None or InputFile(cached, *expected).is_whole():
                link_or_copy(cached, target)
                return
            log.warning("%s: damaged in DVC's cache. It is dropped there.", name)
            cached.unlink(missing_ok=True)
        remote = self._open_remote()
        if remote is None:
            raise NotFound(f"{name}: not in DVC's cache, and there is no DVC remote")
        with scratch_folder(self._work) as folder:
            fetch_object(remote, md5, folder / "part", LogReporter())
            if expected is not None:
                InputFile(folder / "part", *expected).check()
            (folder / "part").rename(target)

    def cached(self, md5: str) -> Path:
        """Return where the cache has an object, if it has it."""
        return self.cache / md5[:2] / md5[2:]

    def keep(self, md5: str, path: Path) -> None:
        """Put a file into the cache, unless it is there: its copy was dropped because it was damaged."""
        cached = self.cached(md5)
        if not cached.exists() and md5_of(path) == md5.removesuffix(".dir"):
            cached.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, cached)
            cached.chmod(_PROTECTED)

    def is_on_remote(self, md5: str) -> bool:
        """Tell whether the remote has an object.

        Raises:
            SourceError: There is no remote, or it cannot be reached.
        """
        remote = self._open_remote()
        if remote is None:
            raise SourceError(f"{self._root}: it has no DVC remote. Set one: make remote URL=s3://BUCKET/PREFIX")
        try:
            remote.stat(object_path(md5))
        except NotFound:
            return False
        return True

    def drop_cached(self, version: TrackedVersion) -> None:
        """Remove a version's files from the cache; the object that lists them stays, and so does its manifest."""
        for name, md5 in version.files.items():
            if name != "manifest.json":
                self.cached(md5).unlink(missing_ok=True)

    def drop_links(self, path: Path) -> None:
        """Remove a damaged file from the cache, if that has the same file by a hard link or a symbolic one."""
        try:
            damaged = path.stat()
        except FileNotFoundError:
            return
        for folder in self.cache.glob("[0-9a-f][0-9a-f]"):
            for entry in os.scandir(folder):
                if entry.inode() == damaged.st_ino and os.path.samestat(entry.stat(follow_symlinks=False), damaged):
                    log.warning("%s: the same file, by a hard link, in DVC's cache. It is dropped there.", path)
                    Path(entry.path).unlink(missing_ok=True)

    def _files(self, digest: str, path: str) -> Mapping[str, str] | None:
        """Return the files of a version, None where its dir object cannot be had."""
        try:
            cached = self.cached(digest)
            if cached.is_file():
                return parse_dir_object(cached.read_bytes(), str(cached))
            remote = self._open_remote()
            return None if remote is None else fetch_dir_object(remote, digest, self._work, path)
        except SourceError as error:
            log.debug("%s: %s", path, error)
            return None

    def _open_remote(self) -> Storage | None:
        with self._lock:
            if self._remote is None and self._has_remote:
                self._has_remote = False
                settings = project_settings(self._root)
                name = settings.get("core", {}).get("remote", "").lower()
                found = remotes(settings).get(name)
                if found is not None and found.get("url"):
                    try:
                        self._remote = open_remote(found)
                    except SourceError as error:
                        log.warning("Artifacts are not looked for on the DVC remote: %s", error)
            return self._remote

    def _lock_files(self) -> Iterator[bytes]:
        file = self._root / LOCK
        if file.is_file():
            yield file.read_bytes()
        with self._lock:
            if self._locks is None:
                self._locks = earlier_versions(self._root, LOCK, _MOST_COMMITS)
        yield from self._locks


def _digest_of(path: str, lock: bytes) -> str | None:
    try:
        found = {output.path: output.md5 for output in parse_lock(lock)}
    except ValueError:
        return None
    return found.get(path)


def every_lock(root: Path) -> list[bytes]:
    """Return a project's dvc.lock as it is here, if it is, and as all commits of all branches have it."""
    file = root / LOCK
    here = [file.read_bytes()] if file.is_file() else []
    return list(dict.fromkeys([*here, *earlier_versions(root, LOCK)]))
