"""What the index of a shard set says of its columns: dtypes and shapes, checked. Does not import torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from microdiff.artifacts.mds_header import Column
from microdiff.artifacts.mds_index import ShardEntry
from microdiff.errors import SchemaError

TEXT_ENCODING = "str"
PUBLISHED_DOWNSAMPLING = 8  # of Stable Diffusion's VAE, the one image encoder the published shards come from
PUBLISHED_CAPTION_SHAPE = (77, 1024)  # of OpenCLIP ViT-H/14, the one encoder the published shards come from

_ITEM_BYTES = {"uint8": 1, "float16": 2, "bfloat16": 2, "int32": 4, "float32": 4, "int64": 8, "float64": 8}
_SCALARS = {"int": "int64", "int32": "int32", "int64": "int64", "float32": "float32", "float64": "float64"}
_LATENTS = ("float16", "bfloat16", "float32")
_OF_TEXT_ENCODER = re.compile(r"caption_(latents|mask)(_.+)?")


@dataclass(frozen=True)
class StoredArray:
    """A column whose values all take the same number of bytes.

    Attributes:
        column: Its name.
        dtype: float16, bfloat16, float32, uint8, or of a number: int32, int64, float32, float64.
        shape: Of one sample's value; () for a number.
    """

    column: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample's value."""
        return prod(self.shape) * _ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def encoding_of(where: object, entries: Sequence[ShardEntry], column: str) -> str:
    """Return the one encoding that a column has in all shards.

    Raises:
        SchemaError: A shard lacks the column, or two have it differently.
    """
    found = set()
    for entry in entries:
        if column not in entry.header.column_names:
            path = f"{where}/{entry.raw.name}"
            raise SchemaError(f"{path} has no column {column!r}, only {sorted(entry.header.column_names)}")
        found.add(entry.header.encodings[column])
    if len(found) > 1:
        raise SchemaError(f"{where}: expected one encoding of {column}, got {sorted(found)}: write the set again")
    return found.pop()


def image_array(
    where: object, column: str, encoding: str, stored: str | None, image_size: int, downsampling: int, first: int
) -> StoredArray:
    """Return what image latents, or the moments they are drawn from, look like.

    Args:
        where: The shard set, for messages.
        column: `latents_<px>` or `moments_<px>`.
        encoding: As in the index; `bytes` is what the published code writes.
        stored: The dtype that the manifest states, None if it does not.
        image_size: Pixels.
        downsampling: Pixels per value of the latents, along each side.
        first: Bytes of the first sample's value.

    Raises:
        SchemaError: The column is no such thing.
    """
    side, rest = divmod(image_size, downsampling)
    if rest:
        raise SchemaError(
            f"{where}: {column} cannot come from a VAE that reduces by {downsampling}, as its manifest says: write the "
            f"shards again"
        )
    if encoding == "bytes":
        channels, rest = divmod(first, side * side * _ITEM_BYTES["float16"])
        if rest or not channels:
            raise SchemaError(f"{where}: {column} takes {first} bytes, expected C x {side} x {side} float16")
        return StoredArray(column, "float16", (channels, side, side))
    array = _latents(where, column, encoding, stored)
    if len(array.shape) != 3 or array.shape[1:] != (side, side):
        raise SchemaError(
            f"{where}: {column} has shape {array.shape}, expected (C, {side}, {side}) of a VAE that reduces by "
            f"{downsampling}"
        )
    if column.startswith("moments_") and array.shape[0] % 2:
        raise SchemaError(f"{where}: {column} has {array.shape[0]} channels, expected as many deviations as means")
    return array


def caption_array(
    where: object,
    column: str,
    encoding: str,
    stored: str | None,
    asked: tuple[int | None, int | None],
    first: int,
) -> StoredArray:
    """Return what caption latents look like.

    Args:
        where: The shard set, for messages.
        column: `caption_latents`.
        encoding: As in the index.
        stored: The dtype that the manifest states, None if it does not.
        asked: Tokens and width that the caller expects, None for what is stored.
        first: Bytes of the first sample's value.

    Raises:
        SchemaError: The column is no such thing, or not of the size asked for.
    """
    if encoding == "bytes":
        tokens, width = (want or default for want, default in zip(asked, PUBLISHED_CAPTION_SHAPE, strict=True))
        array = StoredArray(column, "float16", (tokens, width))
        if first != array.row_bytes:
            raise SchemaError(
                f"{where}: {column} takes {first} bytes, but {tokens} x {width} float16 takes {array.row_bytes}: "
                f"give the cap_seq_size and cap_emb_dim of its encoder (float32 is not read)"
            )
        return array
    array = _latents(where, column, encoding, stored)
    if len(array.shape) != 2:
        raise SchemaError(f"{where}: {column} has shape {array.shape}, expected (tokens, width)")
    if any(want not in (None, have) for want, have in zip(asked, array.shape, strict=True)):
        raise SchemaError(
            f"{where}: {column} is {array.shape[0]} x {array.shape[1]}, but cap_seq_size={asked[0]} and "
            f"cap_emb_dim={asked[1]} were given: leave them out, the shards state their shape"
        )
    return array


def further_array(where: object, column: str, encoding: str, stored: str | None) -> StoredArray | None:
    """Return what a further column looks like: a number, caption latents or a mask; None if it is text.

    Raises:
        SchemaError: It is none of these.
    """
    if encoding == TEXT_ENCODING:
        return None
    if encoding in _SCALARS:
        return StoredArray(column, _SCALARS[encoding], ())
    match = _OF_TEXT_ENCODER.fullmatch(column)
    if match and match[1] == "latents" and encoding != "bytes":
        return _latents(where, column, encoding, stored)
    if match and match[1] == "mask" and encoding.startswith("ndarray:uint8:"):
        return StoredArray(column, "uint8", Column.parse(column, encoding).shape or ())
    raise SchemaError(
        f"{where}: column {column!r} is {encoding}, expected text, a number, caption_latents* or caption_mask*"
    )


def is_of_text_encoder(column: str) -> bool:
    """Tell whether a column is one that a text encoder gave."""
    return _OF_TEXT_ENCODER.fullmatch(column) is not None


def _latents(where: object, column: str, encoding: str, stored: str | None) -> StoredArray:
    parsed = Column.parse(column, encoding)
    dtype = "" if parsed.dtype is None else parsed.dtype.name
    if dtype == "uint16" and stored == "bfloat16":
        dtype = stored
    if parsed.shape is None or dtype not in _LATENTS:
        stated = "" if dtype != "uint16" else ", and no manifest says that it is bfloat16"
        raise SchemaError(f"{where}: {column} is {encoding}{stated}, expected latents of {', '.join(_LATENTS)}")
    return StoredArray(column, dtype, parsed.shape)
