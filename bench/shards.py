"""Measure the shard step: bytes per second against a plain copy, and what planning many samples takes.

    python bench/shards.py [--samples N] [--rounds N] [--into DIR]

Part one writes latents of the published sizes (77 x 1024 text, 256 and 512 px: 198 KB a sample) in eight partitions,
and the shard step with one worker makes shards of them: listed, shuffled over all partitions, hashed, synced. `copy`
is the same files copied and synced, turn and turn about, all from the page cache. Part two decides which samples share
a shard, for ever more of them, in a process of its own each: seconds, and by how much the peak of memory grew.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed
os.environ["MICRODIFF_WORKERS"] = "1"

import numpy as np

from microdiff.artifacts.latents import Spool, TensorToWrite, write_latents
from microdiff.artifacts.manifest import FileRecord, Manifest, PartitionRecord, write_manifest
from microdiff.artifacts.tables import table_writer
from microdiff.core.files import digest_file
from microdiff.core.verified_files import InputFile
from microdiff.encode.merge import SCHEMA
from microdiff.pipeline.params import load_params
from microdiff.pipeline.workspace import Workspace
from microdiff.shard.sample_index import Samples
from microdiff.shard.step import _shard_tasks, shard

REPO = Path(__file__).resolve().parents[1]
PARTITIONS = 8
TEXT = {"caption_latents": (77, 1024)}
IMAGE = {"latents_256": (4, 32, 32), "latents_512": (4, 64, 64)}
SAMPLE_BYTES = 2 * (77 * 1024 + 4 * 32 * 32 + 4 * 64 * 64)


def write_artifact(folder: Path, num_samples: int) -> None:
    """Write a latents artifact of random values."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).standard_normal(2**21).astype(np.float16)
    partitions: dict[str, Any] = {}
    for number in range(PARTITIONS):
        name, keys = f"{number:04d}", [f"key{place:08d}" for place in range(number, num_samples, PARTITIONS)]
        for kind, columns in (("image", IMAGE), ("text", TEXT)):
            tensors = {}
            for column, shape in columns.items():
                spool = Spool(folder / f"{name}.{column}")
                for place in range(len(keys)):
                    at = (place * 7919 + number) % (len(noise) - 77 * 1024)
                    spool.append(noise[at : at + int(np.prod(shape))].reshape(shape))
                tensors[column] = TensorToWrite(keys, spool)
            write_latents(folder / f"{name}.{kind}.safetensors", tensors, {}, {})
            for column in columns:
                (folder / f"{name}.{column}").unlink()
        with table_writer(folder / f"{name}.parquet", SCHEMA) as add_row:
            for key in keys:
                row = {"key": key, "image_key": key, "status": "kept", "caption": f"A photograph, {key}"}
                add_row({**row, "width": 683, "height": 512})
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": digest_file(path)} for path in folder.glob(f"{name}.*")
        }
        counts = {"in": len(keys), "kept": len(keys)}
        partitions[name] = {"fingerprints": [], "counts": counts, "files": files}
    facts = {"format": 1, "source_records": num_samples, "counts": {"in": num_samples, "kept": num_samples}}
    write_manifest(folder, {**facts, "partitions": partitions, "encoders": {"image": {}, "text": {}}})


def writing(into: Path | None, num_samples: int, rounds: int) -> None:
    """Print part one."""
    params = load_params(REPO / "presets/small.yaml")
    spent: dict[str, list[float]] = {"shard": [], "copy": []}
    with tempfile.TemporaryDirectory(dir=into) as name:
        workspace = Workspace(Path(name))
        latents = workspace.artifact("coco", "latents")
        write_artifact(latents, num_samples)
        num_bytes = sum(path.stat().st_size for path in latents.glob("*.safetensors"))
        for turn in range(rounds + 1):
            start = time.perf_counter()
            shard("coco", params, workspace)
            sharded_s = time.perf_counter() - start
            start = time.perf_counter()
            for path in sorted(latents.glob("*.safetensors")):
                copy = Path(name) / f"copy of {path.name}"
                shutil.copyfile(path, copy)
                with copy.open("rb") as file:
                    os.fsync(file.fileno())
                copy.unlink()
            copied_s = time.perf_counter() - start
            shutil.rmtree(workspace.store().root)
            shutil.rmtree(workspace.artifact("coco", "shards"))  # else what it holds would be found
            if turn:  # the first warms up
                spent["shard"].append(sharded_s)
                spent["copy"].append(copied_s)
    ratio = median(a / b for a, b in zip(spent["shard"], spent["copy"], strict=True))
    speeds = ", ".join(f"{way} {num_bytes / median(seconds) / 1e6:,.0f} MB/s" for way, seconds in spent.items())
    print(f"{num_samples} samples, {num_bytes / 1e6:,.0f} MB: {speeds}: {ratio:.2f} times as long")


def planning(num_samples: int) -> None:
    """Print a line of part two."""
    dice = np.random.default_rng(0)
    samples = Samples(
        key_hashes=dice.integers(0, 2**64, num_samples, np.uint64),
        digests=np.zeros(num_samples, "V16"),
        groups=np.where(dice.random(num_samples) < 0.8, 512, 256).astype(np.uint32),
        sizes=np.full(num_samples, SAMPLE_BYTES, np.uint32),
        partitions=np.sort(dice.integers(0, 1000, num_samples, np.uint32)),
        rows=np.arange(num_samples, dtype=np.uint32),
    )
    before_kb, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    settings = load_params(REPO / "presets/small.yaml").shard
    columns = {"512": {"key": "str"}, "256": {"key": "str"}}
    units = list(_shard_tasks(_Latents(), [_Listing()] * 1000, samples, columns, settings))
    spent_s, after_kb = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = f"peak {(after_kb - before_kb) / 1000:,.0f} MB higher"
    print(f"{num_samples:,} samples: {len(units):,} shards planned in {spent_s:.1f} s, {memory}", flush=True)


class _Listing:
    """A partition's sample index that nobody reads."""

    name = "0000"
    paths = {"": Path("listing")}  # noqa: RUF012 - never changed


class _Latents:
    """An artifact of one partition's latents that nobody reads."""

    def __init__(self) -> None:
        record = FileRecord(0, "")
        partitions = {"0000": PartitionRecord((), {"in": 0, "kept": 0}, {"0000.image.safetensors": record})}
        self.manifest = Manifest(Path(), 0, {"in": 0, "kept": 0}, partitions, {})

    def file(self, name: str) -> InputFile:
        """Return a file that is not there."""
        return InputFile(Path(name), 0, "")


def main() -> None:
    """Print both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--into", type=Path, help="folder for the temporary files")
    options = parser.parse_args()
    if options.into is not None:
        options.into.mkdir(parents=True, exist_ok=True)
    writing(options.into, options.samples, options.rounds)
    for num_samples in (10**6, 10**7):
        process = multiprocessing.get_context("spawn").Process(target=planning, args=(num_samples,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
