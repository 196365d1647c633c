"""Latents artifacts for tests of the shard step, made up of numbers instead of pictures and captions."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microdiff.artifacts.latents import Spool, TensorToWrite, in_numpy, write_latents
from microdiff.artifacts.manifest import write_manifest
from microdiff.artifacts.tables import table_writer
from microdiff.core.files import digest_file
from microdiff.encode.merge import SCHEMA

Samples = dict[str, dict[str, Any]]

CAPTIONS = ["a dog", "", "Füchse 狐 🦊", "line\nbreak"]
SHAPES = {
    "caption_latents": ("float16", (3, 8)),
    "caption_latents_t5": ("bfloat16", (5, 4)),
    "caption_mask_t5": ("uint8", (5,)),
    "latents_256": ("float16", (4, 32, 32)),
    "latents_512": ("float16", (4, 64, 64)),
}


def make_sample(number: int, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample whose values follow from its number; two of three have no latents for 512 px."""
    rng = np.random.default_rng(number)
    latents = {
        name: rng.integers(0, 200, shape, np.uint16).astype(np.uint8).astype(in_numpy(dtype))
        for name, (dtype, shape) in columns.items()
    }
    if number % 3:
        latents = {name: value for name, value in latents.items() if not name.endswith("_512")}
    return {
        "key": f"k{number:04d}",
        "caption": CAPTIONS[number % len(CAPTIONS)],
        "width": 300 + number,
        "height": 700 - number,
        **latents,
    }


def write_artifact(
    root: Path,
    partitions: Mapping[str, list[int]],
    columns: Mapping[str, Any] = SHAPES,
    make: Callable[[int, Mapping[str, Any]], dict[str, Any]] = make_sample,
) -> Samples:
    """Write a latents artifact as the encode step does; return its samples by key."""
    folder = root / "data" / "coco" / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    written: Samples = {}
    manifest: dict[str, Any] = {}
    for name, numbers in partitions.items():
        samples = [make(number, columns) for number in numbers]
        written |= {sample["key"]: sample for sample in samples}
        for kind in ("image", "text", "text_t5"):
            own = [column for column in columns if _kind(column) == kind]
            if own:
                _write_file(folder / f"{name}.{kind}.safetensors", own, columns, samples, kind == "image")
        with table_writer(folder / f"{name}.parquet", SCHEMA) as add_row:
            for sample in samples:
                plain = {field: sample[field] for field in ("key", "caption", "width", "height")}
                add_row({**plain, "status": "kept", "image_key": f"image of {sample['key']}"})
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": digest_file(path)}
            for path in sorted(folder.glob(f"{name}.*"))
        }
        counts = {"in": len(numbers), "kept": len(numbers)}
        manifest[name] = {"fingerprints": [], "counts": counts, "files": files}
    facts = {"format": 1, "source_records": len(written), "counts": {"in": len(written), "kept": len(written)}}
    write_manifest(folder, {**facts, "partitions": manifest, "encoders": {"image": {}, "text": {}}})
    return written


def _kind(column: str) -> str:
    return "image" if column.startswith(("latents", "moments")) else "text_t5" if column.endswith("_t5") else "text"


def _write_file(path: Path, own: list[str], columns: Mapping[str, Any], samples: Any, is_image: bool) -> None:
    spools = {column: Spool(path.with_name(f"spool {column}"), columns[column][0]) for column in own}
    keys: dict[str, list[str]] = {column: [] for column in own}
    for sample in reversed(samples):  # no reader may rely on the rows' order
        for column in own:
            if column in sample:
                spools[column].append(sample[column])
                keys[column].append(f"image of {sample['key']}" if is_image else sample["key"])
    write_latents(path, {column: TensorToWrite(keys[column], spools[column]) for column in own}, {}, {})
    for spool in spools.values():
        spool.__exit__(None, None, None)
