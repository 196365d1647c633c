"""Choose the kind of storage: by the form of a source's root, or by a DVC remote's settings."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from microdiff.core.progress import LogReporter
from microdiff.errors import SourceError
from microdiff.storage import SETTING, Source, Storage
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.fsspec import open_fsspec
from microdiff.storage.hub import open_hub
from microdiff.storage.links import open_links
from microdiff.storage.local import LocalSource, LocalStorage
from microdiff.storage.s3 import S3Storage
from microdiff.storage.urls import without_secrets
from microdiff.storage.web import WebStorage

_LINK_LISTS = (".txt", ".tsv")
_PUBLIC_SETTINGS = ("url", "endpointurl", "region", "use_ssl", "allow_anonymous_login")


def open_source(root: str, work: Path, setting: str = SETTING) -> Source:
    """Return the source at a root.

    Args:
        root: A local folder; `http://` or `https://` for a web server; `hf://datasets/ORG/REPO@REVISION`; `s3://`;
            whatever else fsspec reads; or a list of links: a local file or URL that ends in `.txt` or `.tsv`.
        work: The store's folder, for fetched files and what is remembered of sources.
        setting: Where the root is set in params.yaml, for messages.

    Raises:
        SourceError: The root is of an unknown kind, is not there, or cannot be reached.
    """
    report, parts = LogReporter(), urlsplit(root)
    if parts.path.endswith(_LINK_LISTS) and parts.scheme in ("http", "https"):
        return open_links(root, work, report, setting)
    if parts.scheme == "hf":
        return open_hub(root, work, report, setting)
    if "://" in root:
        return FetchedSource(storage=_open_url(root, work, report, setting), fetched=work / "fetch")
    if root.endswith(_LINK_LISTS) and not Path(root).is_dir():
        return open_links(root, work, report, setting)
    if not Path(root).is_dir():
        raise SourceError(f"{root}: no such folder. Check {setting} in params.yaml.")
    return LocalSource(root, work / "digests")


def _open_url(root: str, work: Path, report: LogReporter, setting: str) -> Storage:
    parts = urlsplit(root)
    if parts.scheme in ("http", "https"):
        return WebStorage(root=root.rstrip("/"), listings=work / "listings", report=report, setting=setting)
    if parts.scheme in ("s3", "s3a"):
        return S3Storage(bucket=bucket_of(root, setting), prefix=parts.path.strip("/"), report=report, setting=setting)
    return open_fsspec(root, report, setting)


def open_remote(settings: Mapping[str, str], setting: str = "the remote's settings") -> Storage:
    """Return the storage that a DVC remote is.

    Args:
        settings: As in .dvc/config: `url` and, by its kind, endpointurl, region, profile, credentials, ... A local
            folder must be absolute.
        setting: What they are, for messages.

    Raises:
        SourceError: It is of another kind, or is not content-addressed.
    """
    url, report = settings["url"], LogReporter()
    parts, name = urlsplit(url), without_secrets(url)
    for mode in ("version_aware", "worktree"):
        if settings.get(mode, "").lower() == "true":
            raise SourceError(f"{name}: a remote with {mode} keeps files by name. Use one without it, or dvc pull.")
    if parts.scheme == "s3":
        return S3Storage(
            bucket=bucket_of(url, setting),
            prefix=parts.path.strip("/"),
            options=settings,
            report=report,
            setting=setting,
        )
    if parts.scheme in ("http", "https"):
        user, password = settings.get("user", ""), settings.get("password", "")
        return WebStorage(root=url.rstrip("/"), user=user, password=password, report=report, setting=setting)
    if "://" in url and parts.scheme != "file":
        raise SourceError(
            f"{name}: shards are streamed from s3://, http://, https:// and local folders. "
            "Fetch them from this remote with dvc pull."
        )
    return LocalStorage(root=Path(parts.path if parts.scheme == "file" else url), report=report, setting=setting)


def public_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return those of a remote's settings that a reader needs and that are no secret."""
    public = {name: settings[name] for name in _PUBLIC_SETTINGS if name in settings}
    return {name: without_secrets(value) if "://" in value else value for name, value in public.items()}


def bucket_of(url: str, setting: str) -> str:
    """Return the bucket that an `s3://` URL names.

    Raises:
        SourceError: It names none.
    """
    bucket = urlsplit(url).netloc.rpartition("@")[2]
    if not bucket:
        raise SourceError(f"{without_secrets(url)}: names no bucket, expected s3://BUCKET/PREFIX. Check {setting}.")
    return bucket
