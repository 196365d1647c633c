"""Parquet files with pictures in their rows, by path or by URL, as on the Hugging Face hub: `kind: parquet`.

Where the pictures are in the rows, a row group is a partition: what is fetched and computed at once. Where rows only
name them, parquet is one more form of table (`microdiff.kinds.tables`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from microdiff.core.ledger import Reason
from microdiff.core.printable import escape_key
from microdiff.errors import SourceError
from microdiff.formats.archives import MAX_MEMBER_BYTES
from microdiff.formats.records import Inputs, Partition, Rejection, Sample, not_empty
from microdiff.kinds import Listed, Listing
from microdiff.kinds.archives import numbered
from microdiff.kinds.captions import as_columns, decided, from_values, plain_values
from microdiff.kinds.partition_list import partition_name
from microdiff.kinds.rows import without_extension
from microdiff.kinds.tables import Tables, matching
from microdiff.storage import Source
from microdiff.storage.fetched_source import remedy

_ROWS_AT_ONCE = 16  # a picture is in each


@dataclass(frozen=True, kw_only=True)
class RowGroup(Partition):
    """A row group of a parquet file.

    Attributes:
        group: Its number in the file.
        first_row: The number of its first row in the file, from 0.
    """

    group: int
    first_row: int


@dataclass(frozen=True, kw_only=True)
class Parquet(Tables):
    """Parquet files. `key` null: the file's path without its extension, and the row's number in it."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)

    def survey(self, source: Source, place: Path, recorded: Path) -> Listing:
        """List the row groups, or the pictures that rows name."""
        groups: dict[str, tuple[str, int, int, int]] = {}
        files = matching(source, self.files, self.suffixes)
        for path in files:
            file = source.stat(path)
            try:
                with source.open(file) as stream, pq.ParquetFile(stream) as parquet:
                    kind = self._image_type(path, parquet.schema_arrow)
                    counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            except (pa.ArrowException, OSError) as error:
                raise SourceError(f"{source.name}/{path}: not a complete parquet file ({error})") from error
            if _is_text(kind):
                return super().survey(source, place, recorded)
            for i, count in enumerate(counts):
                if count:
                    groups[f"{path}#{i}"] = (path, i, sum(counts[:i]), count)
        if not groups:
            raise SourceError(f"{source.name}: {', '.join(files[:3])}: no rows")
        partitions = []
        for number, unit in numbered(list(groups), recorded):
            path, group, first, count = groups[unit]
            made = RowGroup(
                name=partition_name(number),
                number=number,
                files=(path,),
                num_records=count,
                group=group,
                first_row=first,
            )
            partitions.append(made)
        return Listing(partitions)

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield the records of a row group in its order, or those of other partitions sorted by key."""
        if isinstance(partition, Listed):
            yield from super().read(partition, inputs)
        elif isinstance(partition, RowGroup):
            yield from not_empty(self._read_group(partition, inputs.files[partition.files[0]]), partition.files[0])

    def _read_group(self, part: RowGroup, local: Path) -> Iterator[Sample | Rejection]:
        (path,) = part.files
        captions, prefix = as_columns(self.caption), escape_key(without_extension(path))
        named = (self.image, *captions, *((self.key,) if self.key else ()))
        try:
            with pq.ParquetFile(local, pre_buffer=False, buffer_size=2**20) as parquet:
                self._image_type(path, parquet.schema_arrow)
                columns = [each.name for each in parquet.schema_arrow if each.name in named or _is_plain(each.type)]
                number = part.first_row
                for batch in parquet.iter_batches(_ROWS_AT_ONCE, [part.group], columns, use_threads=False):
                    for row in _rows(batch):
                        yield self._record(row, prefix, f"{path}#{number}", number, captions, named)
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{local}: not a complete parquet file ({error}). {remedy(local)}") from error

    def _record(
        self,
        row: Mapping[str, Any],
        prefix: str,
        source: str,
        number: int,
        captions: Sequence[str],
        named: Sequence[str],
    ) -> Sample | Rejection:
        value, meta = row[self.image], plain_values(row, named)
        if isinstance(value, dict):
            meta = {**plain_values({"path": value.get("path")}), **meta}
            value = value.get("bytes")
        texts, problem = from_values([row[name] for name in captions])
        key, image, cause = f"{prefix}_{number:06d}", Reason.MISSING_IMAGE, ""
        if self.key is not None:
            own = row[self.key]
            if isinstance(own, str | int) and not isinstance(own, bool) and own != "":
                key = escape_key(str(own))
            else:
                problem = problem or f"no key in {self.key}"
        if isinstance(value, bytes) and len(value) > MAX_MEMBER_BYTES:
            return decided(Reason.TOO_LARGE, key, texts, problem, source, meta)
        return decided(value if isinstance(value, bytes) else image, key, texts, problem, source, meta, cause)

    def _image_type(self, path: str, schema: pa.Schema) -> pa.DataType:
        """Return the type of the column of pictures.

        Raises:
            SourceError: A column is missing, or of a type that holds no pictures.
        """
        wanted = (self.image, *as_columns(self.caption), *((self.key,) if self.key else ()))
        if missing := [name for name in wanted if name not in schema.names]:
            raise SourceError(
                f"{path}: has no column {', '.join(missing)}, but {', '.join(schema.names)[:300]}.\n"
                "Check datasets.*.download: image, caption, key."
            )
        kind = schema.field(self.image).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        if not (_is_text(kind) or _is_binary(inner)):
            raise SourceError(
                f"{path}: {self.image} is {kind}; expected bytes, a struct with bytes, or text with a path or URL. "
                "Check datasets.*.download.image."
            )
        return kind


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield rows; a text that is not UTF-8 comes as its bytes, which are none."""
    for i in range(batch.num_rows):
        row = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[name] = column[i].as_py()
            except (UnicodeDecodeError, ValueError, OverflowError):
                row[name] = b""
        yield row


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind)) or str(kind) == "string_view"


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) or str(kind) == "binary_view"


def _is_plain(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return _is_text(kind) or bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


HANDLER = Parquet
