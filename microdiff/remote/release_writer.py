"""Write a release file for a dataset's shards at a revision, after checking that all of it is on the remote."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from microdiff.artifacts.manifest import MANIFEST, PartitionRecord
from microdiff.core.files import read_json, write_json
from microdiff.core.withdrawn import WITHDRAWN
from microdiff.errors import SourceError
from microdiff.remote.dvc_objects import object_path
from microdiff.remote.dvc_url import resolve
from microdiff.remote.release_file import Release, release_document
from microdiff.remote.version_cache import CachedShards, cache_folder
from microdiff.storage import NotFound
from microdiff.storage.opening import public_settings

RELEASE = "microdiff-release.json"
_AT_ONCE = 16


def write_release(dataset: str, rev: str = "HEAD", out: Path = Path(RELEASE), cache: Path | None = None) -> int:
    """Write a release file for `data/<dataset>/shards` of the project that the working directory is in.

    Args:
        dataset: The dataset's name.
        rev: Tag, branch or commit.
        out: The file.
        cache: The cache folder, as for `microdiff.remote.dvc_url.open_dvc_source`.

    Returns:
        How many bytes the shard set has.

    Raises:
        SourceError: There is no such revision or dataset, or the remote lacks a file or holds another size of it.
    """
    revision, shards = resolve(None, f"data/{dataset}/shards", rev, cache_folder(cache))
    shards.fetch_indexes()
    manifest = read_json(shards.local / MANIFEST) if MANIFEST in shards.files else {}
    sizes = _sizes(shards)
    for partition in map(PartitionRecord.parse, manifest.get("partitions", {}).values()):
        for path, file in partition.files.items():
            if sizes.get(path) != file.num_bytes:
                raise SourceError(
                    f"{shards.name}: {path} has {sizes.get(path)} bytes on the remote, expected {file.num_bytes}.\n"
                    "Delete the object there and push it again: make push"
                )
    listed = revision.read(f"data/{dataset}/{WITHDRAWN}")
    release = Release(
        path=f"data/{dataset}/shards",
        commit=revision.commit,
        remote=public_settings(shards.settings),
        directory=shards.directory,
        files=shards.files,
        withdrawn=None if listed is None else listed.decode(),
    )
    document = release_document(release, sizes, manifest, rev)
    write_json(out, document)
    return int(document["bytes"])


def _sizes(shards: CachedShards) -> dict[str, int]:
    """Return the bytes that each file has on the remote."""

    def size(path: str) -> int | None:
        md5 = shards.files[path]
        try:
            return shards.store.stat(object_path(md5), f"md5:{md5}").num_bytes
        except NotFound:
            return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = dict(zip(shards.files, pool.map(size, shards.files), strict=True))
    sizes = {path: num_bytes for path, num_bytes in found.items() if num_bytes is not None}
    if missing := [path for path in found if path not in sizes]:
        raise SourceError(
            f"{shards.name}: {len(missing)} of {len(found)} files are not on {shards.store.name}, such as "
            f"{missing[0]}. Push them: make push"
        )
    return sizes
