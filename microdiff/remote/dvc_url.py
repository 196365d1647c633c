"""Shards straight from a DVC remote, at a revision of the repository that tracks them, without `dvc pull`.

    dvc://data/coco/shards@v1.2                              of the project that the working directory is in
    dvc://https://host/org/latents//data/coco/shards@v1.2    of another repository: what git clones, `//`, the path
    dvc:///home/me/latents//data/coco/shards@v1.2            likewise, of a clone on this machine
    microdiff-release.json, https://host/microdiff-release.json     without git: see microdiff.remote.release_writer

The revision is a tag, a branch or a commit. It is resolved to a commit when the source is opened, so what is pushed to
a branch later does not matter. Objects are content-addressed: what a commit needs stays on the remote, whatever is
pushed later, until somebody removes it (`dvc gc --cloud`).
"""

import logging
import re
from pathlib import Path, PurePosixPath

from microdiff.core.files import scratch_folder
from microdiff.core.withdrawn import WITHDRAWN, Withdrawn, read_withdrawn
from microdiff.errors import ParamsError
from microdiff.remote.dvc_dir_object import fetch_dir_object, files_elsewhere, keep_dir_object
from microdiff.remote.dvc_project import find_output, remote_settings
from microdiff.remote.git_revision import Revision, open_revision
from microdiff.remote.release_file import Release, is_release, read_release
from microdiff.remote.shard_source import ShardSource
from microdiff.remote.version_cache import CachedShards, cache_folder, tidy
from microdiff.storage.opening import open_remote

log = logging.getLogger("microdiff")

SCHEME = "dvc://"
_FORM = re.compile(r"(?:(?P<repository>.+)//)?(?P<path>[^@:]+)@(?P<rev>[^:]+)")


def is_shard_source(name: str) -> bool:
    """Tell whether a name means shards elsewhere (`dvc://...`, a release file) rather than a local folder."""
    return name.startswith(SCHEME) or is_release(name)


def open_dvc_source(url: str, cache: Path | None = None) -> ShardSource:
    """Open a version of a shard set on a DVC remote; its indexes and its manifest are then in the cache.

    Args:
        url: `dvc://[REPOSITORY//]PATH@REVISION`, or the path or URL of a release file (`*.json`).
        cache: Receives what is fetched. None for MICRODIFF_CACHE, or else `~/.cache/microdiff`.

    Raises:
        ParamsError: The URL has another form.
        SourceError: There is no such repository, revision, path, remote or object, or it is damaged or out of reach.
    """
    cache = cache_folder(cache)
    tidy(cache)
    name = url.removeprefix(SCHEME)
    source = _of_release(name, cache) if is_release(name) else _of_revision(name, cache)
    source.fetch_indexes()
    return source


def resolve(repository: str | None, path: str, rev: str, cache: Path) -> tuple[Revision, CachedShards]:
    """Return the commit that a revision is, and the shards that it has at a path; only their dir object is fetched.

    Args:
        repository: None for the project that the working directory is in.
        path: Of a tracked folder, or in one.
        rev: Tag, branch or commit.
        cache: The cache folder.

    Raises:
        SourceError: As for `open_dvc_source`.
    """
    revision = open_revision(repository, rev, cache)
    output = find_output(revision, path)
    settings = remote_settings(revision, output.remote)
    store = open_remote(settings)
    name = f"{output.path} at {revision.commit[:12]}"
    files = fetch_dir_object(store, output.md5, cache, name)
    return revision, CachedShards(
        name=name,
        directory=output.md5,
        files=files,
        store=store,
        settings=settings,
        cache=cache,
        inside=str(PurePosixPath(path).relative_to(output.path)).removeprefix("."),
        withdrawn=_withdrawn(revision, output.path, cache),
        elsewhere=files_elsewhere(files, output.md5, cache),
    )


def _of_revision(name: str, cache: Path) -> CachedShards:
    form = _FORM.fullmatch(name)
    if form is None or (form["repository"] or "").endswith(":"):
        raise ParamsError(
            f"{SCHEME}{name}: expected dvc://PATH@REVISION or dvc://REPOSITORY//PATH@REVISION, such as "
            "dvc://data/coco/shards@v1.2"
        )
    return resolve(form["repository"], str(PurePosixPath(form["path"])).strip("/"), form["rev"], cache)[1]


def _of_release(name: str, cache: Path) -> CachedShards:
    release = read_release(name)
    keep_dir_object(release.files, cache)
    return CachedShards(
        name=f"{release.path} of {PurePosixPath(name).name}",
        directory=release.directory,
        files=release.files,
        store=open_remote(release.remote),
        settings=release.remote,
        cache=cache,
        withdrawn=_listed(release, cache),
        elsewhere=files_elsewhere(release.files, release.directory, cache),
    )


def _withdrawn(revision: Revision, path: str, cache: Path) -> Withdrawn:
    """Return the samples withdrawn at a commit, and those that have been since, as far as this checkout knows.

    A sample that was withdrawn may not be trained on, however old the commit is.
    """
    path_of_list = str(PurePosixPath(path).parent / WITHDRAWN)
    entries = dict(_parsed(revision.read(path_of_list), cache).entries)
    if revision.checkout is not None:
        entries |= read_withdrawn(revision.checkout / path_of_list).entries
    return Withdrawn(entries)


def _listed(release: Release, cache: Path) -> Withdrawn:
    return _parsed(None if release.withdrawn is None else release.withdrawn.encode(), cache)


def _parsed(text: bytes | None, cache: Path) -> Withdrawn:
    """Return what a list of withdrawn samples says that is no file."""
    if text is None:
        return Withdrawn()
    with scratch_folder(cache / "listings") as folder:
        (folder / WITHDRAWN).write_bytes(text)
        return read_withdrawn(folder / WITHDRAWN)
