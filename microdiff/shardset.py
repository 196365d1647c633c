"""What a folder of latent shards holds, checked before anything streams from it, without torch or streaming.

Two kinds of folder are read: ours (typed columns, a `manifest.json` that names the encoders, a sub-folder per
group of resolutions) and what the published micro_diffusion scripts write (`bytes` columns without shapes).
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microdiff.errors import SchemaError
from microdiff.mds import INDEX_NAME, Column, read_index, read_sample

CAPTION_COLUMN = "caption_latents"
MANIFEST_NAME = "manifest.json"
PUBLISHED_CAPTION_SHAPE = (77, 1024)  # of OpenCLIP ViT-H/14, the one encoder the published shards come from
VAE_FACTOR = 8  # image pixels per latent pixel, along each side

_LOG = logging.getLogger(__name__)
_BYTES_PER_VALUE = 2  # float16
_PLAIN_ENCODINGS = ("str", "int", "int32", "int64", "float32", "float64")


@dataclass(frozen=True)
class ShardSet:
    """The shards of one dataset at one resolution.

    Attributes:
        given: The folder as the user named it, for messages.
        folder: The folder to stream from: `given`, or the group in it that has the resolution.
        entries: The shards, as its index lists them.
        encoders: What made the latents, None when nothing says so.
        image_column: Name of the image latents.
        image_shape: Shape of a sample's image latents, (C, H, W); float16.
        caption_shape: Shape of a sample's caption latents, (T, D); float16.
    """

    given: Path
    folder: Path
    entries: Sequence[Mapping[str, Any]]
    encoders: object
    image_column: str
    image_shape: tuple[int, ...]
    caption_shape: tuple[int, ...]


def open_shard_set(
    given: Path, image_size: int, cap_seq_size: int | None = None, cap_emb_dim: int | None = None
) -> ShardSet:
    """Read a folder's index, choose the group that has the resolution, and check that its files are there.

    Args:
        given: Folder with an `index.json`.
        image_size: Pixels; must be a resolution of every sample read.
        cap_seq_size: Tokens per caption the caller expects, None for what the shards have.
        cap_emb_dim: Width of a token the caller expects, None for what the shards have.

    Raises:
        SchemaError: In words, whatever would keep this folder from being streamed at this resolution.
    """
    image_column = f"latents_{image_size}"
    folder, entries = given, read_index(given / INDEX_NAME)
    without = [entry for entry in entries if image_column not in entry["column_names"]]
    if without:
        group = given / str(image_size)
        if not (group / INDEX_NAME).is_file():
            found = {name for entry in entries for name in entry["column_names"] if name.startswith("latents_")}
            raise SchemaError(
                f"{given}: {len(without)} of {len(entries)} shards have no {image_column}, only "
                f"{sorted(found)}: choose another image_size, or encode this dataset at {image_size} px"
            )
        folder, entries = group, read_index(group / INDEX_NAME)
    if not sum(entry["samples"] for entry in entries):
        raise SchemaError(f"{folder}: has no samples with {image_column}: leave this dataset out at {image_size} px")
    _check_files(folder, entries)
    encoding_of = {name: _encoding(folder, entries, name) for name in (image_column, CAPTION_COLUMN)}
    first = read_sample(folder, next(entry for entry in entries if entry["samples"]), 0)
    return ShardSet(
        given=given,
        folder=folder,
        entries=entries,
        encoders=_read_encoders(given),
        image_column=image_column,
        image_shape=_image_shape(folder, image_size, encoding_of[image_column], len(first[image_column])),
        caption_shape=_caption_shape(
            folder, (cap_seq_size, cap_emb_dim), encoding_of[CAPTION_COLUMN], len(first[CAPTION_COLUMN])
        ),
    )


def check_columns(shard_set: ShardSet, columns: Sequence[str]) -> None:
    """Check that text and number columns asked for exist in every shard.

    Raises:
        SchemaError: One is missing, or is not plain text or a number.
    """
    for name in columns:
        encoding = _encoding(shard_set.folder, shard_set.entries, name)
        if encoding not in _PLAIN_ENCODINGS:
            raise SchemaError(f"{shard_set.folder}: column {name!r} is {encoding}, expected {_PLAIN_ENCODINGS}")


def check_mixable(shard_sets: Sequence[ShardSet]) -> None:
    """Check that shard sets can be trained on together: same encoders (where stated) and same shapes.

    Raises:
        SchemaError: Naming two folders and the first field in which they differ.
    """
    remedy = "encode both with the same models, or leave one out"
    stated = [each for each in shard_sets if each.encoders is not None]
    if 0 < len(stated) < len(shard_sets):
        silent = ", ".join(str(each.given) for each in shard_sets if each.encoders is None)
        _LOG.warning("not checked, for want of a manifest: that %s was made by the encoders of the rest", silent)
    for other in stated[1:]:
        difference = _first_difference(stated[0].encoders, other.encoders, "encoders")
        if difference:
            field, left, right = difference
            raise SchemaError(
                f"{stated[0].given} and {other.given} come from different encoders: {field} is {left!r} in "
                f"the first and {right!r} in the second: {remedy}"
            )
    for other in shard_sets[1:]:
        for field in ("image_shape", "caption_shape"):
            left, right = getattr(shard_sets[0], field), getattr(other, field)
            if left != right:
                raise SchemaError(
                    f"{shard_sets[0].given} and {other.given} do not fit together: {field} is {left} in the "
                    f"first and {right} in the second: {remedy}"
                )


def _check_files(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    for entry in entries:
        path, expected = folder / entry["raw_data"]["basename"], entry["raw_data"]["bytes"]
        if entry.get("zip_data"):
            raise SchemaError(f"{path} is compressed, expected plain MDS: write it with compression=None")
        try:
            found = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise SchemaError(f"{path} is missing, although the index lists it: write or pull it again") from None
        if found != expected:
            raise SchemaError(f"{path}: expected {expected} bytes, got {found}: write or pull it again")


def _encoding(folder: Path, entries: Sequence[Mapping[str, Any]], column: str) -> str:
    """Return the one encoding a column has in all shards."""
    found = set()
    for entry in entries:
        encoding_of = dict(zip(entry["column_names"], entry["column_encodings"], strict=True))
        if column not in encoding_of:
            path = folder / entry["raw_data"]["basename"]
            raise SchemaError(f"{path} has no column {column!r}, only {sorted(encoding_of)}")
        found.add(encoding_of[column])
    if len(found) > 1:
        raise SchemaError(f"{folder}: expected one encoding of {column}, got {sorted(found)}: write the set again")
    return str(found.pop())


def _stored_shape(folder: Path, column: str, encoding: str) -> tuple[int, ...]:
    parsed = Column.parse(column, encoding)
    if parsed.shape is None or parsed.dtype != "float16":
        raise SchemaError(f"{folder}: {column} is {encoding}, expected float16 latents: encode as float16")
    return parsed.shape


def _image_shape(folder: Path, image_size: int, encoding: str, first_bytes: int) -> tuple[int, ...]:
    column, side = f"latents_{image_size}", image_size // VAE_FACTOR
    if encoding == "bytes":
        channels, rest = divmod(first_bytes, side * side * _BYTES_PER_VALUE)
        if rest or not channels:
            raise SchemaError(f"{folder}: {column} takes {first_bytes} bytes, expected C x {side} x {side} float16")
        return (channels, side, side)
    shape = _stored_shape(folder, column, encoding)
    if len(shape) != 3 or shape[1:] != (side, side):
        raise SchemaError(f"{folder}: {column} has shape {shape}, expected (C, {side}, {side})")
    return shape


def _caption_shape(
    folder: Path, asked: tuple[int | None, int | None], encoding: str, first_bytes: int
) -> tuple[int, ...]:
    if encoding == "bytes":
        tokens, width = (want or default for want, default in zip(asked, PUBLISHED_CAPTION_SHAPE, strict=True))
        expected = tokens * width * _BYTES_PER_VALUE
        if first_bytes != expected:
            raise SchemaError(
                f"{folder}: {CAPTION_COLUMN} takes {first_bytes} bytes, but {tokens} x {width} float16 takes "
                f"{expected}: give the cap_seq_size and cap_emb_dim of its encoder (float32 is not read)"
            )
        return (tokens, width)
    shape = _stored_shape(folder, CAPTION_COLUMN, encoding)
    if len(shape) != 2:
        raise SchemaError(f"{folder}: {CAPTION_COLUMN} has shape {shape}, expected (tokens, width)")
    if any(want not in (None, have) for want, have in zip(asked, shape, strict=True)):
        raise SchemaError(
            f"{folder}: {CAPTION_COLUMN} is {shape[0]} x {shape[1]}, but cap_seq_size={asked[0]} and "
            f"cap_emb_dim={asked[1]} were given: leave them out, the shards state their shape"
        )
    return shape


def _read_encoders(given: Path) -> object:
    """Return the manifest's `encoders`; a single group (`.../512`) has its manifest one folder higher."""
    path = given / MANIFEST_NAME
    if not path.is_file() and given.name.isdigit():
        path = given.parent / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise SchemaError(f"{path}: expected JSON, got {error}: write or pull it again") from None
    if not isinstance(manifest, dict) or manifest.get("encoders") is None:
        raise SchemaError(f"{path}: expected 'encoders', the models that made the latents: write the shards again")
    encoders: object = manifest["encoders"]
    return encoders


def _first_difference(left: object, right: object, name: str) -> tuple[str, object, object] | None:
    """Return dotted name and both values of the first field that differs; None for equal values."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            difference = _first_difference(left.get(key), right.get(key), f"{name}.{key}")
            if difference:
                return difference
        return None
    return None if left == right else (name, left, right)
