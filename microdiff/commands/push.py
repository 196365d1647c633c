"""Check what is to be sent to the DVC remote, so that what it has under a name is what the name says.

`dvc push` sends what the cache has without reading it, and passes over what the remote has without asking what it is.
So damage would be sent under a good name, and a repair here would never reach the remote.
"""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from microdiff.core.files import md5_of, scratch_folder
from microdiff.errors import SchemaError, SourceError
from microdiff.remote.dvc_artifacts import DvcArtifacts
from microdiff.remote.dvc_dir_object import SUFFIX, dir_object_bytes
from microdiff.remote.dvc_lock import LOCK, parse_lock
from microdiff.remote.dvc_objects import object_path
from microdiff.remote.dvc_presence import default_remote
from microdiff.storage import Damaged, NotFound, Storage
from microdiff.storage.fetching import fetch_verified
from microdiff.storage.opening import open_remote
from microdiff.storage.writable import as_writable

log = logging.getLogger("microdiff")

_THREADS = 16
_SHOWN = 3


@dataclass(frozen=True)
class _Object:
    """An object of DVC's cache: its MD5, with `.dir` for a list of files, and the file that it is."""

    md5: str
    name: str
    path: Path

    @property
    def digest(self) -> str:
        return self.md5.removesuffix(SUFFIX)


def check_objects(root: Path, work: Path, *, read_remote: bool = False) -> None:
    """Check the objects that dvc.lock refers to: in the cache those that the remote lacks, and the remote's own.

    Those that the remote lacks are hashed here. Of those that it has, their MD5 is compared where it is stated (S3,
    objects sent in one piece), else their size; one that differs is read before it is believed to be damaged. An object
    that is damaged in the cache is taken from the artifact if that is whole; one that is damaged on the remote is sent
    again.

    Args:
        root: The project.
        work: Folder for what is fetched.
        read_remote: Whether to fetch and hash every object that the remote has.

    Raises:
        SchemaError: Objects are damaged here, and nothing can take their place; or dvc.lock is.
        SourceError: There is no remote, or it cannot be reached.
    """
    settings = default_remote(root)
    if settings is None:
        raise SourceError(f"{root.absolute()}: it has no DVC remote. Set one: make remote URL=s3://BUCKET/PREFIX")
    check = _Check(DvcArtifacts(root, work), _open(settings), root, work, read_remote=read_remote)
    with ThreadPoolExecutor(_THREADS) as pool:
        damaged = [problem for problem in pool.map(check.problem, check.objects(_tracked(root))) if problem]
    if damaged:
        more = f"\nand {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
        raise SchemaError(
            "\n".join(damaged[:_SHOWN]) + f"{more}\nDVC sends nothing. Make them anew: python -m stages.verify --repair"
        )


def _tracked(root: Path) -> list[tuple[str, str]]:
    """Return the paths of tracked folders, each with the name of its dir object."""
    try:
        outputs = parse_lock((root / LOCK).read_bytes())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise SchemaError(f"{root / LOCK}: damaged ({error}). Restore it with git checkout {LOCK}") from None
    return [(output.path, output.md5) for output in outputs if output.md5 and output.md5.endswith(SUFFIX)]


def _open(settings: dict[str, str]) -> Storage | None:
    """Return the remote, None where it is of a kind that only DVC writes to: then every object is hashed here."""
    try:
        return open_remote(settings)
    except SourceError as error:
        log.warning("What the remote has is not looked at: %s", error)
        return None


class _Check:
    def __init__(
        self, project: DvcArtifacts, remote: Storage | None, root: Path, work: Path, *, read_remote: bool
    ) -> None:
        self._project = project
        self._remote = remote
        self._root = root
        self._work = work
        self._read_remote = read_remote

    def objects(self, tracked: Iterable[tuple[str, str]]) -> Iterator[_Object]:
        """Yield what is in the cache of tracked folders, each once: of what is not, DVC says so itself."""
        seen = set()
        for folder, digest in tracked:
            version = self._project.current(folder)
            files = {} if version is None else version.files
            for name, md5 in [(folder, digest), *((f"{folder}/{name}", md5) for name, md5 in files.items())]:
                path = self._project.cached(md5)
                if md5 not in seen and path.exists():
                    seen.add(md5)
                    yield _Object(md5, name, path)

    def problem(self, item: _Object) -> str | None:
        """Return what is wrong with an object and cannot be put right, None if it is on the remote or may be sent."""
        is_there, is_whole = self._on_remote(item)
        if is_there and is_whole:
            return None
        if not self._is_whole_here(item):
            return f"{item.name}: damaged in DVC's cache ({item.path})"
        writable = None if self._remote is None else as_writable(self._remote)
        if is_there and writable is None:
            return f"{item.name}: damaged on the remote, which cannot be written to from here: {object_path(item.md5)}"
        if is_there and writable is not None:
            writable.write(object_path(item.md5), item.path)
            log.warning("%s: it was damaged on the remote. It is sent again.", item.name)
        return None

    def _on_remote(self, item: _Object) -> tuple[bool, bool]:
        """Tell whether the remote has an object, and whether, as far as it is looked at, it is whole."""
        if self._remote is None:
            return False, False
        path = object_path(item.md5)
        try:
            found = self._remote.stat(path)
        except NotFound:
            return False, False
        stated = found.identity == f"md5:{item.digest}" if found.kind == "md5" else None
        looks_whole = found.num_bytes == item.path.stat().st_size if stated is None else stated
        if looks_whole and not self._read_remote:
            return True, True
        with scratch_folder(self._work) as folder:
            try:
                fetch_verified(self._remote, path, folder / "part", identity=f"md5:{item.digest}")
            except Damaged:
                return True, False
        return True, True

    def _is_whole_here(self, item: _Object) -> bool:
        """Tell whether the cache's object is whole, after putting it together from the artifact if that is."""
        if not item.path.is_file():
            return False
        if md5_of(item.path) == item.digest:
            return True
        artifact = self._root / item.name
        with scratch_folder(self._work) as folder:
            if artifact.is_dir():
                files = {path.relative_to(artifact).as_posix(): md5_of(path) for path in _files(artifact)}
                artifact = folder / "list"
                artifact.write_bytes(dir_object_bytes(files))
            if not artifact.is_file() or md5_of(artifact) != item.digest:
                return False
            item.path.unlink()
            self._project.keep(item.md5, artifact)
        log.warning("%s: it was damaged in DVC's cache, which takes it from the artifact.", item.name)
        return True


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
