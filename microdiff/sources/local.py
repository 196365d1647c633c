"""A source that is a folder on this machine."""

from dataclasses import dataclass, field
from pathlib import Path

from microdiff.errors import SourceError
from microdiff.progress import Reporter, Silent
from microdiff.publish import digest_file, digest_json, read_json, write_json
from microdiff.sources import SourceFile


@dataclass(frozen=True)
class LocalSource:
    """A folder on this machine. Files are used in place; digests are remembered by path, size and time."""

    root: str
    digests: Path
    report: Reporter = field(default_factory=Silent, compare=False)

    @property
    def name(self) -> str:
        """The folder as given if relative, else its last part."""
        path = Path(self.root)
        return path.name if path.is_absolute() else path.as_posix()

    def with_reporter(self, report: Reporter) -> "LocalSource":
        """Return this source with a reporter."""
        return LocalSource(self.root, self.digests, report)

    def stat(self, path: str, sha256: str | None = None) -> SourceFile:
        """Describe a file by its size and SHA-256."""
        file = Path(self.root) / path
        if not file.is_file():
            raise SourceError(f"{file}: no such file. Check datasets.*.download.source in params.yaml.")
        found = self._digest(file)
        if sha256 is not None and found != sha256:
            raise SourceError(
                f"{file}: expected sha256 {sha256}, found {found}: the file is damaged or another version.\n"
                "Fetch it again, or correct datasets.*.download.sha256 in params.yaml."
            )
        return SourceFile(path, file.stat().st_size, f"sha256:{found}")

    def fetch(self, file: SourceFile) -> Path:
        """Return the file itself, after checking that it is still the one described."""
        self.stat(file.path, file.sha256)
        return Path(self.root) / file.path

    def forget(self, file: SourceFile) -> None:
        """Do nothing: the file is the user's own."""

    def _digest(self, file: Path) -> str:
        """Return the file's SHA-256, computed again only after its size or time changed."""
        facts = file.stat()
        known = {
            "path": str(file.resolve()),
            "bytes": facts.st_size,
            "mtime_ns": facts.st_mtime_ns,
            "inode": facts.st_ino,
        }
        record = self.digests / f"{digest_json(known)}.json"
        if record.is_file():
            digest: str = read_json(record)["sha256"]
            return digest
        digest = digest_file(file)
        write_json(record, {"sha256": digest})
        return digest
