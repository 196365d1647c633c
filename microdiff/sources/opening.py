"""Choose the kind of source by the form of its root."""

from pathlib import Path
from urllib.parse import urlsplit

from microdiff.errors import SourceError
from microdiff.sources import Source
from microdiff.sources.local import LocalSource
from microdiff.sources.web import WebSource


def open_source(root: str, work: Path) -> Source:
    """Return the source at a root: `http://`, `https://`, or a local folder.

    Args:
        root: The root.
        work: The store's folder, for fetched files and digests.

    Raises:
        SourceError: The root's scheme is unknown, or it is a folder that does not exist.
    """
    scheme = urlsplit(root).scheme
    fetched = work / "fetch"
    if scheme in ("http", "https"):
        return WebSource(root.rstrip("/"), fetched)
    if "://" in root:
        raise SourceError(f"{root}: unknown kind of source; expected http://, https:// or a local folder")
    if not Path(root).is_dir():
        raise SourceError(f"{root}: no such folder. Check datasets.*.download.source in params.yaml.")
    return LocalSource(root, work / "digests")
