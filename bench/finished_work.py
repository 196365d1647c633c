"""What it costs to verify finished work before it is used again: sizes alone, known files, every byte; and inputs.

Figures are medians over rounds that measure all of them in turn; ratios are within a round.
"""

import hashlib
import io
import os
import statistics
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from microdiff.artifacts.raw import read_images
from microdiff.core.file_facts import HASH_ALWAYS
from microdiff.core.files import digest_file
from microdiff.core.ledger import Result
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.core.progress import NullReporter, Reporter
from microdiff.core.verified_files import Input, InputFile
from microdiff.download.raw_writer import add_picture
from microdiff.images.crops import decode_pixels
from microdiff.pipeline.store import Store
from microdiff.pipeline.task import Task
from microdiff.pipeline.workers import WorkerPlan

_MEGABYTE = 2**20
_PICTURES = 1000


def fill(num_bytes: int, name: str, folder: Path, report: Reporter) -> Result:
    """Write a partition of random bytes."""
    (folder / f"{name}.bin").write_bytes(os.urandom(num_bytes))
    report.tick(1)
    return Result({"in": 1, "kept": 1})


def sizes(store: Store, tasks: list[Task]) -> None:
    """Look at what a store has as it was done before: records and sizes."""
    for task in tasks:
        folder = store.folder(task)
        (folder / "partition.json").read_bytes()
        (folder / f"{task.name}.bin").stat()


def find(store: Store, tasks: list[Task], *, hash_always: bool) -> None:
    """Find partitions as a step does."""
    os.environ[HASH_ALWAYS] = "1" if hash_always else "0"
    found = list(prefetch_map(store.find, tasks, 4 * num_threads()))
    if any(item is None for item in found):
        raise RuntimeError("a partition was not found")


def digest(store: Store, tasks: list[Task]) -> None:
    """Hash the same files with hashlib alone, on as many threads."""

    def one(task: Task) -> str:
        with (store.folder(task) / f"{task.name}.bin").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    list(prefetch_map(one, tasks, 4 * num_threads()))


def read_pictures(tar: Input) -> None:
    """Read a raw partition's pictures, and do nothing with them."""
    if not sum(len(image.data) for image in read_images(tar)):
        raise RuntimeError("no pictures")


def decode_pictures(tar: Input) -> None:
    """Read a raw partition's pictures and decode them on one thread, the least that any step does with them."""
    for image in read_images(tar):
        if decode_pixels(image.data) is None:
            raise RuntimeError(image.key)


def measure_inputs(folder: Path, rounds: int) -> None:
    """Print how much longer a step's input takes to read if it is verified as it is read."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((512, 512), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    tar = folder / "0000.tar"
    with tarfile.open(tar, "w") as file:
        for number in range(_PICTURES):
            add_picture(file, f"{number:06}.jpg", out.getvalue())
    verified = InputFile(tar, tar.stat().st_size, digest_file(tar))
    for what, work in (("read", read_pictures), ("read and decoded", decode_pictures)):
        work(tar)
        ratios = [timed(partial(work, verified)) / timed(partial(work, tar)) for _ in range(rounds)]
        size = tar.stat().st_size / _MEGABYTE
        print(f"{_PICTURES} pictures, {size:.0f} MiB, {what}: {statistics.median(ratios):.2f} times as long verified")


def timed(work: Callable[[], None]) -> float:
    """Return how long something takes, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(
    partitions: Annotated[int, typer.Option(help="How many.")] = 64,
    megabytes: Annotated[int, typer.Option(help="Size of each.")] = 16,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 5,
) -> None:
    """Measure."""
    with TemporaryDirectory(prefix="microdiff-bench-") as name:
        store = Store(Path(name) / "work")
        tasks = [
            Task("bench", f"{number:05}", {"number": number}, partial(fill, megabytes * _MEGABYTE, f"{number:05}"))
            for number in range(partitions)
        ]
        list(store.compute(tasks, WorkerPlan(1), NullReporter()))
        ways: dict[str, Callable[[], None]] = {
            "sizes alone": partial(sizes, store, tasks),
            "known files": partial(find, store, tasks, hash_always=False),
            "every byte": partial(find, store, tasks, hash_always=True),
            "hashlib alone": partial(digest, store, tasks),
        }
        for work in ways.values():
            work()
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, work in ways.items():
                times[way].append(timed(work))
        total = partitions * megabytes
        print(f"{partitions} partitions of {megabytes} MiB, {rounds} rounds")
        for way, measured in times.items():
            seconds = statistics.median(measured)
            each_us, rate = seconds / partitions * 1e6, total / seconds
            print(f"{way:14} {seconds * 1e3:9.1f} ms  {each_us:9.0f} us each  {rate:8.0f} MiB/s")
        ratios = [own / plain for own, plain in zip(times["every byte"], times["hashlib alone"], strict=True)]
        print(f"every byte against hashlib alone: {statistics.median(ratios):.2f} times as long")
        measure_inputs(Path(name), rounds)


if __name__ == "__main__":
    typer.run(main)
