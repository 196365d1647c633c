"""Measure what streaming from a DVC remote by `dvc://` takes, against `dvc pull` and loading from disk.

    python bench/remote.py [--megabytes N] [--server radosgw|rclone|moto] [--rounds N]

A shard set of random latents (77 x 1024 text, 256 px) is tracked by DVC and pushed to an S3 server on loopback,
another process. Each run starts from an empty cache or a fresh clone. Times are of whole processes up to the first
batch of 256; their imports are the same in all and are shown apart. Bytes are those of the objects that arrived.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed

from microdiff.artifacts.mds_index import index_document
from microdiff.core.files import write_json
from microdiff.remote.dvc_url import resolve
from microdiff.storage import fetching
from tests.mds_factory import write_shard
from tests.s3_servers import KEY, SECRET, SERVERS, S3Server, missing

REPO = Path(__file__).resolve().parents[1]
SHARDS = "data/coco/shards"
COLUMNS = {
    "key": "str",
    "caption": "str",
    "caption_latents": "ndarray:float16:77,1024",
    "latents_256": "ndarray:float16:4,32,32",
}
SAMPLES_PER_SHARD = 384  # 63 MB
_LOAD = """
import json, sys, time
started = time.time()
from streaming import StreamingDataLoader
import torch
from microdiff import build_streaming_latents_dataloader
imported = time.time()
loader = build_streaming_latents_dataloader(sys.argv[1], 256, shuffle=sys.argv[2] == "shuffled", num_workers=0)
batches = iter(loader)
next(batches)
first = time.time()
if sys.argv[3] == "all":
    for _ in batches: pass
print(json.dumps({"imports": imported - started, "first": first - imported, "all": time.time() - imported}))
"""


def write_shards(folder: Path, num_shards: int) -> None:
    """Write a shard set of random latents with a manifest that names no real encoder."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    entries = []
    for number in range(num_shards):

        def samples(number: int = number) -> Iterator[dict[str, object]]:
            for sample in range(SAMPLES_PER_SHARD):
                yield {
                    "key": f"{number}-{sample}",
                    "caption": "a caption",
                    "caption_latents": random.standard_normal((77, 1024), np.float32).astype(np.float16),
                    "latents_256": random.standard_normal((4, 32, 32), np.float32).astype(np.float16),
                }

        path = folder / f"shard.{number:05d}.mds"
        entries.append(write_shard(path, COLUMNS, samples()))
    write_json(folder / "index.json", index_document(entries))
    encoders = {"image": {"stored_dtype": "float16"}, "text": {"caption_latents": {"stored_dtype": "float16"}}}
    write_json(folder / "manifest.json", {"encoders": encoders, "partitions": {}})


