"""What DVC has recorded of an artifact: the digest in dvc.lock, and the listing of its files in the cache."""

import configparser
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from microdiff.core.files import md5_of
from microdiff.errors import SchemaError

_DIR = ".dir"


@dataclass(frozen=True)
class DvcRecord:
    """An artifact folder as dvc.lock has it.

    Attributes:
        digest: Of the folder: `<md5>.dir`.
        cache: Folder of DVC's cached files.
        listing: md5 by path in the artifact; None where the listing is not in the cache, or is damaged there.
    """

    digest: str
    cache: Path
    listing: Mapping[str, str] | None

    def object_path(self, digest: str) -> Path:
        """Return where the cache keeps what has this digest."""
        return self.cache / digest[:2] / digest[2:]

    def drop_damaged(self, names: set[str]) -> int:
        """Remove the cache's copies of files, and the listing, where they are damaged; return how many were.

        With hard links the damaged file in the artifact and the one in the cache are one file.
        """
        listing = self.object_path(self.digest)
        suspects = {path: digest for path, digest in (self.listing or {}).items() if path in names}
        dropped = 0
        for path, digest in [(listing, self.digest), *((self.object_path(d), d) for d in suspects.values())]:
            if path.is_file() and md5_of(path) != digest.removesuffix(_DIR):
                path.unlink()
                dropped += 1
        return dropped


def dvc_record(root: Path, dataset: str, kind: str) -> DvcRecord | None:
    """Return what DVC has recorded of an artifact, None where it has nothing.

    Raises:
        SchemaError: dvc.lock is damaged.
    """
    lock = root / "dvc.lock"
    if not lock.is_file():
        return None
    try:
        stages = yaml.load(lock.read_text(encoding="utf-8"), yaml.CSafeLoader)["stages"]
        outs = [out for stage in stages.values() for out in stage.get("outs", ())]
        digests = {out["path"]: out["md5"] for out in outs}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"{lock}: damaged ({error!r}). Restore it with git checkout dvc.lock") from error
    digest = digests.get(f"data/{dataset}/{kind}")
    if digest is None:
        return None
    record = DvcRecord(digest, _cache(root), None)
    path = record.object_path(digest)
    if not path.is_file() or f"{md5_of(path)}{_DIR}" != digest:
        return record
    entries = json.loads(path.read_bytes())
    return DvcRecord(digest, record.cache, {entry["relpath"]: entry["md5"] for entry in entries})


def folder_digest(md5: Mapping[str, str]) -> str:
    """Return the digest that DVC gives a folder of files with these md5s."""
    entries = [{"md5": digest, "relpath": path} for path, digest in sorted(md5.items())]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + _DIR


def _cache(root: Path) -> Path:
    """Return the folder of cached files: in `.dvc/cache`, or where its settings say."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    place = settings.get("cache", "dir", fallback="cache")
    return (root / ".dvc" / place) / "files" / "md5"
