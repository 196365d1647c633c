"""Measure what a partition of SA-1B costs: memory, disk and time of the download step, and of the captions' table.

    python bench/archives.py [--pictures N] [--captions N] [--folder FOLDER]

A partition is made up: a gzip-compressed tar of N pictures of 2250x1500 pixels, about 1 MB each, with 85 kB of JSON
beside each, served on 127.0.0.1 behind a list of links, as Meta serves it. The real step runs in a process of its own,
watched several times a second from outside: memory of the process tree, and disk below the folder that it works in.
Captions are made up as well: N small files in a tar.gz. A real partition has 11,186 pictures. Linux only.
"""

import argparse
import functools
import gzip
import io
import random
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed

from microdiff.core.progress import NullReporter
from microdiff.download.step import download
from microdiff.formats.annotations import write_annotations
from microdiff.handlers.sa1b import Sa1b
from microdiff.pipeline.params import load_params
from microdiff.pipeline.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
_EVERY_S = 0.1
_JSON_BYTES = 85_000
_PAGE_BYTES = 4096


def make_picture(number: int) -> bytes:
    """Return a JPEG of about 1 MB: colours that run into each other, with detail of two sizes."""
    dice = np.random.default_rng(number)
    coarse = Image.fromarray(dice.integers(0, 256, (10, 15, 3), dtype=np.uint8)).resize((2250, 1500))
    fine = Image.fromarray(dice.integers(0, 256, (375, 563, 3), dtype=np.uint8)).resize((2250, 1500))
    noise = dice.normal(0, 4, (1500, 2250, 1))
    pixels = 0.75 * np.asarray(coarse, np.float32) + 0.25 * np.asarray(fine, np.float32) + noise
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
    return out.getvalue()


def write_tar_gz(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write members as they come."""
    with (
        gzip.open(path, "wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            vars(tar)["members"].clear()  # or else the bench needs a GB for a million of them


def partition(num_pictures: int) -> Iterator[tuple[str, bytes]]:
    """Yield the members of a partition."""
    pictures = [make_picture(number) for number in range(8)]
    dice = random.Random(0)  # noqa: S311 - not a secret
    for number in range(num_pictures):
        yield f"./sa_{number}.jpg", pictures[number % len(pictures)]
        yield f"./sa_{number}.json", dice.randbytes(_JSON_BYTES // 2).hex().encode()


def captions(num_captions: int) -> Iterator[tuple[str, bytes]]:
    """Yield captions of about 600 bytes each."""
    dice = random.Random(0)  # noqa: S311 - not a secret
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randrange(2, 10))) for _ in range(5000)]
    for number in range(num_captions):
        yield f"sa_{number}.txt", " ".join(dice.choices(words, k=95)).encode()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file; whoever only asks for its size hangs up."""
        with suppress(ConnectionError):
            super().copyfile(source, outputfile)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on 127.0.0.1; give the server's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tree_rss(pid: int) -> int:
    """Return the bytes of memory that a process and its descendants hold."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0
    return pages * _PAGE_BYTES + sum(tree_rss(int(child)) for child in children)


def disk_usage(folder: Path) -> int:
    """Return the bytes of disk below a folder, each file once however many links it has."""
    blocks: dict[int, int] = {}
    for path in folder.rglob("*"):
        try:
            facts = path.lstat()
        except FileNotFoundError:  # removed meanwhile
            continue
        blocks[facts.st_ino] = facts.st_blocks
    return sum(blocks.values()) * 512


def watch(arguments: list[str], folder: Path) -> tuple[float, int, int]:
    """Run this script in a process of its own; return seconds, peak memory and peak disk."""
    folder.mkdir()
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, __file__, *arguments], cwd=ROOT)
    memory = disk = 0
    while process.poll() is None:
        memory, disk = max(memory, tree_rss(process.pid)), max(disk, disk_usage(folder))
        time.sleep(_EVERY_S)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)}: exit status {process.returncode}")
    return time.monotonic() - started, memory, disk


def run_step(params: Path, folder: Path) -> None:
    """Run the download step, as the process that is watched."""
    print(dict(download("sa1b", load_params(params), Workspace(folder))))


def run_table(archive: Path, folder: Path) -> None:
    """Make the table of captions, as the process that is watched."""
    handler = Sa1b(captions_source="", captions_file=archive.name)
    print(
        write_annotations(folder / "table", handler.read_annotations({archive.name: archive}), NullReporter()),
        "captions",
    )


def measure_step(num_pictures: int, folder: Path) -> None:
    """Make a partition, run the step on it, and print what it took."""
    archive, work = folder / "served" / "sa_000000.tar", folder / "step"
    archive.parent.mkdir()
    write_tar_gz(archive, partition(num_pictures))
    write_tar_gz(folder / "captions.tar.gz", captions(num_pictures))
    document = yaml.safe_load((ROOT / "presets" / "sample.yaml").read_text(encoding="utf-8"))
    document["datasets"] = {"sa1b": document["datasets"]["sa1b"]}
    with served(archive.parent) as url:
        links = folder / "links.txt"
        links.write_text(f"file_name\tcdn_link\n{archive.name}\t{url}/{archive.name}")
        document["datasets"]["sa1b"]["download"].update(
            source=str(links), captions_source=str(folder), captions_file="captions.tar.gz"
        )
        params = folder / "params.yaml"
        params.write_text(yaml.safe_dump(document))
        seconds, memory, disk = watch(["--step", str(params), str(work)], work)
    size = archive.stat().st_size
    output = sum(path.stat().st_size for path in (work / "data" / "sa1b" / "raw").iterdir())
    print(
        f"download step: {num_pictures} pictures, archive {size / 1e6:.0f} MB: {seconds:.1f} s "
        f"({num_pictures / seconds:.0f} pictures/s, one worker), memory {memory / 1e6:.0f} MB, "
        f"disk {disk / 1e6:.0f} MB = {disk / size:.2f} times the archive, output {output / 1e6:.0f} MB"
    )


def measure_table(num_captions: int, folder: Path) -> None:
    """Make captions and their table, and print what it took."""
    archive, work = folder / "SA1B_caption.tar.gz", folder / "table"
    write_tar_gz(archive, captions(num_captions))
    seconds, memory, disk = watch(["--table", str(archive), str(work)], work)
    print(
        f"captions' table: {num_captions} captions, archive {archive.stat().st_size / 1e6:.0f} MB: {seconds:.1f} s "
        f"({num_captions / seconds:.0f}/s), memory {memory / 1e6:.0f} MB, disk {disk / 1e6:.0f} MB"
    )


def main() -> None:
    """Print a line for the step and one for the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200, help="pictures of the partition (200)")
    parser.add_argument("--captions", type=int, default=100_000, help="captions of the table (100000)")
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder, removed afterwards)")
    parser.add_argument("--step", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(*options.step)
    elif options.table:
        run_table(*options.table)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure_step(options.pictures, Path(folder))
            measure_table(options.captions, Path(folder))


if __name__ == "__main__":
    main()
