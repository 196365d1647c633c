"""The latents format: safetensors files written in bounded memory and read row by row.

Each file holds its tensors and, as metadata, the keys of every tensor's rows in order, the rejected keys with their
reasons, and the description of the encoder, so that it can be read without anything beside it.

numpy has no bfloat16: here such values are their 16 bits, as uint16, and the file says that they are bfloat16.
"""

import json
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from microdiff.core.regular_files import open_regular
from microdiff.core.untrusted import are_texts, is_number, load_json
from microdiff.errors import SchemaError

_TYPE_NAMES = {"float16": "F16", "float32": "F32", "bfloat16": "BF16", "uint8": "U8"}  # safetensors' own
_DTYPES = {name: dtype for dtype, name in _TYPE_NAMES.items()}
_COPY_BYTES = 16 * 2**20


class Spool:
    """Rows of one tensor on their way to a file, kept in a temporary file.

    Args:
        path: Of the temporary file.
        dtype: `float16`, `float32`, `bfloat16` or `uint8`; rows of bfloat16 are uint16.
    """

    def __init__(self, path: Path, dtype: str = "float16") -> None:
        self.type_name = _TYPE_NAMES[dtype]
        self.dtype = in_numpy(dtype)
        self.row_shape: tuple[int, ...] | None = None
        self.num_rows = 0
        self._path = path
        self._file: IO[bytes] = path.open("w+b")

    def __enter__(self) -> "Spool":
        """Return the spool."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the temporary file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def append(self, row: NDArray[Any]) -> int:
        """Add one row and return its index.

        Raises:
            ValueError: Its dtype or shape is not that of the rows before.
        """
        if self.row_shape is None:
            self.row_shape = row.shape
        if row.dtype != self.dtype or row.shape != self.row_shape:
            raise ValueError(f"expected {self.dtype} {self.row_shape}, got {row.dtype} {row.shape}")
        self._file.write(np.ascontiguousarray(row).data)
        self.num_rows += 1
        return self.num_rows - 1

    def copy_to(self, out: IO[bytes], order: Sequence[int] | None) -> None:
        """Write all rows to `out`, or those of `order`."""
        self._file.flush()
        self._file.seek(0)
        if order is None:
            shutil.copyfileobj(self._file, out, _COPY_BYTES)
            return
        row_bytes = self.row_bytes
        for index in order:
            self._file.seek(index * row_bytes)
            out.write(self._file.read(row_bytes))

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return int(np.prod(self.row_shape or (0,))) * self.dtype.itemsize


@dataclass(frozen=True)
class TensorToWrite:
    """One tensor to write: its rows' keys in order, the rows, and which of them, if not all in order."""

    keys: Sequence[str]
    rows: Spool
    order: Sequence[int] | None = None


def write_latents(
    path: Path, tensors: Mapping[str, TensorToWrite], encoder: Mapping[str, Any], rejected: Mapping[str, str]
) -> None:
    """Write a latents file.

    Args:
        path: Its name.
        tensors: By name; those without rows are left out.
        encoder: Describes what made them; JSON values.
        rejected: Reasons by key.
    """
    tensors = {name: tensor for name, tensor in sorted(tensors.items()) if tensor.keys}
    facts = {
        "keys": {name: list(tensor.keys) for name, tensor in tensors.items()},
        "encoder": dict(encoder),
        "rejected": dict(rejected),
    }
    metadata = {name: json.dumps(value, sort_keys=True, ensure_ascii=False) for name, value in facts.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in tensors.items():
        num_bytes = len(tensor.keys) * tensor.rows.row_bytes
        header[name] = {
            "dtype": tensor.rows.type_name,
            "shape": [len(tensor.keys), *(tensor.rows.row_shape or ())],
            "data_offsets": [offset, offset + num_bytes],
        }
        offset += num_bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            tensor.rows.copy_to(out, tensor.order)


class LatentsFile:
    """An open latents file.

    Attributes:
        encoder: Description of the encoder.
        rejected: Reasons by key.

    Raises:
        SchemaError: The file is missing, damaged or not a latents file.
    """

    def __init__(self, path: Path) -> None:
        try:
            with os.fdopen(open_regular(path), "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > os.fstat(file.fileno()).st_size:
                    raise ValueError("it is shorter than its header")
                header = load_json(file.read(length))
            facts = {name: load_json(text) for name, text in header.pop("__metadata__").items()}
            self._keys: dict[str, list[str]] = facts["keys"]
            self.encoder: dict[str, Any] = facts["encoder"]
            self.rejected: dict[str, str] = facts["rejected"]
            if not isinstance(self.encoder, dict) or not are_texts(self.rejected):
                raise ValueError("its encoder or its rejected keys are none")
            if not all(isinstance(key, str) for keys in self._keys.values() for key in keys):
                raise ValueError("its keys are none")
            self._dtypes = {name: _DTYPES[entry["dtype"]] for name, entry in header.items()}
            self._offsets: dict[str, int] = {
                name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()
            }
            self._rows = {name: _map_rows(path, 8 + length, entry) for name, entry in header.items()}
        except (FileNotFoundError, NotADirectoryError):
            raise SchemaError(f"{path}: no such file.") from None
        except (ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
            raise SchemaError(f"{path}: not a latents file, or damaged ({error!r}).") from error

    @property
    def names(self) -> list[str]:
        """Names of the tensors."""
        return sorted(self._rows)

    def keys(self, name: str) -> list[str]:
        """Return the keys of a tensor's rows in order; empty if the file has no such tensor."""
        return self._keys.get(name, [])

    def rows(self, name: str) -> NDArray[Any]:
        """Return a tensor, memory-mapped: reading a row reads that row only. bfloat16 comes as uint16."""
        return self._rows[name]

    def offset(self, name: str) -> int:
        """Return where in the file a tensor's first row is, in bytes."""
        return self._offsets[name]

    def dtype(self, name: str) -> str:
        """Return what a tensor's values are: `float16`, `float32`, `bfloat16` or `uint8`."""
        return self._dtypes[name]


def in_numpy(dtype: str) -> "np.dtype[Any]":
    """Return numpy's type for values of a stored dtype: its own, but uint16 for the bits of bfloat16."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def _map_rows(path: Path, start: int, entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype, shape = in_numpy(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    first, end = entry["data_offsets"]
    size = path.stat().st_size - start
    if not all(is_number(side, 1, size) for side in shape) or not is_number(first, 0, size):
        raise ValueError(f"a tensor of shape {shape!r:.80} at {first!r:.80}")
    if not is_number(end, 0, size) or end - first != prod(shape) * dtype.itemsize:
        raise ValueError("it is shorter than its header says")
    return np.memmap(path, dtype=dtype, mode="r", offset=start + first, shape=shape)