def run(folder: Path, *command: str, **more: str) -> tuple[float, str]:
    """Run a command; return seconds and what it printed."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "NO_PROXY": "127.0.0.1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        **more,
    }
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed: {done.stdout}{done.stderr}")
    return time.perf_counter() - started, done.stdout


def disk(*folders: Path) -> tuple[int, int]:
    """Return apparent bytes of all files, and bytes on disk, where a file with several names counts once."""
    facts = [
        path.lstat() for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    ]
    return sum(each.st_size for each in facts), sum({each.st_ino: each.st_blocks * 512 for each in facts}.values())


def make_team(root: Path, server: S3Server, num_shards: int) -> None:
    """Write shards, track and push them."""
    root.mkdir()
    write_shards(root / SHARDS, num_shards)
    for command in (
        ("git", "init", "--quiet"),
        ("git", "config", "user.email", "someone@example.org"),
        ("git", "config", "user.name", "Someone"),
        ("dvc", "init", "--quiet"),
        ("dvc", "config", "cache.type", "hardlink,reflink,symlink,copy"),
        ("dvc", "remote", "add", "--default", "storage", "s3://team/latents"),
        ("dvc", "remote", "modify", "storage", "endpointurl", server.url),
        ("dvc", "remote", "modify", "storage", "verify", "true"),
        ("dvc", "add", "--quiet", SHARDS),
        ("git", "add", "-A"),
        ("git", "commit", "--quiet", "-m", "shards"),
        ("git", "tag", "v1"),
    ):
        run(root, *command)
    with server.client() as client:
        client.create_bucket(Bucket="team")
    print(f"dvc push: {run(root, 'dvc', 'push', '--quiet')[0]:.1f} s")


@contextmanager
def fresh_clone(team: Path) -> Iterator[Path]:
    """Give a clone without data."""
    with tempfile.TemporaryDirectory(dir=team.parent) as folder:
        run(Path(folder), "git", "clone", "--quiet", str(team), "clone")
        yield Path(folder) / "clone"


def load(folder: Path, datadir: str, order: str, how_much: str, cache: Path) -> tuple[float, dict[str, float]]:
    """Run a process that loads; return its seconds and its own times."""
    seconds, printed = run(folder, sys.executable, "-c", _LOAD, datadir, order, how_much, MICRODIFF_CACHE=str(cache))
    return seconds, json.loads(printed.splitlines()[-1])


def measure_first_batch(team: Path, rounds: int) -> None:
    """Print seconds to the first batch and bytes received, by way and order."""
    print(
        f"\n{'to the first batch':34} {'whole s':>8} {'imports':>8} {'rest':>7} {'MB received':>12} {'MB on disk':>11}"
    )
    rows: dict[str, list[tuple[float, float, int, int]]] = {}
    for _ in range(rounds):
        for order in ("in order", "shuffled"):
            with fresh_clone(team) as clone:
                cache = clone.parent / "cache"
                seconds, own = load(clone, f"dvc://{SHARDS}@v1", order, "first", cache)
                received, held = disk(cache)
                rows.setdefault(f"dvc://, {order}", []).append((seconds, own["imports"], received, held))
            with fresh_clone(team) as clone:
                pulled, _ = run(clone, "dvc", "pull", "--quiet")
                seconds, own = load(clone, SHARDS, order, "first", clone.parent / "cache")
                received = disk(clone / ".dvc/cache")[0]
                held = disk(clone / ".dvc/cache", clone / "data")[1]
                rows.setdefault(f"dvc pull, then load, {order}", []).append(
                    (pulled + seconds, own["imports"], received, held)
                )
    for name, runs in rows.items():
        whole, imports, received, held = (median(column) for column in zip(*runs, strict=True))
        print(f"{name:34} {whole:8.1f} {imports:8.1f} {whole - imports:7.1f} {received / 1e6:12.1f} {held / 1e6:11.1f}")


def measure_epoch(team: Path) -> None:
    """Print seconds for an epoch, and what is on disk afterwards."""
    with fresh_clone(team) as clone:
        cache = clone.parent / "cache"
        _, own = load(clone, f"dvc://{SHARDS}@v1", "in order", "all", cache)
        received, held = disk(cache)
        print(f"an epoch by dvc://: {own['all']:.1f} s, {received / 1e6:.1f} MB received, {held / 1e6:.1f} MB on disk")
        _, own = load(clone, f"dvc://{SHARDS}@v1", "in order", "all", cache)
        print(f"again, from its cache: {own['all']:.1f} s")


class _NoDigest:
    """A digest that takes no time and says what is expected."""

    def __init__(self, expected: str, *_: object) -> None:
        self.expected = expected

    def update(self, _: bytes) -> None:
        """Do nothing."""

    def hexdigest(self) -> str:
        """Return what is expected."""
        return self.expected


def fetch_all(team: Path, verified: bool) -> float:
    """Fetch all shards one after another, in this process; return seconds."""
    with tempfile.TemporaryDirectory(dir=team.parent) as folder:
        _, shards = resolve(str(team), SHARDS, "v1", Path(folder))
        started = time.perf_counter()
        for name, md5 in shards.files.items():
            without = partial(_NoDigest, md5)
            with patch.object(fetching, "new_digest", fetching.new_digest if verified else without):
                shards.fetch(name)
        return time.perf_counter() - started


def measure_verification(team: Path, rounds: int) -> None:
    """Print what verification costs here and in DVC."""
    ours: dict[bool, list[float]] = {True: [], False: []}
    pulls: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for verified in (True, False):
            ours[verified].append(fetch_all(team, verified))
            with fresh_clone(team) as clone:
                run(clone, "dvc", "remote", "modify", "storage", "verify", str(verified).lower())
                pulls[verified].append(run(clone, "dvc", "pull", "--quiet")[0])
    print(f"\n{'verification':34} {'with s':>8} {'without':>8} {'ratio':>6}")
    for name, times in (("dvc://, all files, one by one", ours), ("dvc pull", pulls)):
        on, off = median(times[True]), median(times[False])
        print(f"{name:34} {on:8.2f} {off:8.2f} {on / off:6.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the shard set (1000)")
    parser.add_argument("--server", choices=sorted(SERVERS), help="S3 server (radosgw, else rclone, else moto)")
    parser.add_argument("--rounds", type=int, default=1, help="repetitions, of which the median counts (1)")
    options = parser.parse_args()
    name = options.server or next(each for each in ("radosgw", "rclone", "moto") if not missing(each))
    if reason := missing(name):
        sys.exit(reason)
    os.environ |= {"NO_PROXY": "127.0.0.1", "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "server").mkdir()
        with SERVERS[name](root / "server") as server:
            num_shards = max(1, round(options.megabytes / 63.6))
            team = root / "team"
            make_team(team, server, num_shards)
            print(f"{disk(team / SHARDS)[0] / 1e6:.0f} MB in {num_shards} shards, on {name}")
            measure_first_batch(team, options.rounds)
            measure_epoch(team)
            measure_verification(team, options.rounds)
            shutil.rmtree(team)


if __name__ == "__main__":
    main()
