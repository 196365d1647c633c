"""TextCaps: photographs with text in them, each with five captions that use it, in two forms of the same data.

`form: parquet`. Source: https://huggingface.co/datasets/lmms-lab/TextCaps, as `hf://datasets/lmms-lab/TextCaps@<commit>`,
a copy with the pictures in its rows; 8 GB, open. Layout: data/<split>-<number>-of-<how many>.parquet; the validation
split is called `val`. A partition is a file; records come in the order of its rows.

`form: zip`. Source: https://dl.fbaipublicfiles.com/textvqa, the original. Layout:
data/textcaps/TextCaps_0.1_<split>.json has an entry per caption, each with all that is said of the picture, all five
captions included (181 MB for train); images/train_val_images.zip, which is TextVQA's, has train_images/<id>.jpg for
both splits. A partition is a slice of the pictures sorted by key. A picture that no entry names is TextVQA's alone, or
of a split not asked for, and no record.

Home: https://textvqa.org/textcaps. Licence: CC BY 4.0; pictures are from Open Images (Flickr). Size: train 21,953
pictures, val 3,166; the test split has no captions and is not read. Captions: by people, five per picture, none better
than another; `clean.caption` chooses. The published pipeline trains on both splits, with the first.
Known defects: pictures that lie on their side and say so in EXIF; dead Flickr URLs; TextVQA has the same pictures.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from microdiff.config.settings import Problems
from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.archives import is_picture, open_zip, read_picture, stem
from microdiff.formats.parquet import read_parquet
from microdiff.formats.records import Inputs, Partition, Rejection, Sample, partition_keys
from microdiff.handlers import Handler
from microdiff.storage import Source
from microdiff.storage.fetched_source import remedy

_FILE = re.compile(r"data/([a-z]+)-([0-9]+)-of-([0-9]+)\.parquet")
_JSON = "data/textcaps/TextCaps_0.1_{}.json"
_ZIP = "images/train_val_images.zip"
_META = ("image_id", "set_name", "flickr_original_url", "flickr_300k_url")
_LISTS = ("image_classes", "caption_str", "reference_strs")  # in JSON, caption_str is one
_COLUMNS = pa.schema(
    [("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    + [(name, pa.string()) for name in _META]
    + [(name, pa.list_(pa.string())) for name in _LISTS]
)
_ROWS_AT_ONCE = 16  # a picture is in each


@dataclass(frozen=True, kw_only=True)
class TextCaps(Handler):
    """TextCaps in one of its forms.

    Attributes:
        form: What the source holds.
        splits: Which splits. Partitions are numbered through all of them, those of `train` first.
        images_per_partition: Of the form `zip`: how many pictures a slice has.
    """

    licence: ClassVar[str] = "CC BY 4.0; pictures from Open Images"

    form: Literal["parquet", "zip"]
    splits: tuple[Literal["train", "val"], ...]
    images_per_partition: int = 1000

    def problems(self) -> Problems:
        """Yield settings out of range."""
        if sorted(self.splits) not in (["train"], ["val"], ["train", "val"]):
            yield "splits", f"expected train, val, or both, got {list(self.splits)}"
        if self.images_per_partition < 1:
            yield "images_per_partition", f"expected at least 1, got {self.images_per_partition}"

    def partitions(self, source: Source) -> Sequence[Partition]:
        """List the splits' files, or cut the pictures that the JSON files name into slices."""
        if self.form == "parquet":
            paths = [path for split in sorted(self.splits) for path in _files(source, split)]
            return [Partition(name=f"{i:04d}", number=i, files=(path,)) for i, path in enumerate(paths)]
        files = {path: source.fetch(source.stat(path)) for path in self.annotation_files(source)}
        return partition_keys(
            sorted({key for key, _ in self.read_annotations(files)}), self.images_per_partition, (_ZIP,)
        )

    def annotation_files(self, source: Source) -> Sequence[str]:
        """Return the splits' JSON files; the form `parquet` has none."""
        return [_JSON.format(split) for split in sorted(self.splits)] if self.form == "zip" else []

    def read_annotations(self, files: Mapping[str, Path]) -> Iterator[tuple[str, Any]]:
        """Yield the entries of captions, by the key of the picture."""
        for split in self.splits if files else ():
            for entry in _entries(files[_JSON.format(split)]):
                yield f"{split}_{stem(entry['image_id'])}", entry

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield a partition's records: in the order of rows, or sorted by key."""
        return _read_zip(partition, inputs) if self.form == "zip" else _read_parquet(partition, inputs)


def _read_parquet(partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
    (path,) = partition.files
    split = stem(path).partition("-")[0]
    for number, row in enumerate(read_parquet(inputs.files[path], _COLUMNS, _ROWS_AT_ONCE)):
        image = (row["image"] or {}).get("bytes")
        found = Reason.MISSING_IMAGE if image is None else image
        yield _record(f"{split}_{stem(row['image_id'] or '')}", [row], f"{path}#{number}", found)


def _read_zip(partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
    with open_zip(inputs.files[_ZIP]) as archive:
        members = {stem(name): name for name in sorted(archive.namelist(), reverse=True) if is_picture(name)}
        rows = inputs.annotations.between(partition.first_key, partition.end_key)
        for key, group in groupby(rows, key=itemgetter(0)):
            entries = [entry for _, entry in group]
            member = members.get(stem(entries[0]["image_id"]))
            found = Reason.MISSING_IMAGE if member is None else read_picture(archive, member)
            yield _record(key, entries, f"{_ZIP}/{member or key}", found)


def _record(key: str, entries: Sequence[Mapping[str, Any]], source: str, image: bytes | Reason) -> Sample | Rejection:
    """Make a record of what one row, or several entries, say of a picture."""
    first = entries[0]
    texts = first.get("reference_strs") or [text for entry in entries for text in entry["caption_str"] or ()]
    captions = tuple(text for text in texts if isinstance(text, str))
    meta = {name: first.get(name) for name in (*_META, "image_classes")}
    facts: dict[str, Any] = {"key": key, "captions": captions, "source": source, "meta": meta}
    return Rejection(reason=image, **facts) if isinstance(image, Reason) else Sample(image=image, **facts)


def _files(source: Source, split: str) -> list[str]:
    """Return the paths of a split's files, of which each says how many there are."""
    found = [match for path in source.list("data") if (match := _FILE.fullmatch(path)) and match[1] == split]
    announced = {f"data/{split}-{i:0{len(m[2])}d}-of-{m[3]}.parquet" for m in found for i in range(int(m[3]))}
    paths = {match[0] for match in found}
    if not found or announced != paths:
        missing = ", ".join(sorted(announced - paths)) or f"data/{split}-00000-of-00001.parquet or more"
        raise SourceError(f"{source.name}: expected {missing}; found {', '.join(sorted(paths)) or 'none'}")
    return sorted(paths)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """Read a JSON file: an entry per caption. What is not needed, most of it, is dropped as soon as it is read."""
    needed = ("data", *_META, *_LISTS)
    try:
        document = json.loads(path.read_bytes(), object_hook=lambda item: {k: item[k] for k in needed if k in item})
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: not TextCaps annotations ({error}). {remedy(path)}") from error
    entries = document.get("data") if isinstance(document, dict) else None
    for entry in entries if isinstance(entries, list) and entries else [None]:
        if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), str):
            raise SourceError(f"{path}: not TextCaps annotations; expected `data`, a list of entries with an image_id")
        yield {**entry, "caption_str": [entry.get("caption_str")]}


HANDLER = TextCaps
