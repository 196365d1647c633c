"""A source that is a folder on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from microdiff.core.files import digest_json, read_json, write_json
from microdiff.core.progress import NullReporter, Reporter
from microdiff.errors import SourceError
from microdiff.storage import SourceFile
from microdiff.storage.fetching import checksum_of


@dataclass(frozen=True)
class LocalSource:
    """A folder on this machine. Files are used in place; checksums are remembered by path, size and time."""

    root: str
    digests: Path
    report: Reporter = field(default_factory=NullReporter, compare=False)

    @property
    def name(self) -> str:
        """The folder as given if relative, else its last part."""
        return local_name(self.root)

    def with_reporter(self, report: Reporter) -> "LocalSource":
        """Return this source with a reporter."""
        return replace(self, report=report)

    def list(self, folder: str) -> Sequence[str]:
        """Return the folder's files, sorted."""
        place = Path(self.root) / folder
        found = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file by its size and checksum: SHA-256, unless another kind is given."""
        file = Path(self.root) / path
        if not file.is_file():
            raise SourceError(f"{file}: no such file. Check datasets.*.download.source in params.yaml.")
        found = self._checksum(file, (checksum or "sha256:").partition(":")[0])
        if checksum is not None and found != checksum:
            raise SourceError(
                f"{file}: expected {checksum}, found {found}: the file is damaged or another version.\n"
                "Fetch it again, or correct its checksum in params.yaml."
            )
        return SourceFile(path, file.stat().st_size, found)

    def fetch(self, file: SourceFile) -> Path:
        """Return the file itself, after checking that it is still the one described."""
        self.stat(file.path, file.identity)
        return Path(self.root) / file.path

    def forget(self, file: SourceFile) -> None:
        """Do nothing: the file is the user's own."""

    def _checksum(self, file: Path, kind: str) -> str:
        """Return the file's checksum, computed again only after its size or time changed."""
        facts = file.stat()
        known = {
            "path": str(file.resolve()),
            "kind": kind,
            "bytes": facts.st_size,
            "mtime_ns": facts.st_mtime_ns,
            "inode": facts.st_ino,
        }
        record = self.digests / f"{digest_json(known)}.json"
        if record.is_file():
            checksum: str = read_json(record)["identity"]
            return checksum
        checksum = checksum_of(file, kind)
        write_json(record, {"identity": checksum})
        return checksum


def local_name(root: str) -> str:
    """Return how lineage shows a local path: as given if relative, else its last part."""
    path = Path(root)
    return path.name if path.is_absolute() else path.as_posix()
