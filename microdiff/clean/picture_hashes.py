"""Perceptual hashes of a raw partition's pictures, `<partition>.parquet`: a unit of its own, since it decodes them all.

It is computed where near-identical pictures are asked for, once per raw partition, and found again like any other.
"""

from functools import partial
from pathlib import Path

import pyarrow as pa

from microdiff.artifacts.checks import check_table
from microdiff.artifacts.raw import RawImage, read_images
from microdiff.artifacts.tables import table_writer
from microdiff.core.code_identity import code_identity
from microdiff.core.deciding_code import deciding_modules
from microdiff.core.ledger import KEPT, Result
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.core.progress import Reporter
from microdiff.core.verified_files import Input
from microdiff.images.perceptual import HASH_BYTES, perceptual_hash
from microdiff.pipeline.inputs import InputArtifact
from microdiff.pipeline.task import Task

SCHEMA = pa.schema([("key", pa.string()), ("status", pa.string()), ("hash", pa.binary(HASH_BYTES))])


def write_picture_hashes(tar: Input, name: str, folder: Path, report: Reporter) -> Result:
    """Hash the pictures of one partition; the hash of one that cannot be decoded is null.

    Args:
        tar: The raw partition's.
        name: The partition.
        folder: Receives `<name>.parquet`.
        report: Receives progress.
    """
    num_pictures = 0
    with table_writer(folder / f"{name}.parquet", SCHEMA) as add_row:
        for key, found in prefetch_map(_hashed, read_images(tar), 2 * num_threads()):
            add_row({"key": key, "status": KEPT, "hash": found})
            num_pictures += 1
            report.tick(1)
    return Result({"in": num_pictures, KEPT: num_pictures})


def _hashed(image: RawImage) -> tuple[str, bytes | None]:
    return image.key, perceptual_hash(image.data)


def hash_tasks(artifact: InputArtifact) -> list[Task]:
    """Return the tasks that hash all pictures of a raw artifact."""
    raw = artifact.manifest
    code = code_identity(deciding_modules("clean-hashes"))
    tars = {name: artifact.file(f"{name}.tar") for name in raw.partitions}
    return [
        Task(
            step="clean-hashes",
            name=name,
            cache_key={"code": code, "raw": raw.digests(name, ".tar")},
            compute=partial(write_picture_hashes, tars[name], name),
            num_samples=num_samples,
            unit="images",
            inputs=(tars[name],),
            check=check_table,
        )
        for name, num_samples in raw.kept().items()
    ]
