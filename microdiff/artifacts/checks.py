"""What finished partitions must be, whoever computed them: counts, shapes, dtypes, finite values, pictures' hashes.

Each check takes the folder that holds a partition's files, its name, and its result, and raises SchemaError. They are
made before a partition is taken into a store, and so before it is published: hashes show that bytes are those that
somebody wrote, not that he wrote the right ones.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from microdiff.artifacts.column_names import mask_column
from microdiff.artifacts.finiteness import check_finite, is_finite
from microdiff.artifacts.latents import LatentsFile
from microdiff.artifacts.mds_header import Column
from microdiff.artifacts.mds_index import ShardEntry
from microdiff.artifacts.mds_scan import MdsFile
from microdiff.artifacts.raw import read_members
from microdiff.artifacts.tables import read_rows
from microdiff.core.ledger import KEPT, Reason, Result
from microdiff.errors import SchemaError

RowType = tuple[str, tuple[int, ...]]
_STATUSES = (KEPT, *(reason.value for reason in Reason))


def check_table(folder: Path, name: str, result: Result) -> None:
    """Check that a partition's table has as many rows of each status as its counts say."""
    _recount(folder / f"{name}.parquet", ["key", "status"], result)


def check_raw(folder: Path, name: str, result: Result) -> None:
    """Check a raw partition: its table's counts, and that its tar holds the kept rows' pictures, each of its hash."""
    rows = _recount(folder / f"{name}.parquet", ["key", "status", "sha256"], result)
    tar = folder / f"{name}.tar"
    kept = (row for row in rows if row["status"] == KEPT)
    for row, member in zip_longest(kept, read_members(tar)):
        key = None if member is None else member[0].partition(".")[0]
        if row is None or member is None or key != row["key"]:
            wanted = "no more" if row is None else row["key"]
            raise SchemaError(f"{tar}: expected the picture {wanted}, found {key or 'the end'}")
        if (found := hashlib.sha256(member[1]).hexdigest()) != row["sha256"]:
            raise SchemaError(f"{tar}, sample {key}: expected sha256 {row['sha256']}, found {found}")


def check_latents(folder: Path, _: str, result: Result) -> None:
    """Check a partition's latents: as many rows as keys, each key once, the encoder's dtype and shape, all finite."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise SchemaError(f"{folder}: no latents there")
    for path in paths:
        latents = LatentsFile(path)
        is_image = path.name.endswith(".image.safetensors")
        seen: set[str] = set()
        for tensor in latents.names:
            keys, rows = latents.keys(tensor), latents.rows(tensor)
            if not len(keys) == len(set(keys)) == len(rows):
                raise SchemaError(
                    f"{path}: {tensor} has {len(rows)} rows, {len(keys)} keys, {len(set(keys))} of them distinct"
                )
            try:
                wanted = image_row(latents.encoder, tensor) if is_image else _text_row(latents, tensor)
            except KeyError as error:
                raise SchemaError(f"{path}: its encoder says nothing of {error}") from None
            if (found := (latents.dtype(tensor), rows.shape[1:])) != wanted:
                raise SchemaError(f"{path}: {tensor} is {found} per sample, expected {wanted or 'no such tensor'}")
            check_finite(path, tensor, latents)
            seen.update(keys)
        kept, rejected = result.counts[KEPT], result.counts["in"] - result.counts[KEPT]
        if len(latents.rejected) != rejected or len(seen) > kept or (not is_image and len(seen) != kept):
            raise SchemaError(
                f"{path}: {len(seen)} samples and {len(latents.rejected)} rejected ones, "
                f"but its counts say {kept} and {rejected}"
            )


def check_shard(folder: Path, name: str, result: Result) -> None:
    """Check a shard: what it says of itself, its number of samples, and that all values are finite."""
    try:
        entry = ShardEntry.parse(result.facts.get("entry"))
    except ValueError as error:
        raise SchemaError(f"{folder / name}: its record holds no index entry: {error}") from None
    path = (folder / name).parent
    shard = MdsFile(path, entry)
    if shard.header != entry.header:
        raise SchemaError(f"{path / entry.stored.name}: its header is not what its index entry says")
    if not shard.num_samples == entry.num_samples == result.counts[KEPT]:
        raise SchemaError(
            f"{path / entry.stored.name}: it holds {shard.num_samples} samples, its index entry says "
            f"{entry.num_samples}, its counts {result.counts[KEPT]}"
        )
    columns = [Column.parse(column, encoding) for column, encoding in shard.header.encodings.items()]
    for values in shard:
        for column in columns:
            _check_value(path / entry.stored.name, column, values)


def image_row(encoder: Mapping[str, Any], tensor: str) -> RowType | None:
    """Return the dtype and the shape of a row of a tensor in an image latents file; None if it has no such tensor."""
    kind, _, px = tensor.partition("_")
    is_moments = encoder["latents"] == "moments"
    if kind != ("moments" if is_moments else "latents") or not px.isdigit():
        return None
    side = int(px) // encoder["downsampling"]
    return encoder["stored_dtype"], (encoder["channels"] * (2 if is_moments else 1), side, side)


def text_row(column: str, encoder: Mapping[str, Any], tensor: str) -> RowType | None:
    """Return the dtype and the shape of a row of a tensor in a text column's file; None if it has no such tensor."""
    if tensor == column:
        return encoder["stored_dtype"], (encoder["tokens"], encoder["width"])
    if encoder.get("mask") and tensor == mask_column(column):
        return "uint8", (encoder["tokens"],)
    return None


def _text_row(latents: LatentsFile, tensor: str) -> RowType | None:
    masks = {mask_column(name): name for name in latents.names if mask_column(name) != name}
    return text_row(masks.get(tensor, tensor), latents.encoder, tensor)


def _recount(table: Path, columns: list[str], result: Result) -> Iterable[Mapping[str, Any]]:
    try:
        rows = list(read_rows(table, columns))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SchemaError(f"{table}: it cannot be read ({error})") from None
    found = Counter({"in": len(rows)})
    found.update(row["status"] for row in rows)
    expected = {name: n for name, n in result.counts.items() if name in ("in", *_STATUSES)}
    if +found != +Counter(expected):
        raise SchemaError(f"{table}: its rows are {dict(sorted(found.items()))}, its counts say {expected}")
    return rows


def _check_value(path: Path, column: Column, values: Mapping[str, memoryview]) -> None:
    if column.dtype is None or is_finite(np.frombuffer(values[column.name], column.dtype), column.dtype.name):
        return
    key = str(values.get("key", b""), "utf-8", "replace")
    raise SchemaError(f"{path}, sample {key}: {column.name} holds NaN or infinity")
