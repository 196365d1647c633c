"""Damage what a stranger may have made, and read it: right values or an error in words, and nothing else touched.

    python tests/fuzz.py --mutations 20000 [--seed N] [--kind KIND]

Damaged are index.json (of shards as they are and of compressed ones), manifest.json, release files, the objects by
which DVC lists files, headers of shards and of latents: as JSON (values of other types, numbers off by one and huge,
names that lead out, fields and entries gone, twice or swapped) and as bytes (flipped, cut, put in, doubled). Each
mutation follows from seed, kind and number, so that one that fails can be made again: `--only NUMBER`.
"""

import argparse
import contextlib
import copy
import hashlib
import json
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]  # runs as a script

import numpy as np
import zstd

from microdiff.artifacts.latents import LatentsFile, Spool, TensorToWrite, write_latents
from microdiff.artifacts.manifest import is_whole, parse_manifest, read_manifest, write_manifest
from microdiff.artifacts.mds import ZSTD
from microdiff.artifacts.mds_index import index_document, read_index
from microdiff.artifacts.mds_scan import MdsFile
from microdiff.core.files import write_json
from microdiff.errors import MicrodiffError
from microdiff.remote.dvc_dir_object import dir_object_bytes, fetch_dir_object, files_elsewhere, folder_digest
from microdiff.remote.dvc_objects import object_path
from microdiff.remote.release_file import Release, release_document
from microdiff.remote.version_cache import CachedShards
from microdiff.storage.opening import open_remote
from tests.mds_factory import write_shard
from tests.shard_factory import build

COLUMNS = {"key": "str", "caption": "str", "width": "int32"} | {
    "caption_latents": "ndarray:float16:3,4",
    "latents_256": "ndarray:float16:1,32,32",
}
SIZES = (5, 4, 3)  # samples of each shard
PATIENCE_S = 20


