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

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from microdiff.config.settings import Problems
from microdiff.core.ledger import Reason
from microdiff.core.printable import escape_key
from microdiff.errors import SourceError
from microdiff.formats.members import is_other, is_picture, stem
from microdiff.formats.parquet import read_parquet
from microdiff.formats.records import Inputs, Partition, Rejection, Sample, not_empty, partition_keys, record
from microdiff.formats.text import BadTextError, captions_problem, parse_json, without_contradictions
from microdiff.formats.zips import Refusal, ZipMember, open_zip, read_picture, zip_members
from microdiff.handlers import Handler
from microdiff.storage import Source
from microdiff.storage.fetched_source import remedy

_FILE = re.compile(r"data/([a-z]+)-([0-9]+)-of-([0-9]+)\.parquet")
_JSON = "data/textcaps/TextCaps_0.1_{}.json"
_ZIP = "images/train_val_images.zip"
_FOLDER = "train_images"  # of the zip, for both splits
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
                yield f"{split}_{escape_key(entry['image_id'])}", entry

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield a partition's records: in the order of rows, or sorted by key."""
        records = _read_zip(partition, inputs) if self.form == "zip" else _read_parquet(partition, inputs)
        return not_empty(records, partition.files[0])


def _read_parquet(partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
    (path,) = partition.files
    split = stem(path).partition("-")[0]
    for number, row in enumerate(read_parquet(inputs.files[path], _COLUMNS, _ROWS_AT_ONCE)):
        image = (row["image"] or {}).get("bytes")
        found = Refusal(Reason.MISSING_IMAGE) if image is None else image
        yield _record(f"{split}_{escape_key(_text(row['image_id']) or '')}", [row], f"{path}#{number}", found)


def _read_zip(partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
    with open_zip(inputs.files[_ZIP]) as archive:
        every = zip_members(archive)
        members = _by_id(every)
        if partition.first_key is None:  # all slices see all members
            named = {entry["image_id"] for _, entry in inputs.annotations.between(None, None)}
            inputs.tally.other_members += len(every) - sum(len(members.get(image_id, ())) for image_id in named)
        rows = inputs.annotations.between(partition.first_key, partition.end_key)
        for key, group in groupby(rows, key=itemgetter(0)):
            entries = [entry for _, entry in group]
            found = members.get(entries[0]["image_id"], [])
            picture: bytes | Refusal = Refusal(Reason.MISSING_IMAGE)
            if found:
                picture = read_picture(archive, found[0])
            differs = any(entry.get("reference_strs") != entries[0].get("reference_strs") for entry in entries)
            if differs or any(not member.is_same(found[0]) for member in found):
                picture = Refusal(Reason.AMBIGUOUS_KEY)
            yield _record(key, entries, f"{_ZIP}/{found[0].name if found else key}", picture)
            for member in found[1:]:  # either the same once more, or ambiguous
                yield _record(key, entries, f"{_ZIP}/{member.name}", picture)


def _by_id(members: Iterable[ZipMember]) -> dict[str, list[ZipMember]]:
    """Return the pictures that each id may mean: those in the folder that the original has, else all others."""
    usual: dict[str, list[ZipMember]] = defaultdict(list)
    others: dict[str, list[ZipMember]] = defaultdict(list)
    for member in members:
        folder, _, name = member.path.rpartition("/")
        number, point, _ = name.rpartition(".")
        if not is_other(member.name) and (is_picture(name) or not point):
            (usual if folder == _FOLDER else others)[number if point else name].append(member)
    return {**others, **usual}


def _record(key: str, entries: Sequence[Mapping[str, Any]], source: str, image: bytes | Refusal) -> Sample | Rejection:
    """Make a record of what one row, or several entries, say of a picture."""
    first = entries[0]
    references, problem = first.get("reference_strs"), ""
    texts: list[object] = []
    for value in [references] if references not in (None, []) else [entry.get("caption_str") for entry in entries]:
        if isinstance(value, list):
            texts += value
        elif value is not None:
            problem = f"expected a list of captions, got {type(value).__name__}"
    problem = problem or captions_problem(texts)
    if isinstance(image, bytes) and problem:
        image = Refusal(Reason.BAD_CAPTION, problem)
    classes = first.get("image_classes")
    return record(
        image if isinstance(image, bytes) else image.reason,
        key=key,
        captions=tuple(text for text in texts if isinstance(text, str)),
        source=source,
        meta={name: _text(first.get(name)) for name in _META}
        | {"image_classes": [_text(each) for each in classes] if isinstance(classes, list) else None},
        cause="" if isinstance(image, bytes) else image.cause,
    )


def _text(value: object) -> str | None:
    """Return a text; one that is not UTF-8 with its bytes as `surrogateescape` has them; of another type, none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else None


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
    needed = frozenset(("data", *_META, *_LISTS))
    try:
        document = parse_json(path.read_bytes(), keep=needed)
    except BadTextError as error:
        raise SourceError(f"{path}: not TextCaps annotations ({error}). {remedy(path)}") from error
    entries = document.get("data") if isinstance(document, dict) else None
    for entry in entries if isinstance(entries, list) and entries else [None]:
        if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), str) or not entry["image_id"]:
            raise SourceError(f"{path}: not TextCaps annotations; expected `data`, a list of entries with an image_id")
        said = without_contradictions(entry)
        yield {**said, "caption_str": [said["caption_str"]] if "caption_str" in said else None}


HANDLER = TextCaps
