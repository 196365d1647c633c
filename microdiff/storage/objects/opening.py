"""Choose the kind of store by a remote's URL; and say what of a remote's settings others may see."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from microdiff.errors import SourceError
from microdiff.storage.objects import ObjectStore
from microdiff.storage.objects.local import LocalStore
from microdiff.storage.objects.s3 import S3Store
from microdiff.storage.objects.web import WebStore
from microdiff.storage.urls import without_secrets

PUBLIC_SETTINGS = ("url", "endpointurl", "region", "use_ssl", "allow_anonymous_login")


def open_store(settings: Mapping[str, str]) -> ObjectStore:
    """Return the store that a remote's settings describe.

    Args:
        settings: As in .dvc/config: `url` and, by its kind, endpointurl, region, profile, credentials, ... A local
            folder must be absolute.

    Raises:
        SourceError: It is of another kind, or is not content-addressed.
    """
    url = settings["url"]
    parts, name = urlsplit(url), without_secrets(url)
    for mode in ("version_aware", "worktree"):
        if settings.get(mode, "").lower() == "true":
            raise SourceError(f"{name}: a remote with {mode} keeps files by name. Use one without it, or dvc pull.")
    if parts.scheme == "s3":
        return S3Store(parts.netloc.rpartition("@")[2], parts.path.strip("/"), settings)
    if parts.scheme in ("http", "https"):
        return WebStore(url.rstrip("/"), settings)
    if parts.scheme == "file":
        return LocalStore(Path(parts.path))
    if "://" in url:
        raise SourceError(
            f"{name}: shards are streamed from s3://, http://, https:// and local folders. "
            "Fetch them from this remote with dvc pull."
        )
    return LocalStore(Path(url))


def public_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return those of a remote's settings that a reader needs and that are no secret."""
    public = {name: settings[name] for name in PUBLIC_SETTINGS if name in settings}
    return {name: without_secrets(value) if "://" in value else value for name, value in public.items()}
