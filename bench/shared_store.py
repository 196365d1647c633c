"""What a shared store costs a step that fills it: MICRODIFF_STORE names the store, which is written to and read from.

Each round computes partitions of random bytes twice, without and with sending them to the store, and then fetches them
into an empty store of its own. A partition takes some time of waiting besides, as for a device.
"""

import os
import statistics
import time
import uuid
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from microdiff.core.ledger import Result
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.core.progress import NullReporter, Reporter
from microdiff.pipeline.executor import TaskResult
from microdiff.pipeline.finder import Finder
from microdiff.pipeline.shared_store import SharedStore, open_shared_store
from microdiff.pipeline.store import Store
from microdiff.pipeline.task import Task
from microdiff.pipeline.uploads import Uploads
from microdiff.pipeline.workers import WorkerPlan

_MEGABYTE = 2**20


def fill(num_bytes: int, seconds: float, name: str, folder: Path, report: Reporter) -> Result:
    """Write a partition of random bytes, and wait."""
    (folder / f"{name}.bin").write_bytes(os.urandom(num_bytes))
    time.sleep(seconds)
    report.tick(1)
    return Result({"in": 1, "kept": 1})


def compute(tasks: list[Task], store: Store, shared: SharedStore | None) -> float:
    """Compute partitions and send them; return how long it takes, in seconds."""
    started = time.perf_counter()
    with Uploads(shared) as uploads:
        for item in store.compute(tasks, WorkerPlan(1), NullReporter()):
            if isinstance(item, TaskResult):
                raise RuntimeError(item.error)
            uploads.add(item)
    return time.perf_counter() - started


def fetch(tasks: list[Task], store: Store, shared: SharedStore) -> float:
    """Fetch partitions; return how long it takes, in seconds."""
    started = time.perf_counter()
    finder = Finder(store, "data/bench/raw", None, None, shared)
    if any(item is None for item in prefetch_map(finder.find, tasks, 4 * num_threads())):
        raise RuntimeError("a partition was not found")
    return time.perf_counter() - started


def main(
    partitions: Annotated[int, typer.Option(help="How many.")] = 64,
    megabytes: Annotated[int, typer.Option(help="Size of each.")] = 16,
    seconds: Annotated[float, typer.Option(help="Time of waiting for each.")] = 0.3,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 3,
) -> None:
    """Measure."""
    shared = open_shared_store()
    if shared is None:
        print("MICRODIFF_STORE names no store: nothing is measured")
        return
    alone, sent, fetched = [], [], []
    for _ in range(rounds):
        run = uuid.uuid4().hex
        tasks = [
            Task("bench", name, {"run": run}, partial(fill, megabytes * _MEGABYTE, seconds, name))
            for name in (f"{number:05}" for number in range(partitions))
        ]
        with TemporaryDirectory(prefix="microdiff-bench-") as folder:
            alone.append(compute(tasks, Store(Path(folder) / "alone"), None))
            sent.append(compute(tasks, Store(Path(folder) / "sent"), shared))
            fetched.append(fetch(tasks, Store(Path(folder) / "fetched"), shared))
    size = partitions * megabytes
    print(f"{size} MiB in {partitions} partitions, {rounds} rounds, {shared.name}")
    for name, times in (("computed", alone), ("computed and sent", sent), ("fetched", fetched)):
        print(f"{name:18} {statistics.median(times):7.2f} s  {size / statistics.median(times):7.0f} MiB/s")
    print(f"sending: {statistics.median(b / a for a, b in zip(alone, sent, strict=True)):.2f} times as long")


if __name__ == "__main__":
    typer.run(main)
