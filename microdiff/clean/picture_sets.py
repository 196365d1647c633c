"""The pictures of other artifacts that params.yaml names: evaluation sets, and datasets that come first.

A name is the path of a raw artifact, such as `data/coco/raw`, or of a shard set, such as `data/coco/shards`. Shards
hold latents, not pictures: of a shard set the keys are read, and the pictures are those of the raw artifact beside it.
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from microdiff.artifacts.manifest import MANIFEST, parse_manifest
from microdiff.artifacts.mds_index import INDEX_NAME, read_index
from microdiff.artifacts.mds_scan import MdsFile
from microdiff.artifacts.tables import read_kept, read_rows
from microdiff.clean.picture_digests import NO_DIGESTS, digests_of
from microdiff.clean.picture_hashes import hash_tasks
from microdiff.config.roots import public_root
from microdiff.errors import ParamsError, SchemaError
from microdiff.images.perceptual import HASH_BYTES
from microdiff.pipeline.inputs import InputArtifact
from microdiff.pipeline.run import Run

_OURS = re.compile(r"data/([^/]+)/(raw|shards)")


@dataclass(frozen=True)
class PictureSet:
    """Pictures to look for.

    Attributes:
        digests: The first eight bytes of their SHA-256, uint64 (N,), sorted.
        hashes: Their perceptual hashes, uint8 (M, 32); none where they were not asked for.
    """

    digests: NDArray[np.uint64]
    hashes: NDArray[np.uint8]


def picture_set(run: Run, names: Sequence[str], setting: str, *, hashes: bool) -> PictureSet:
    """Return the pictures of named artifacts.

    Args:
        run: Of the clean step that asks.
        names: Paths of raw artifacts or shard sets, relative to the project.
        setting: Where they are named, for messages.
        hashes: Whether to hash them perceptually, for which they are decoded.

    Raises:
        ParamsError: A name is that of no such artifact, or of the dataset's own.
        StepError: An artifact cannot be had whole.
    """
    digests, found = [NO_DIGESTS], [np.empty((0, HASH_BYTES), np.uint8)]
    for name in names:
        artifact, keys = _open(run, name, setting)
        for partition in artifact.manifest.partitions:
            table = run.read(artifact.file(f"{partition}.parquet"))
            rows = read_kept(table, ["key", "sha256"])
            digests.append(digests_of(row["sha256"] for row in rows if keys is None or row["key"] in keys))
        for stored in run.compute(hash_tasks(artifact)) if hashes else ():
            found.append(hashes_in(stored.paths[f"{stored.name}.parquet"], keys)[1])
    return PictureSet(np.unique(np.concatenate(digests)), np.concatenate(found))


def hashes_in(table: Path, keys: Collection[str] | None = None) -> tuple[list[str], NDArray[np.uint8]]:
    """Return the keys and perceptual hashes, uint8 (N, 32), of a table of hashes; only those of `keys`, if given."""
    rows = [
        (row["key"], row["hash"])
        for row in read_rows(table, ["key", "hash"])
        if row["hash"] is not None and (keys is None or row["key"] in keys)
    ]
    hashes = np.frombuffer(b"".join(found for _, found in rows), np.uint8).reshape(-1, HASH_BYTES)
    return [key for key, _ in rows], hashes


def dataset_of(name: str, root: Path) -> str | None:
    """Return the dataset of this project that a name belongs to, None if it is that of another project's artifact."""
    match = _OURS.fullmatch(_normal(name, root))
    return match[1] if match else None


def _normal(name: str, root: Path) -> str:
    """Return a name as relative to the project where it is in its folder, without `.` and `..`."""
    path, base = os.path.normpath(root.absolute() / name), root.absolute().as_posix()
    return path.removeprefix(f"{base}/")


def _open(run: Run, name: str, setting: str) -> tuple[InputArtifact, frozenset[str] | None]:
    """Return the raw artifact that a name stands for, and the keys that are meant; None: all."""
    match = _OURS.fullmatch(_normal(name, run.workspace.root))
    if match is not None and match[1] == run.dataset:
        raise ParamsError(f"{setting}: {name} is the dataset's own")
    folder = run.workspace.root / name
    is_shards = match[2] == "shards" if match else (folder / INDEX_NAME).is_file()
    keys = frozenset(_shard_keys(folder, name, setting)) if is_shards else None
    raw = folder.with_name("raw") if is_shards else folder
    if not match and not (raw / MANIFEST).is_file():
        what = "the raw artifact beside it, from which it was made, is not here" if is_shards else "no raw artifact"
        raise ParamsError(f"{setting}: {public_root(name)}: {what}")
    try:
        if match is None and parse_manifest(raw).facts.get("step") != "download":
            raise ParamsError(f"{setting}: {public_root(name)}: neither a raw artifact nor a shard set")
        return (run.input("raw", match[1]) if match else run.input_at(raw, public_root(name))), keys
    except SchemaError as error:
        raise ParamsError(f"{setting}: {error}") from None


def _shard_keys(folder: Path, name: str, setting: str) -> Iterator[str]:
    """Yield the keys of the pictures in a shard set: of a caption's sample, what stands before its number."""
    if not (folder / INDEX_NAME).is_file():
        raise ParamsError(f"{setting}: {public_root(name)}: not here. Build it, or fetch it: make pull-NAME")
    all_captions = _are_captions(parse_manifest(folder).facts)
    for entry in read_index(folder / INDEX_NAME):
        for key in MdsFile(folder, entry).keys():  # noqa: SIM118 - it is no mapping
            yield key.rpartition("#")[0] if all_captions else key


def _are_captions(facts: object) -> bool:
    """Tell whether the samples of a shard set are captions, several to a picture."""
    while isinstance(facts, dict):
        settings = facts.get("settings")
        if isinstance(settings, dict) and "caption" in settings:
            return bool(settings["caption"] == "all")
        lineage = facts.get("lineage")
        facts = (lineage.get("captions") or lineage.get("latents")) if isinstance(lineage, dict) else None
    return False
