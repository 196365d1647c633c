"""What DVC has recorded of an artifact on this machine: its digest in dvc.lock, and its files in the cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from microdiff.core.files import md5_of
from microdiff.errors import SchemaError
from microdiff.remote.dvc_config import cache_folder
from microdiff.remote.dvc_dir_object import SUFFIX, parse_dir_object
from microdiff.remote.dvc_lock import LOCK, parse_lock


@dataclass(frozen=True)
class DvcRecord:
    """An artifact folder as dvc.lock has it.

    Attributes:
        digest: Of the folder: `<md5>.dir`.
        cache: Folder of DVC's cached files.
        files: MD5 by path in the artifact; None where the dir object is not in the cache, or is damaged there.
    """

    digest: str
    cache: Path
    files: Mapping[str, str] | None

    def object_path(self, digest: str) -> Path:
        """Return where the cache keeps what has this digest."""
        return self.cache / digest[:2] / digest[2:]

    def drop_damaged(self, names: set[str]) -> int:
        """Remove the cache's copies of files, and the dir object, where they are damaged; return how many were.

        With hard links the damaged file in the artifact and the one in the cache are one file.
        """
        suspects = [md5 for path, md5 in (self.files or {}).items() if path in names]
        dropped = 0
        for digest in (self.digest, *suspects):
            path = self.object_path(digest)
            if path.is_file() and md5_of(path) != digest.removesuffix(SUFFIX):
                path.unlink()
                dropped += 1
        return dropped

    def drop(self, names: set[str]) -> None:
        """Remove the cache's copies of files, whatever they are."""
        for path, md5 in (self.files or {}).items():
            if path in names:
                self.object_path(md5).unlink(missing_ok=True)


def dvc_record(root: Path, dataset: str, kind: str) -> DvcRecord | None:
    """Return what DVC has recorded of an artifact, None where it has nothing.

    Raises:
        SchemaError: dvc.lock is damaged.
        SourceError: DVC's configuration is damaged.
    """
    lock = root / LOCK
    if not lock.is_file():
        return None
    try:
        digests = {output.path: output.md5 for output in parse_lock(lock.read_bytes())}
    except ValueError as error:
        raise SchemaError(f"{lock}: damaged ({error}). Restore it with git checkout dvc.lock") from error
    digest = digests.get(f"data/{dataset}/{kind}")
    if digest is None:
        return None
    record = DvcRecord(digest, cache_folder(root), None)
    path = record.object_path(digest)
    if not path.is_file() or f"{md5_of(path)}{SUFFIX}" != digest:
        return record
    return DvcRecord(digest, record.cache, parse_dir_object(path.read_bytes(), str(path)))
