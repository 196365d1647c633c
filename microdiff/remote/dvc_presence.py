"""Which artifacts are here, and where DVC could bring the others from: its cache, or its default remote."""

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import MANIFEST, parse_manifest
from microdiff.core.files import whole_file
from microdiff.errors import SchemaError, SourceError
from microdiff.remote.dvc_config import CONFIG, LOCAL_CONFIG, machine_settings, merged, read_settings, remotes
from microdiff.remote.dvc_lock import LOCK, DvcOutput, parse_lock
from microdiff.remote.dvc_objects import object_path
from microdiff.remote.dvc_record import dvc_record
from microdiff.storage import NotFound, Storage
from microdiff.storage.opening import open_remote

log = logging.getLogger("microdiff")

_POLL_S = 0.05
_PATIENCE_S = 2.0


def default_remote(root: Path) -> dict[str, str] | None:
    """Return the settings of a project's default DVC remote, None where it has none.

    Raises:
        SourceError: DVC's configuration is damaged.
    """
    own = root.absolute() / ".dvc"
    settings = merged([*machine_settings(), read_settings(own / CONFIG), read_settings(own / LOCAL_CONFIG)])
    name = settings.get("core", {}).get("remote", "").lower()
    return dict(remotes(settings).get(name, {})) if name else None


def absent_artifacts(root: Path, dataset: str) -> list[str]:
    """Return the kinds of a dataset's artifacts that dvc.lock records and that are not here, or not all of them."""
    recorded = {output.path for output in _recorded(root)}
    return [
        kind for kind in KINDS if f"data/{dataset}/{kind}" in recorded and not _is_here(root / "data" / dataset / kind)
    ]


def absent_metrics(root: Path, dataset: str) -> dict[str, str]:
    """Return the MD5 of metrics of a dataset, by their step, that dvc.lock records and that are not here."""
    recorded = {output.path: output.md5 or "" for output in _recorded(root)}
    paths = {step: f"metrics/{step}/{dataset}.json" for step in KINDS.values()}
    return {step: recorded[path] for step, path in paths.items() if path in recorded and not (root / path).is_file()}


class Origin:
    """Where DVC could bring artifacts from.

    Args:
        root: The project.
        remote: The settings of its default remote.
    """

    def __init__(self, root: Path, remote: dict[str, str]) -> None:
        self._root = root
        self._remote = remote
        self._store: Storage | None = None

    def has(self, dataset: str, kind: str) -> bool:
        """Tell whether an artifact, as dvc.lock records it, is in DVC's cache or on the remote.

        Where the remote cannot be asked, that is said, and the artifact taken to be there.

        Raises:
            SchemaError: dvc.lock is damaged.
        """
        record = dvc_record(self._root, dataset, kind)
        if record is None:
            return False
        if record.files is not None and all(record.object_path(md5).is_file() for md5 in record.files.values()):
            return True
        try:
            self._store = self._store or open_remote(self._remote)
            self._store.stat(object_path(record.digest), f"md5:{record.digest.removesuffix('.dir')}")
        except NotFound:
            return False
        except SourceError as error:
            log.warning("warning: data/%s/%s is not here, and may not be on the remote: %s", dataset, kind, error)
        return True


def others_at_work(root: Path, dataset: str) -> list[int]:
    """Return the processes of other DVC commands that hold files which a dataset's nodes read or write."""
    try:
        held = json.loads((root / ".dvc" / "tmp" / "rwlock").read_bytes())
    except (OSError, ValueError):  # nobody holds anything, or it is being written
        return []
    ours = (f"{os.sep}data{os.sep}{dataset}{os.sep}", f"{os.sep}code{os.sep}", f"{os.sep}{dataset}.json")
    return sorted({pid for path, pid in _holders(held) if any(part in path for part in ours) and is_alive(pid)})


def restore_rwlock(root: Path, patience_s: float | None = None) -> str | None:
    """Empty DVC's file of locks if a kill cut it, with which no DVC command works; return what to say of it.

    Args:
        root: The project.
        patience_s: How long to wait for a process that may be writing it; None for two seconds.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    deadline = time.monotonic() + (_PATIENCE_S if patience_s is None else patience_s)
    while True:
        try:
            json.loads(path.read_bytes())
            return None
        except FileNotFoundError:
            return None
        except ValueError:
            if time.monotonic() >= deadline:
                break
        time.sleep(_POLL_S)
    with whole_file(path) as file:
        file.write(b"{}")
    return f"{path}: a killed DVC command left it cut; it is emptied"


def _holders(held: object) -> Iterator[tuple[str, int]]:
    """Yield the paths in DVC's file of locks, each with a process that holds it."""
    if not isinstance(held, dict):
        return
    for path, holder in dict(held.get("write") or {}).items():
        if isinstance(holder, dict) and "pid" in holder:
            yield path, int(holder["pid"])
    for path, holders in dict(held.get("read") or {}).items():
        if f"{os.sep}code{os.sep}" not in path:  # any number may read these
            yield from ((path, int(holder["pid"])) for holder in holders)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _recorded(root: Path) -> list[DvcOutput]:
    try:
        return parse_lock((root / LOCK).read_bytes())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise SchemaError(f"{root / LOCK}: damaged ({error}). Restore it with git checkout {LOCK}") from None


def _is_here(folder: Path) -> bool:
    """Tell whether a folder is here with all files of its manifest; what is here and damaged is for DVC to see."""
    if not folder.is_dir():
        return False
    if not (folder / MANIFEST).is_file():
        return True
    try:
        return all((folder / name).exists() for name in parse_manifest(folder).files)
    except SchemaError:
        return True
