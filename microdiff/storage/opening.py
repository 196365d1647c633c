"""Choose the kind of source by the form of its root."""

from pathlib import Path
from urllib.parse import urlsplit

from microdiff.core.progress import LogReporter
from microdiff.errors import SourceError
from microdiff.storage import SETTING, Source
from microdiff.storage.fsspec import open_remote
from microdiff.storage.hub import open_hub
from microdiff.storage.links import open_links
from microdiff.storage.local import LocalSource
from microdiff.storage.web import WebSource

_LINK_LISTS = (".txt", ".tsv")


def open_source(root: str, work: Path, setting: str = SETTING) -> Source:
    """Return the source at a root.

    Args:
        root: A local folder; `http://` or `https://` for a web server; `hf://datasets/ORG/REPO@REVISION`; `s3://` and
            whatever else fsspec reads; or a list of links: a local file or URL that ends in `.txt` or `.tsv`.
        work: The store's folder, for fetched files and what is remembered of sources.
        setting: Where the root is set in params.yaml, for messages.

    Raises:
        SourceError: The root is of an unknown kind, is not there, or cannot be reached.
    """
    report = LogReporter()
    parts = urlsplit(root)
    if parts.scheme == "hf":
        return open_hub(root, work, report, setting)
    if parts.scheme in ("http", "https"):
        if parts.path.endswith(_LINK_LISTS):
            return open_links(root, work, report)
        return WebSource(root=root.rstrip("/"), fetched=work / "fetch", report=report, setting=setting)
    if "://" in root:
        return open_remote(root, work, report, setting)
    if root.endswith(_LINK_LISTS) and not Path(root).is_dir():
        return open_links(root, work, report)
    if not Path(root).is_dir():
        raise SourceError(f"{root}: no such folder. Check {setting} in params.yaml.")
    return LocalSource(root, work / "digests")