@dataclass
class Place:
    """Folders to read in: what lies outside `cache` must not change.

    Attributes:
        root: Holds all of them.
        values: Of each sample, by key.
        files: What a stranger has made, by name.
    """

    root: Path
    values: dict[str, dict[str, bytes]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def __post_init__(self) -> None:
        (self.root / "home/.ssh").mkdir(parents=True)
        for name in ("home/precious.mds", "home/.ssh/id_rsa", "precious", "sets/precious.mds", "sets/withdrawn.tsv"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text("key\treason\n" if name.endswith(".tsv") else name)
        for name, compression in (("raw", None), ("zstd", ZSTD)):
            self._write_set(self.root / "sets" / name, compression)
        self._write_latents(self.root / "sets/a.image.safetensors")
        folder = self.root / "sets"
        self.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        remote = {name: data for name, data in self.files.items() if name.startswith("raw/")}
        for data in remote.values():
            self.put(data)
        listed = {name.removeprefix("raw/"): md5_of(data) for name, data in remote.items()}
        self.put(dir_object_bytes(listed), ".dir")
        release = Release("data/a/shards", "c" * 40, {"url": str(self.root / "remote")}, "", listed, "key\treason\n")
        sizes = {name: 1 for name in listed}
        document = release_document(release, sizes, {}, "v1") | {"directory": folder_digest(listed)}
        self.files |= {"release.json": json.dumps(document).encode(), "listed.dir": dir_object_bytes(listed)}
        self.before = self.outside()

    def put(self, data: bytes, suffix: str = "") -> str:
        """Push an object to the remote; return its name."""
        name = md5_of(data) + suffix
        path = self.root / "remote" / object_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name

    def outside(self) -> dict[str, tuple[int, int]]:
        """Return what is there and may not change: sizes and times of change by path."""
        found = {}
        for folder in ("home", "precious", "sets"):
            for path in [self.root / folder, *(self.root / folder).rglob("*")]:
                facts = path.lstat()
                found[str(path)] = (facts.st_size, facts.st_mtime_ns)
        found |= {str(path): (0, 0) for path in self.root.iterdir()}
        return found

    def _write_set(self, folder: Path, compression: str | None) -> None:
        folder.mkdir()
        entries, begin = [], 0
        for number, size in enumerate(SIZES):
            samples = [_sample(begin + each) for each in range(size)]
            entries.append(write_shard(folder / f"shard.{number:05}.mds", COLUMNS, samples, compression))
            self.values |= {
                sample["key"]: {
                    "image_latents": sample["latents_256"].tobytes(),
                    "caption_latents": sample["caption_latents"].tobytes(),
                    "caption": sample["caption"].encode(),
                    "width": np.int32(sample["width"]).tobytes(),
                }
                for sample in samples
            }
            begin += size
        write_json(folder / "index.json", index_document(entries))
        counts = {"in": 13, "kept": 12, "nsfw": 1}
        files = {entry.stored.name: {"bytes": entry.stored.num_bytes, "sha256": "a" * 64} for entry in entries}
        part = {"step": "shard", "fingerprint": "1" * 32, "counts": counts, "facts": {"a": [1]}, "files": list(files)}
        encoders = {"image": {"model": "a", "downsampling": 8, "stored_dtype": "float16"}, "text": {"model": "b"}}
        partition = {"fingerprints": ["1" * 32], "counts": counts, "files": files, "parts": [part]}
        facts = {"format": 1, "step": "shard", "source_records": 13, "counts": counts, "encoders": encoders}
        extra = {"index.json": "b" * 64}
        write_manifest(folder, {**facts, "withdrawn": 0, "partitions": {"0000": partition}, "extra": extra})

    def _write_latents(self, path: Path) -> None:
        with Spool(self.root / "spool") as spool:
            keys = [f"k{number}" for number in range(5)]
            for number in range(5):
                spool.append(np.full((2, 3), number, np.float16))
            write_latents(path, {"latents_16": TensorToWrite(keys, spool)}, {"model": "a"}, {"k9": "nsfw"})


def _sample(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {
        "key": f"k{number:03}" + "x" * (number % 3),
        "caption": "c" * number,
        "width": 1000 + number,
        "caption_latents": rng.normal(size=(3, 4)).astype(np.float16),
        "latents_256": rng.normal(size=(1, 32, 32)).astype(np.float16),
    }


def md5_of(data: bytes) -> str:
    """Return an object's name."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


# --- reading


def read_set(place: Place, given: Any) -> None:
    """Read all that the loader gives, and compare it."""
    columns = ("key", "caption", "width")
    loader = build(given, 2, columns=columns, drop_last=False, cache=place.cache)
    for batch in loader:
        for row, key in enumerate(batch["key"]):
            found = {name: batch[name][row].numpy().tobytes() for name in ("image_latents", "caption_latents", "width")}
            if place.values.get(key) != found | {"caption": batch["caption"][row].encode()}:
                raise AssertionError(f"other values of sample {key}")


def read_index_in(name: str, place: Place, data: bytes) -> None:
    """Read a folder with this index, by the loader and as those do that check or search shards."""
    folder = place.root / "sets" / name
    with _in_its_place(folder / "index.json", data):
        read_set(place, folder)
        for entry in read_index(folder / "index.json"):
            for values in MdsFile(folder, entry):
                key = str(values["key"], "utf-8")
                if place.values[key]["image_latents"] != bytes(values["latents_256"]):
                    raise AssertionError(f"other values of sample {key}")


def read_manifest_in(place: Place, data: bytes) -> None:
    """Read a folder with this manifest."""
    folder = place.root / "sets/raw"
    with _in_its_place(folder / "manifest.json", data):
        refused = None
        for read in (is_whole, read_manifest, parse_manifest, partial(read_set, place)):
            try:
                read(folder)
            except MicrodiffError as error:
                refused = error
        if refused is not None:
            raise refused


def read_release_file(place: Place, data: bytes) -> None:
    """Read the set of this release file."""
    path = place.cache / "release.json"
    path.write_bytes(data)
    read_set(place, str(path))


def read_dir_object(place: Place, data: bytes) -> None:
    """Read the set whose files this object lists."""
    directory = place.put(data, ".dir")
    settings = {"url": str(place.root / "remote")}
    store = open_remote(settings)
    files = fetch_dir_object(store, directory, place.cache, "the set")
    elsewhere = files_elsewhere(files, directory, place.cache)
    options: dict[str, Any] = {"store": store, "settings": settings, "cache": place.cache, "elsewhere": elsewhere}
    source = CachedShards(name="the set", directory=directory, files=files, **options)
    source.fetch_indexes()
    read_set(place, source)


def read_shard_in(name: str, place: Place, data: bytes) -> None:
    """Read a folder with this shard, whose size its index knows, and no hash."""
    folder = place.root / "sets" / name
    path = folder / ("shard.00001.mds" if name == "raw" else "shard.00001.mds.zstd")
    stored = data if name == "raw" else zstd.compress(data, 3, 1)
    index = json.loads(place.files[f"{name}/index.json"])
    entry = index["shards"][1]
    entry["raw_data"] |= {"bytes": len(data), "hashes": {}}
    if name == "zstd":
        entry["zip_data"]["bytes"] = len(stored)
    with _in_its_place(path, stored), _in_its_place(folder / "index.json", json.dumps(index).encode()):
        read_set(place, folder)


def read_zstd_in(place: Place, data: bytes) -> None:
    """Read a folder with this compressed shard, whose sizes its index knows, and check it by its hash."""
    folder = place.root / "sets/zstd"
    index = json.loads(place.files["zstd/index.json"])
    index["shards"][1]["zip_data"]["bytes"] = len(data)
    path = folder / "shard.00001.mds.zstd"
    with _in_its_place(path, data), _in_its_place(folder / "index.json", json.dumps(index).encode()):
        list(build(folder, 2, drop_last=False, cache=place.cache, validate_hash=True))


def read_latents(place: Place, data: bytes) -> None:
    """Read a file of latents."""
    path = place.cache / "a.image.safetensors"
    path.write_bytes(data)
    latents = LatentsFile(path)
    for name in latents.names:
        np.array(latents.rows(name))
        list(latents.keys(name))


@contextlib.contextmanager
def _in_its_place(path: Path, data: bytes) -> Iterator[None]:
    """Put other bytes into a file, and the first ones back."""
    kept, times = path.read_bytes(), path.stat()
    path.write_bytes(data)
    try:
        yield
    finally:
        if path.read_bytes() != data:
            raise AssertionError(f"{path} was changed")
        path.write_bytes(kept)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# --- damaging

HOSTILE = [
    "../../home/precious.mds",
    "{root}/home/precious.mds",
    "..",
    ".",
    "",
    "a//b.mds",
    "a/",
    "/",
    "\\",
    "a\x00b.mds",
]
HOSTILE += [
    "~/.ssh/id_rsa",
    "index.json",
    "shard.00000.mds",
    "shard.00000.mds/a.mds",
    "\ud800.mds",
    "x" * 5000,
    "/dev/zero",
]
HOSTILE += [
    "zstd:3",
    "br:3",
    "bytes",
    "str",
    "pkl",
    "ndarray:float16:9999999999,9999999999",
    "sha256",
    "shake_128",
    "http://x",
]
NUMBERS = [
    0,
    1,
    -1,
    2,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**63,
    2**64,
    -(2**63),
    10**30,
    0.5,
    1e308,
]
OTHERS = [None, True, False, [], {}, [[]], {"": {}}, [None], "", float("nan"), float("inf")]


def mutate_json(rng: random.Random, data: bytes, root: Path) -> bytes:
    """Change one to three places of a JSON document."""
    value = json.loads(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            break
        container, key = rng.choice(places)
        _mutate(rng, container, key, root)
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _mutate(rng: random.Random, container: Any, key: Any, root: Path) -> None:
    old = container[key]
    way = rng.randrange(9)
    if way == 0:
        del container[key]
    elif way == 1:
        container[key] = rng.choice(OTHERS)
    elif way == 2:
        container[key] = rng.choice(NUMBERS)
    elif way == 3:
        container[key] = rng.choice(HOSTILE).replace("{root}", str(root))
    elif way == 4 and isinstance(old, int):
        container[key] = rng.choice(
            [old + 1, old - 1, -old, old ^ (1 << rng.randrange(34)), old * 2, float(old), str(old)]
        )
    elif way == 4 and isinstance(old, str):
        container[key] = _changed_text(rng, old)
    elif way == 5 and isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(old))
    elif way == 5 and isinstance(container, dict):
        container[rng.choice([rng.choice(HOSTILE).replace("{root}", str(root)), *container])] = copy.deepcopy(old)
    elif way == 6 and isinstance(container, list):
        other = rng.randrange(len(container))
        container[key], container[other] = container[other], old
    elif way == 6:
        other = rng.choice(list(container))
        container[key], container[other] = container[other], old
    elif way == 7 and isinstance(old, list | dict):
        container[key] = [old] if rng.random() < 0.5 else {"a": old}
    else:
        for _ in range(rng.choice([1, 50, 150, 3000])):
            old = [old]
        container[key] = old if _depth(old) < 900 else None  # json.dumps cannot write what is deeper


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth


def _changed_text(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    return rng.choice(
        [text[:at], text[at:], text[:at] + rng.choice("/.\\\x00:,9é") + text[at:], text * 2, text.upper()]
    )


def mutate_bytes(rng: random.Random, data: bytes, limit: int | None = None) -> bytes:
    """Change bytes, in the first `limit` of them."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        top = min(limit or len(changed), len(changed))
        if not top:
            break
        at, length = rng.randrange(top), rng.choice([1, 1, 4, 20])
        way = rng.randrange(6)
        if way == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            changed[at] = rng.randrange(256)
        elif way == 2:
            del changed[at : at + length]
        elif way == 3:
            changed[at:at] = rng.randbytes(length)
        elif way == 4:
            changed[at:at] = changed[at : at + length]
        else:
            del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


def _first_sample(data: bytes) -> int:
    """Return where the samples of a shard begin."""
    return int.from_bytes(data[4:8], "little")


def mutate_header(rng: random.Random, data: bytes, root: Path) -> bytes:
    """Change the table of offsets of a shard, or the JSON behind it; what follows stays in its place."""
    count, first = int.from_bytes(data[:4], "little"), _first_sample(data)
    end = 4 + 4 * (count + 1)
    if rng.random() < 0.5:
        table = np.frombuffer(data[:end], "<u4").copy()
        which = rng.randrange(len(table))
        old = int(table[which])
        new = rng.choice([old + 1, old - 1, old ^ 1 << rng.randrange(32), 0, 2**32 - 1, int(rng.choice(table))])
        table[which] = new % 2**32
        return table.tobytes() + data[end:]
    text = mutate_json(rng, data[end:first], root)
    if rng.random() < 0.5 and len(text) <= first - end:
        return data[:end] + text.ljust(first - end) + data[first:]
    table = np.frombuffer(data[4:end], "<u4").astype(np.int64) + len(text) - (first - end)
    return data[:4] + table.astype("<u4").tobytes() + text + data[first:]


@dataclass(frozen=True)
class Kind:
    """What is damaged: its file, how it is read, and how it is changed as what it is, beside as bytes."""

    file: str
    read: Callable[[Place, bytes], None]
    change: Callable[[random.Random, bytes, Path], bytes]


def _latents_header(rng: random.Random, data: bytes, root: Path) -> bytes:
    length = int.from_bytes(data[:8], "little")
    text = mutate_json(rng, data[8 : 8 + length], root)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _bytes_alone(rng: random.Random, data: bytes, root: Path) -> bytes:
    return mutate_bytes(rng, data)


KINDS = {
    "index": Kind("raw/index.json", lambda *a: read_index_in("raw", *a), mutate_json),
    "zstd index": Kind("zstd/index.json", lambda *a: read_index_in("zstd", *a), mutate_json),
    "manifest": Kind("raw/manifest.json", read_manifest_in, mutate_json),
    "release": Kind("release.json", read_release_file, mutate_json),
    "dir object": Kind("listed.dir", read_dir_object, mutate_json),
    "shard header": Kind("raw/shard.00001.mds", lambda *a: read_shard_in("raw", *a), mutate_header),
    "zstd shard header": Kind("raw/shard.00001.mds", lambda *a: read_shard_in("zstd", *a), mutate_header),
    "zstd frame": Kind("zstd/shard.00001.mds.zstd", read_zstd_in, _bytes_alone),
    "latents": Kind("a.image.safetensors", read_latents, _latents_header),
}


def mutation(place: Place, kind: str, seed: int, number: int) -> bytes:
    """Return the bytes of a mutation."""
    rng = random.Random(f"{seed} {kind} {number}")
    made, data = KINDS[kind], place.files[KINDS[kind].file]
    if rng.random() < 0.3:
        return mutate_bytes(rng, data, _first_sample(data) if "header" in kind else None)
    return made.change(rng, data, place.root)


def run_one(place: Place, kind: str, seed: int, number: int) -> str:
    """Read one mutation; return `refused`, `read`, or what went wrong."""
    data = mutation(place, kind, seed, number)
    place.cache.mkdir(exist_ok=True)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    try:
        KINDS[kind].read(place, data)
        outcome = "read"
    except MicrodiffError:
        outcome = "refused"
    except BaseException as error:  # whatever it is, it is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome = f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    changed = {path for path, facts in place.outside().items() ^ place.before.items()} - {str(place.cache)}
    if changed:
        outcome = f"outside the cache: {sorted(changed)[:3]}"
        place.before = place.outside()
    return outcome


def _too_long(*_: object) -> None:
    raise TimeoutError("it took too long")


def fuzz(root: Path, kinds: list[str], numbers: range, seed: int) -> Iterator[tuple[str, int, str]]:
    """Yield kind, number and outcome of each mutation; `numbers` are dealt out to the kinds in turn."""
    place = Place(root)
    for kind in kinds:  # what nobody has damaged is read
        place.cache.mkdir(exist_ok=True)
        KINDS[kind].read(place, place.files[KINDS[kind].file])
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        for number in numbers:
            kind = kinds[number % len(kinds)]
            yield kind, number, run_one(place, kind, seed, number)
    finally:
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    """Print how many mutations of each kind came to what, and each that came to anything else."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    counts: dict[str, Counter[str]] = {}
    begin, memory = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as name:
        numbers = range(options.mutations) if options.only is None else range(options.only, options.only + 1)
        for kind, number, outcome in fuzz(Path(name) / "root", options.kind or list(KINDS), numbers, options.seed):
            is_right = outcome in ("read", "refused")
            counts.setdefault(kind, Counter())[outcome if is_right else "WRONG"] += 1
            memory = memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if not is_right:
                print(f"{kind} {number}: {outcome}", flush=True)
    for kind, found in counts.items():
        print(f"{kind}: {dict(sorted(found.items()))}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(f"{sum(map(Counter.total, counts.values()))} in {time.monotonic() - begin:.0f} s, memory grew by {grown} KiB")


if __name__ == "__main__":
    main()
