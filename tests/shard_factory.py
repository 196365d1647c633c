"""Shards for tests of the loader: in our layout and as the published scripts write them; and loaders that read them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from microdiff import build_streaming_latents_dataloader
from microdiff.artifacts.mds_header import Column
from microdiff.artifacts.mds_index import index_document
from microdiff.core.files import write_json
from tests.mds_factory import write_shard

ENCODERS = {"image": {"model": "tiny-vae", "scale": 0.13}, "text": {"model": "tiny-clip", "revision": "a1"}}
COLUMNS = {
    "key": "str",
    "caption": "str",
    "width": "int32",
    "height": "int32",
    "caption_latents": "ndarray:float16:77,64",
    "latents_256": "ndarray:float16:4,32,32",
}
COLUMNS_512 = COLUMNS | {"latents_512": "ndarray:float16:4,64,64"}
NUM_512, NUM_256 = 11, 26
NUM = NUM_512 + NUM_256


def make_sample(name: str, number: int, columns: dict[str, str]) -> dict[str, Any]:
    """Return a sample whose values follow from its number; no two numbers, keys or channels have equal ones."""
    rng = np.random.default_rng(number)
    arrays = {
        column: rng.normal(size=parsed.shape).astype(parsed.dtype)
        for column, encoding in columns.items()
        if (parsed := Column.parse(column, encoding)).shape
    }
    return {
        "key": f"{name}{number:03}",
        "caption": f"no. {number}",
        "width": 512 + 3 * number,
        "height": number,
        **arrays,
    }


def write_shard_set(
    folder: Path, encoders: object = ENCODERS, num_512: int = NUM_512, **changes: str
) -> dict[str, dict[str, Any]]:
    """Write a shard set in our layout; return its samples by key."""
    samples, nested = {}, []
    groups = {"512": (COLUMNS_512, range(num_512)), "256": (COLUMNS, range(NUM_512, NUM))}
    for group, (columns, numbers) in groups.items():
        (folder / group).mkdir(parents=True)
        entries = []
        for shard, begin in enumerate(range(numbers.start, numbers.stop, 10)):
            made = [
                make_sample(folder.parent.name, number, columns | changes)
                for number in numbers
                if begin <= number < begin + 10
            ]
            path = folder / group / f"shard.{shard:05}.mds"
            entries.append(write_shard(path, columns | changes, made))
            samples.update({sample["key"]: sample for sample in made})
        write_json(folder / group / "index.json", index_document(entries))
        nested += [entry.in_folder(group) for entry in entries]
    write_json(folder / "index.json", index_document(nested))
    (folder / "manifest.json").write_text(json.dumps({"encoders": encoders}))
    return samples


def write_published(folder: Path, caption_shape: tuple[int, int], dtype: str = "float16") -> list[dict[str, Any]]:
    """Write shards as the published scripts do: with streaming's writer, latents as bytes, no keys."""
    from streaming import MDSWriter

    rng = np.random.default_rng(5)
    shapes = {"caption_latents": caption_shape, "latents_256": (4, 32, 32), "latents_512": (4, 64, 64)}
    samples: list[dict[str, Any]] = [
        {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()} for _ in range(12)
    ]
    columns = {"caption": "str", **dict.fromkeys(shapes, "bytes")}
    with MDSWriter(out=str(folder), columns=columns, size_limit=2**18) as writer:
        for number, sample in enumerate(samples):
            arrays = {name: array.tobytes() for name, array in sample.items()}
            writer.write({"caption": f"no. {number}", **arrays})
    return samples


def build(datadir: Any, *args: Any, **options: Any) -> Any:
    """Build our loader with the samples' keys in its batches; the batch size is 4 unless given."""
    return build_streaming_latents_dataloader(datadir, *(args or (4,)), **{"columns": ("key",)} | options)


def keys_of(batches: Any) -> list[str]:
    """Return the keys of all batches, in their order."""
    return [key for batch in batches for key in batch["key"]]


def plain_loader(folder: Any, batch_size: int, *, shuffle: bool = True, **options: Any) -> Any:
    """Return what the published code builds: streaming's data set in torch's DataLoader, here streaming's subclass."""
    from streaming import Stream, StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(streams=[Stream(local=str(folder))], shuffle=shuffle, batch_size=batch_size)
    return StreamingDataLoader(dataset, batch_size=batch_size, collate_fn=_keys_alone, **options)


def _keys_alone(samples: Any) -> dict[str, list[str]]:
    return {"key": [sample["key"] for sample in samples]}
