"""A release file, `microdiff-release.json`: all that a machine needs to stream one version of a shard set.

With it, neither git nor DVC need be there; it says which objects of which remote the files are. It holds no
credentials. `microdiff.remote.release_writer` writes it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from microdiff.core.regular_files import read_regular
from microdiff.core.untrusted import are_texts, load_json
from microdiff.errors import SchemaError, SourceError
from microdiff.remote.dvc_dir_object import checked_files, folder_digest
from microdiff.storage.opening import open_remote
from microdiff.storage.retry import read_whole
from microdiff.storage.urls import without_secrets

FORMAT = 1
_MAX_BYTES = 2**30


@dataclass(frozen=True)
class Release:
    """What a release file says.

    Attributes:
        path: Of the shard set in its project.
        commit: Of the project.
        remote: The remote's settings, without credentials.
        directory: The object that lists the files, `<md5>.dir`.
        files: The MD5 of each file by path.
        withdrawn: The list of withdrawn samples as it stands in `withdrawn.tsv`, None if there is none.
    """

    path: str
    commit: str
    remote: Mapping[str, str]
    directory: str
    files: Mapping[str, str]
    withdrawn: str | None


def is_release(name: str) -> bool:
    """Tell whether a name is a release file's path or URL."""
    return urlsplit(name).path.endswith(".json")


def read_release(location: str) -> Release:
    """Read a release file.

    Args:
        location: Its path, or its URL: https://, http:// or s3://.

    Raises:
        SourceError: It cannot be read, is no release file, or its parts do not fit each other.
    """
    name = without_secrets(location) if "://" in location else location
    try:
        document = load_json(_read(location, name))
        if document["format"] != FORMAT:
            raise SourceError(f"{name}: format {document['format']!s:.80}, this version reads format {FORMAT}")
        listed, remote = document["withdrawn"], document["remote"]
        texts = {key: document[key] for key in ("path", "commit", "directory")}
        if not are_texts(texts) or not are_texts(remote) or not remote.get("url"):
            raise ValueError(f"path, commit and directory {texts!r:.200}, remote {remote!r:.200}")
        release = Release(
            **texts,
            remote=remote,
            files=checked_files([(path, facts["md5"]) for path, facts in document["files"].items()], name),
            withdrawn=None if listed is None else listed["tsv"],
        )
        is_whole = listed is None or hashlib.sha256(listed["tsv"].encode()).hexdigest() == listed["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{name}: not a release file ({error!a:.400}). Write one: python -m stages.release") from None
    if folder_digest(release.files) != release.directory or not is_whole:
        raise SourceError(
            f"{name}: damaged: its files or withdrawn samples are not those it was written with. Get it again."
        )
    return release


def _read(location: str, name: str) -> bytes:
    if "://" not in location:
        try:
            return read_regular(Path(location).expanduser(), _MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceError(f"{name}: no such file. Write it with: python -m stages.release DATASET") from None
        except SchemaError as error:
            raise SourceError(str(error)) from None
    parts = urlsplit(location)
    folder, _, file = parts.path.rpartition("/")
    return read_whole(open_remote({"url": parts._replace(path=folder).geturl()}, "its URL"), file)


def release_document(release: Release, sizes: Mapping[str, int], facts: Mapping[str, Any], rev: str) -> dict[str, Any]:
    """Return what a release file holds.

    Args:
        release: What a reader needs.
        sizes: Bytes of each file.
        facts: What the set's manifest says: dataset, columns, encoders, counts, settings, code.
        rev: What the commit was called.
    """
    listed = release.withdrawn
    return {
        "format": FORMAT,
        "path": release.path,
        "revision": rev,
        "commit": release.commit,
        "remote": release.remote,
        "directory": release.directory,
        "bytes": sum(sizes.values()),
        "files": {path: {"bytes": sizes[path], "md5": md5} for path, md5 in release.files.items()},
        "schema": facts.get("columns"),
        "encoders": facts.get("encoders"),
        "manifest": {name: value for name, value in facts.items() if name not in _ELSEWHERE},
        "withdrawn": None if listed is None else {"sha256": hashlib.sha256(listed.encode()).hexdigest(), "tsv": listed},
    }


_ELSEWHERE = ("columns", "encoders", "partitions", "lineage")
