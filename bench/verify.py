"""How long verification takes against sha256sum of the same bytes, and how many damaged bits it catches.

    python bench/verify.py [--samples N] [--flips N]

The time is taken on latents and shards of random values in the real shapes (77 x 1024 caption latents, 4 x 32 x 32
image latents), the rounds of both interleaved; files are in the page cache. Bits are flipped at random places in every
file of the COCO miniature's artifacts, one at a time: caught means that verification fails, named that it blames that
file and no other.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed

from microdiff.artifacts.latents import Spool, TensorToWrite, write_latents
from microdiff.artifacts.tables import table_writer
from microdiff.clean.step import clean
from microdiff.core.ledger import Result
from microdiff.core.progress import NullReporter
from microdiff.download.step import download
from microdiff.encode.merge import SCHEMA
from microdiff.encode.step import encode
from microdiff.pipeline.params import load_params
from microdiff.pipeline.publish import assemble
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workspace import Workspace
from microdiff.shard.step import shard
from microdiff.verify.dataset import verify_dataset

PARAMS = Path("params.yaml")
ENCODERS = {
    "image": {"latents": "mode", "channels": 4, "downsampling": 8, "stored_dtype": "float16"},
    "text": {"caption_latents": {"tokens": 77, "width": 1024, "mask": False, "stored_dtype": "float16"}},
}
PARTITIONS = 4
ROUNDS = 5


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3000, help="samples to time with, 0.34 MB each")
    parser.add_argument("--flips", type=int, default=20, help="bits to flip in each file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_time(Workspace(Path(folder)), options.samples)
    with tempfile.TemporaryDirectory() as folder:
        measure_flips(Workspace(Path(folder)), options.flips)


def measure_time(workspace: Workspace, num_samples: int) -> None:
    """Print seconds per gigabyte, rounds interleaved."""
    make_latents(workspace, num_samples)
    shard("coco", load_params(PARAMS), workspace)
    files = sorted(str(path) for path in (workspace.root / "data").rglob("*") if path.is_file())
    gigabytes = sum(Path(file).stat().st_size for file in files) / 1e9
    commands: dict[str, Callable[[], object]] = {
        "sha256sum": lambda: subprocess.run(["sha256sum", *files], capture_output=True, check=True),
        "md5sum": lambda: subprocess.run(["md5sum", *files], capture_output=True, check=True),
        "verify": lambda: check(workspace),
        "verify --deep, values only": lambda: check(workspace, deep=True),
    }
    walls: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, run in commands.items():
            started = time.perf_counter()
            run()
            walls[name].append(time.perf_counter() - started)
    print(f"{gigabytes:.2f} GB in {len(files)} files, {ROUNDS} rounds, median seconds per GB")
    for name, taken in walls.items():
        each = [wall / gigabytes for wall in taken]
        ratio = statistics.median(a / b for a, b in zip(taken, walls["sha256sum"], strict=True))
        print(f"  {name:28} {statistics.median(each):6.2f}  ({min(each):.2f} to {max(each):.2f}), x {ratio:.2f}")


def check(workspace: Workspace, *, deep: bool = False) -> None:
    """Verify, and stop if that finds anything."""
    found = verify_dataset("coco", workspace, deep=deep)
    if found.problems:
        raise SystemExit("\n".join(map(str, found.problems)))


def make_latents(workspace: Workspace, num_samples: int) -> None:
    """Write a latents artifact of random values."""
    store, dice = workspace.store(), np.random.default_rng(1)

    def compute(name: str, keys: list[str]) -> Callable[..., Result]:
        def write(folder: Path, _: object) -> Result:
            with Spool(folder / "i") as image, Spool(folder / "t") as text:
                for _key in keys:
                    image.append(dice.standard_normal((4, 32, 32)).astype(np.float16))
                    text.append(dice.standard_normal((77, 1024), np.float32).astype(np.float16))
                pictures, captions = (
                    {"latents_256": TensorToWrite(keys, image)},
                    {"caption_latents": TensorToWrite(keys, text)},
                )
                write_latents(folder / f"{name}.image.safetensors", pictures, ENCODERS["image"], {})
                write_latents(folder / f"{name}.text.safetensors", captions, ENCODERS["text"]["caption_latents"], {})
            with table_writer(folder / f"{name}.parquet", SCHEMA) as add_row:
                for key in keys:
                    row = {"key": key, "status": "kept", "caption": f"a picture {key}", "image_key": key}
                    add_row({**row, "width": 300, "height": 300})
            return Result({"in": len(keys), "kept": len(keys), "with_256": len(keys)})

        return write

    stored = []
    for number in range(PARTITIONS):
        name = f"{number:04d}"
        keys = [f"{name}_{n:06d}" for n in range(num_samples // PARTITIONS)]
        (item,) = store.compute([Task("encode", name, {}, compute(name, keys))], 1, NullReporter())
        if not isinstance(item, StoredPartition):
            raise SystemExit(item.details)
        stored.append(item)
    total = sum(item.counts["kept"] for item in stored)
    facts = {"step": "encode", "dataset": "coco", "encoders": ENCODERS}
    counts = {"in": total, "kept": total, "with_256": total}
    assemble(workspace.artifact("coco", "latents"), stored, total, counts, facts, {"encoders.json": ENCODERS})


def measure_flips(workspace: Workspace, flips: int) -> None:
    """Print how many flipped bits were caught."""
    for step in (download, clean, encode, shard):
        step("coco", load_params(PARAMS), workspace)
    dice, tried, caught, named = random.Random(1), 0, 0, 0  # noqa: S311 - places to damage
    files = sorted(path for path in (workspace.root / "data").rglob("*") if path.is_file())
    for path in files:
        data = path.read_bytes()
        for _ in range(flips):
            damaged = bytearray(data)
            damaged[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            path.write_bytes(damaged)
            found = verify_dataset("coco", workspace).problems
            tried += 1
            caught += bool(found)
            told = {workspace.artifact("coco", problem.kind) / problem.file for problem in found}
            named += told == {path}
        path.write_bytes(data)
    print(f"{tried} bits flipped in {len(files)} files: {caught} caught, {named} named")


if __name__ == "__main__":
    main()
