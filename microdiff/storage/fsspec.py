"""A storage that fsspec can read and that has no module of its own: `gs://bucket/prefix`, `ftp://...`, and others.

Credentials come from where the storage's own tools look for them. The packages are imported when such a storage is
used, not before.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from microdiff.config.roots import public_root
from microdiff.core.progress import Reporter
from microdiff.errors import SourceError
from microdiff.storage import SETTING, Body, CannotResume, Changed, Entry, NotFound, SourceFile, Storage, failures
from microdiff.storage.retry import retried
from microdiff.storage.urls import without_secrets

_BLOCK_BYTES = 16 * 2**20  # read by one request; a kill loses at most as much
_FAILURES = {  # what file systems raise besides OSError, by the module that defines it
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
}


def open_fsspec(root: str, report: Reporter, setting: str = SETTING) -> "FsspecStorage":
    """Return the storage at a root of a kind that fsspec knows.

    Raises:
        SourceError: It knows none, or the package for it is not installed.
    """
    from fsspec.registry import get_filesystem_class, known_implementations

    scheme, name = urlsplit(root).scheme, without_secrets(root)
    try:
        get_filesystem_class(scheme)
    except ImportError:
        package = known_implementations[scheme]["class"].partition(".")[0]
        raise SourceError(
            f"{name}: {scheme}:// needs the package {package}. Install it into this environment, or check {setting}."
        ) from None
    except ValueError:
        raise SourceError(
            f"{name}: unknown kind of source; expected a local folder, a list of links, http://, https://, "
            f"hf://datasets/ORG/REPO@REVISION, s3://, or another that fsspec knows. Check {setting}."
        ) from None
    return FsspecStorage(root=root.rstrip("/"), report=report, setting=setting)


@dataclass(frozen=True, kw_only=True)
class FsspecStorage(Storage):
    """A folder of a file system that fsspec reads.

    Attributes:
        root: Its URL.
    """

    root: str = field(repr=False)  # may hold a password

    @property
    def name(self) -> str:
        """The root without user, password and query; of a folder of this machine, its name."""
        return public_root(self.root)

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file by its ETag if there is one, else by whatever the file system says of it."""
        num_bytes, identity = retried(self, path, lambda: self._facts(path))
        return SourceFile(path, num_bytes, checksum or identity)

    def list(self, folder: str) -> Sequence[str]:
        """Return a folder's files, sorted."""
        folder = folder.strip("/")
        try:
            names = retried(self, folder, lambda: self._file_names(folder))
        except NotFound:
            return []
        paths = [name.strip("/") for name in names]
        return sorted(path for path in paths if path and path.rpartition("/")[0] == folder)

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Yield all files below the root, folder by folder."""
        pending = [""]
        while pending:
            folder = pending.pop()
            try:
                found = retried(self, folder, partial(self._entries, folder))
            except NotFound:
                continue
            for path, kind in found:
                if kind == "file":
                    yield Entry(path)
                elif path != folder:
                    pending.append(path)

    @contextmanager
    def read(self, path: str, start: int = 0, version: str = "") -> Iterator[Body]:
        """Open a file."""
        facts = self._facts(path)
        num_bytes, identity = facts
        if start and start >= num_bytes:
            raise CannotResume("it ends before")
        with self.errors_in_words(path):
            system, root = self.system()
            stream = system.open(f"{root}/{path}", "rb", block_size=_BLOCK_BYTES, cache_type="none")
        with stream:
            yield Body(start, num_bytes, identity.partition(":")[2], self._chunks(stream, path, start, facts))

    def _chunks(self, stream: Any, path: str, start: int, facts: tuple[int, str]) -> Iterator[bytes]:
        """Yield a file's bytes, which several requests bring: the file must be the same after the last of them."""
        with self.errors_in_words(path):
            stream.seek(start)
        while chunk := self._block(stream, path):
            yield chunk
        if self._facts(path) != facts:
            raise Changed(f"{self.name}/{path}: changed on the server: while it was read. Run again.")

    def _block(self, stream: Any, path: str) -> bytes:
        with self.errors_in_words(path):
            block: bytes = stream.read(_BLOCK_BYTES)
        return block

    def _file_names(self, folder: str) -> Sequence[str]:
        """Return what follows the root in the names of a folder's files."""
        return [path for path, kind in self._entries(folder) if kind == "file"]

    def _entries(self, folder: str) -> Sequence[tuple[str, str]]:
        """Return what follows the root in the names of what is in a folder, and what it is."""
        with self.errors_in_words(folder):
            system, root = self.system()
            entries = system.ls("/".join(filter(None, (root, folder))), detail=True)
        return [(entry["name"][len(root) :].strip("/"), entry["type"]) for entry in entries]

    def _facts(self, path: str) -> tuple[int, str]:
        """Return a file's size and identity."""
        with self.errors_in_words(path):
            system, root = self.system()
            facts = system.info(f"{root}/{path}")
            if facts["type"] != "file":
                raise FileNotFoundError(path)
            etag = facts.get("ETag") or facts.get("etag")
            return int(facts["size"]), f"etag:{etag}" if etag else f"version:{system.ukey(f'{root}/{path}')}"

    def system(self) -> tuple[Any, str]:
        """Return the file system, and the root's path in it."""
        from fsspec.core import url_to_fs

        system, path = url_to_fs(self.root, use_listings_cache=False)
        return system, path.rstrip("/")

    @contextmanager
    def errors_in_words(self, path: str) -> Iterator[None]:
        """Raise what the file system's errors mean in place of them."""
        where = "/".join(filter(None, (self.name, path)))
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"{where}: no such file. Check {self.setting}.") from None
        except PermissionError:
            raise SourceError(
                f"{where}: access denied. Check the credentials, and that they may list and read; "
                "a file that is absent may look the same."
            ) from None
        except _failures() as error:
            kind = type(error).__name__
            if "Credentials" in kind:
                raise SourceError(f"{where}: {kind}. Give them as this storage's own tools expect them.") from None
            try:
                problem = failures.reason(error, None)
            except failures.ProxyRefuses as refusal:
                raise SourceError(f"{where}: {refusal}") from None
            raise problem from None


def _failures() -> tuple[type[Exception], ...]:
    """Return what the file systems in use raise when something fails."""
    loaded = [(sys.modules[module], names) for module, names in _FAILURES.items() if module in sys.modules]
    return (OSError, *(getattr(module, name) for module, names in loaded for name in names))
