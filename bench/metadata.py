"""Measure how long one partition of DiffusionDB takes to find its rows in the metadata, and how much memory.

Where the rows of a partition would have to be looked for in most of the file, a table is made of it once: that time is
a line of its own.

    python bench/metadata.py [--rows N] [--group N]

Makes a parquet file with the columns and types of metadata-large.parquet and a thousand rows per partition, sorted by
partition and shuffled, and reads a few partitions of it as the handler does, each in a process of its own. The real
file has 14,000,000 rows; nobody has said how they are sorted. Linux only.
"""

import argparse
import sys
import tempfile
import time
import zipfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed

from microdiff.core.progress import NullReporter
from microdiff.formats.annotations import Annotations, write_annotations
from microdiff.formats.records import Inputs, Partition
from microdiff.handlers.diffdb import DiffusionDB

_ROWS_PER_PART = 1000
_ROWS_PER_PROMPT = 8
_ROWS_AT_ONCE = 2**18
_METADATA = "metadata-large.parquet"
_TABLE = "annotations.sqlite"
_ZIP = "diffusiondb-large-part-1/part-000001.zip"
_SCHEMA = pa.schema(
    {
        "image_name": pa.string(),
        "prompt": pa.string(),
        "part_id": pa.uint16(),
        "seed": pa.uint32(),
        "step": pa.uint16(),
        "cfg": pa.float32(),
        "sampler": pa.uint8(),
        "width": pa.uint16(),
        "height": pa.uint16(),
        "user_name": pa.string(),
        "timestamp": pa.timestamp("us", "UTC"),
        "image_nsfw": pa.float32(),
        "prompt_nsfw": pa.float32(),
    }
)


def write_metadata(path: Path, num_rows: int, rows_per_group: int, shuffled: bool) -> None:
    """Write a file of made-up rows."""
    dice = np.random.default_rng(2022)
    words = np.array(["".join(dice.choice(list("abcdefghijklmnopqrstuvwxyz"), size=n)) for n in [3, 5, 7, 9] * 5000])
    lengths = dice.integers(3, 40, size=max(1, num_rows // _ROWS_PER_PROMPT))
    prompts = pa.array([", ".join(words[dice.zipf(1.3, size=length) % len(words)]) for length in lengths])
    users = pa.array([dice.bytes(32).hex() for _ in range(10_000)])
    parts = (np.arange(num_rows) // _ROWS_PER_PART + 1).astype("uint16")
    if shuffled:
        dice.shuffle(parts)

    def rows(start: int, count: int) -> pa.Table:
        digits = dice.bytes(16 * count).hex()
        names = [
            "-".join((digits[i : i + 8], digits[i + 8 : i + 12], digits[i + 12 : i + 16], digits[i + 16 : i + 32]))
            for i in range(0, 32 * count, 32)
        ]
        columns = {
            "image_name": pa.array([f"{name}.webp" for name in names]),
            "prompt": prompts.take(pa.array(dice.integers(0, len(prompts), count))),
            "part_id": pa.array(parts[start : start + count]),
            "seed": pa.array(dice.integers(0, 2**32, count, dtype="uint32")),
            "user_name": users.take(pa.array(dice.integers(0, len(users), count))),
            "timestamp": pa.array(
                dice.integers(27_650_000, 27_690_000, count) * 60_000_000, _SCHEMA.field("timestamp").type
            ),
            "image_nsfw": pa.array(dice.random(count, dtype="float32")),
            "prompt_nsfw": pa.array(dice.random(count, dtype="float32")),
        }
        rest = {
            name: pa.array(np.full(count, 7), _SCHEMA.field(name).type) for name in set(_SCHEMA.names) - set(columns)
        }
        return pa.table({name: {**columns, **rest}[name] for name in _SCHEMA.names}, _SCHEMA)

    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for group in range(0, num_rows, rows_per_group):
            end = min(group + rows_per_group, num_rows)
            starts = range(group, end, _ROWS_AT_ONCE)
            tables = [rows(start, min(_ROWS_AT_ONCE, end - start)) for start in starts]
            writer.write_table(pa.concat_tables(tables), row_group_size=rows_per_group)


def read(folder: Path, part: int) -> tuple[int, float, float, float]:
    """Return how many records a partition has, seconds by the CPU, and MiB at first and at most."""
    partition = Partition(name=f"{part:06d}", number=part, files=(_ZIP, _METADATA))
    files = {_ZIP: folder / "empty.zip", _METADATA: folder / _METADATA}
    inputs = Inputs(files=files, scratch=folder, annotations=Annotations(folder / _TABLE))
    pa.array([0])  # imports what pyarrow imports at its first use
    before, start = _peak_mib(), time.process_time()
    num_records = sum(1 for _ in DiffusionDB().read(partition, inputs))
    return num_records, time.process_time() - start, before, _peak_mib()


def make_table(folder: Path) -> tuple[int, float, float, float]:
    """Return what `read` returns, of making the table."""
    pa.array([0])
    before, start = _peak_mib(), time.process_time()
    rows = DiffusionDB().read_annotations({_METADATA: folder / _METADATA})
    num_rows = write_annotations(folder / _TABLE, rows, NullReporter())
    return num_rows, time.process_time() - start, before, _peak_mib()


def _peak_mib() -> float:
    """Return the largest memory this process has had; what getrusage says includes its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """Print a line for each order of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the file (1000000)")
    parser.add_argument("--group", type=int, default=2**20, help="rows per row group (1048576)")
    options = parser.parse_args()
    print(f"{'':9} {'rows':>9} {'seconds':>8} {'MiB before':>11} {'MiB peak':>9}")
    for shuffled in (False, True):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_metadata(folder / _METADATA, options.rows, options.group, shuffled)
            zipfile.ZipFile(folder / "empty.zip", "w").close()
            with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                parts = [1, max(1, options.rows // _ROWS_PER_PART // 2)]
                results = [("table", *pool.apply(make_table, (folder,)))]
                results += [("part", *pool.apply(read, (folder, part))) for part in parts]
            size, table_size = ((folder / name).stat().st_size / 2**20 for name in (_METADATA, _TABLE))
        print(f"{'shuffled' if shuffled else 'sorted'}: {size:.0f} MiB, its table {table_size:.0f} MiB")
        for what, num_records, seconds, before, peak in results:
            print(f"{what:9} {num_records:9} {seconds:8.2f} {before:11.0f} {peak:9.0f}")


if __name__ == "__main__":
    main()
