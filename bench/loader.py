"""Measure the loader: samples and bytes per second, the first batch, the start of an epoch, cold and warm page cache.

    python bench/loader.py [--reference PATH] [--samples N] [--rounds N] [--into DIR]

Shards in the layout that the published code writes (199 KB a sample, 1.2 GB in all by default) are made in a temporary
folder. `--reference` names a checkout of the published code (https://github.com/SonyResearch/micro_diffusion), whose
loader then reads the same shards, turn and turn about with ours: the ratio is the claim, speed is the machine's.

- warm: the second epoch of each loader, from the page cache. `copy` is one thread reading as many bytes in order into
  one buffer, which stays in the processor's cache. `bare` is the loader's number of threads with nothing to do but
  read as many bytes from random places into as many buffers as the loader has: about what the machine can do.
- cold: the shards are dropped from the page cache first, as far as the system lets a program do
  that; for the others too.
- first batch: from building the loader to its first batch, without importing anything.
- first epoch: from building the loader to the end of its first epoch, from the page cache.
- `checked` is ours with `validate_hash=True`, which reads and hashes each shard before its first sample.
- epoch start: the order of an epoch for an index of that many samples, 1,350 to a shard, shuffled.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed

import numpy as np

from microdiff import build_streaming_latents_dataloader

BATCH_SIZE = 256
CAPTION_BYTES, IMAGE_BYTES = 77 * 1024 * 2, {256: 4 * 32 * 32 * 2, 512: 4 * 64 * 64 * 2}
SAMPLES_PER_SHARD = 1350
_BATCHES_IN_MEMORY = 6
Build = Callable[..., Any]


def write_shards(folder: Path, num_samples: int) -> None:
    """Write shards as the published code does."""
    from streaming import MDSWriter

    noise = np.random.default_rng(0).bytes(2**22)
    columns = {"caption": "str", "caption_latents": "bytes", "latents_256": "bytes", "latents_512": "bytes"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=2**28, hashes=["sha256"]) as writer:
        for number in range(num_samples):
            at = number * 7919 % (len(noise) - CAPTION_BYTES)
            latents = {f"latents_{px}": noise[at : at + size] for px, size in IMAGE_BYTES.items()}
            caption = "a photograph of something " * (1 + number % 5)
            writer.write({"caption": caption, "caption_latents": noise[at : at + CAPTION_BYTES], **latents})


def rate(batches: Iterable[Any]) -> float:
    """Return samples per second."""
    begin = time.perf_counter()
    num_samples = sum(len(batch["drop_caption_mask"]) for batch in batches)
    return num_samples / (time.perf_counter() - begin)


def warm(build: Build, folder: Path, image_size: int, num_workers: int) -> float:
    """Return samples per second of the second epoch."""
    loader = make(build, folder, image_size, num_workers)
    rate(loader)
    return rate(loader)


def cold(build: Build, folder: Path, image_size: int, num_workers: int) -> float:
    """Return samples per second of an epoch from the disk."""
    loader = make(build, folder, image_size, num_workers)
    forget(folder)
    return rate(loader)


def first_epoch(build: Build, folder: Path, image_size: int, num_workers: int) -> float:
    """Return samples per second from building the loader to the end of its first epoch."""
    begin = time.perf_counter()
    num_samples = sum(len(batch["drop_caption_mask"]) for batch in make(build, folder, image_size, num_workers))
    return num_samples / (time.perf_counter() - begin)


def first_batch(build: Build, folder: Path, image_size: int, num_workers: int) -> float:
    """Return milliseconds until the first batch."""
    begin = time.perf_counter()
    batches = iter(make(build, folder, image_size, num_workers))
    next(batches)
    return 1000 * (time.perf_counter() - begin)


def make(build: Build, folder: Path, image_size: int, num_workers: int) -> Any:
    """Build a loader."""
    sizes = {"cap_seq_size": 77, "cap_emb_dim": 1024}
    return build(str(folder), BATCH_SIZE, image_size, cap_drop_prob=0.1, num_workers=num_workers, **sizes)


def plain_copy(folder: Path, image_size: int, _: int) -> float:
    """Return samples per second of one thread that reads the bytes that a sample has, in order, into one buffer."""
    size = CAPTION_BYTES + IMAGE_BYTES[image_size]
    buffer = memoryview(bytearray(size))
    num_samples, begin = 0, time.perf_counter()
    for path in sorted(folder.glob("*.mds")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer) == size:
                num_samples += 1
    return num_samples / (time.perf_counter() - begin)


def bare_reads(folder: Path, image_size: int, num_samples: int) -> float:
    """Return samples per second of threads that only read: as many bytes, at random places, into as much memory."""
    size = CAPTION_BYTES + IMAGE_BYTES[image_size]
    files = [os.open(path, os.O_RDONLY) for path in sorted(folder.glob("*.mds"))]
    rng = np.random.default_rng(0)
    places = [(file, int(rng.integers(os.fstat(file).st_size - size))) for file in rng.choice(files, num_samples)]
    num_threads = min(4, len(os.sched_getaffinity(0)))
    num_rows = _BATCHES_IN_MEMORY * BATCH_SIZE // num_threads

    def read(memory: memoryview, part: list[tuple[int, int]]) -> None:
        for number, (file, at) in enumerate(part):
            begin = number % num_rows * size
            os.preadv(file, [memory[begin : begin + size]], at)

    memories = [memoryview(np.ones(num_rows * size, np.uint8)) for _ in range(num_threads)]  # type: ignore[arg-type]
    with ThreadPoolExecutor(num_threads) as threads:
        begin_s = time.perf_counter()
        jobs = [threads.submit(read, memory, places[n::num_threads]) for n, memory in enumerate(memories)]
        for job in jobs:
            job.result()
        seconds = time.perf_counter() - begin_s
    for file in files:
        os.close(file)
    return num_samples / seconds


def forget(folder: Path) -> None:
    """Drop shards from the page cache."""
    for path in folder.glob("*.mds"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def epoch_start(num_samples: int) -> Iterator[tuple[str, float]]:
    """Yield seconds that building from a read index, and starting a shuffled epoch, take."""
    from microdiff.artifacts.mds_header import ShardHeader
    from microdiff.artifacts.mds_index import IndexedFile, ShardEntry
    from microdiff.loader.column_types import StoredArray
    from microdiff.loader.dataset import LatentsDataset
    from microdiff.loader.shard_set import ShardSet

    columns = {"caption": "str", "caption_latents": "bytes", "key": "str", "latents_256": "bytes"}
    header = ShardHeader(tuple(columns), tuple(columns.values()), (None,) * 4)
    entries = []
    for number, begin in enumerate(range(0, num_samples, SAMPLES_PER_SHARD)):
        file = IndexedFile(f"shard.{number:05}.mds", 2**28)
        entries.append(ShardEntry(header, min(SAMPLES_PER_SHARD, num_samples - begin), file))
    image, caption = (
        StoredArray("latents_256", "float16", (4, 32, 32)),
        StoredArray("caption_latents", "float16", (77, 1024)),
    )
    shard_set = ShardSet("synthetic", Path("/nowhere"), entries, None, "", None, image, caption)
    begin_s = time.perf_counter()
    dataset = LatentsDataset([shard_set], None, 0.0, batch_size=BATCH_SIZE, shuffle=True)
    yield "build", time.perf_counter() - begin_s
    begin_s = time.perf_counter()
    dataset.begin_epoch(8)
    yield "epoch start", time.perf_counter() - begin_s


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reference", type=Path, help="checkout of the published code to compare with")
    parser.add_argument("--samples", type=int, default=6144)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--into", type=Path, help="folder for the temporary shards")
    options = parser.parse_args()
    checked = partial(build_streaming_latents_dataloader, validate_hash=True)
    builders: dict[str, Build] = {"ours": build_streaming_latents_dataloader, "checked": checked}
    if options.reference is not None:
        sys.path.insert(0, str(options.reference))
        module = importlib.import_module("micro_diffusion.datasets.latents_loader")
        builders = {"reference": module.build_streaming_latents_dataloader, **builders}
    if options.into is not None:
        options.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.into) as name:
        folder = Path(name) / "shards"
        write_shards(folder, options.samples)
        compare(folder, builders, options.rounds, options.samples)
    for num_samples in (1_000_000, 37_000_000):
        timings = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in epoch_start(num_samples))
        print(f"{num_samples:,} samples: {timings}")


def compare(folder: Path, builders: dict[str, Build], rounds: int, num_samples: int) -> None:
    """Print how fast each loader reads the same shards, medians over rounds."""
    ways = {"warm, samples/s": warm, "first epoch, samples/s": first_epoch, "cold, samples/s": cold}
    ways["first batch, ms"] = first_batch
    for what, measure in ways.items():
        for image_size in (256, 512):
            for num_workers in (0, 1, 2):
                found: dict[str, list[float]] = {}
                for _ in range(rounds):
                    for who, build in builders.items():
                        found.setdefault(who, []).append(measure(build, folder, image_size, num_workers))
                    if measure is first_batch:
                        continue
                    for who, yardstick in {"copy": plain_copy, "bare": bare_reads}.items():
                        if measure is cold:
                            forget(folder)
                        found.setdefault(who, []).append(yardstick(folder, image_size, num_samples))
                figures = described(found, image_size, measure is first_batch)
                print(f"{what}, {image_size} px, {num_workers} workers: {figures}", flush=True)


def described(found: dict[str, list[float]], image_size: int, is_time: bool) -> str:
    """Return medians and what they are as multiples of each other, round by round."""
    parts = [f"{who} {median(values):,.0f}" for who, values in found.items()]
    if not is_time:
        parts.append(f"ours {median(found['ours']) * (CAPTION_BYTES + IMAGE_BYTES[image_size]) / 1e9:.2f} GB/s")
    for other in ("reference", "checked", "copy", "bare"):
        if other in found:
            ratios = [ours / theirs for ours, theirs in zip(found["ours"], found[other], strict=True)]
            parts.append(f"{median(ratios):.2f}x {other} ({min(ratios):.2f}-{max(ratios):.2f})")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
