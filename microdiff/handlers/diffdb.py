"""DiffusionDB Large: pictures that users of Stable Diffusion made, each with the prompt and settings it was made from.

Source: https://huggingface.co/datasets/poloclub/diffusiondb, as `hf://datasets/poloclub/diffusiondb@<commit>`. Home:
https://github.com/poloclub/diffusiondb. Licence: CC0 1.0. Size: 14,000,000 pictures for about 1,800,000 prompts, in
14,000 zips, 6.5 TB; open. (The smaller set of the same repository, 2M, is part of this one.)
Layout: diffusiondb-large-part-1/part-000001.zip to part-010000.zip, diffusiondb-large-part-2/part-010001.zip to
part-014000.zip, each with a thousand <uuid>.webp, lossless, and part-<number>.json: for each file name p (prompt),
se (seed), c (guidance), st (steps), sa (sampler). metadata-large.parquet has a row for each picture of all zips, with
the scores of two classifiers besides: image_nsfw, where exactly 2 means that the service had blurred the picture, and
prompt_nsfw. A score may be missing: null here, never a number. The parquet file is believed first; what it lacks (a
prompt, a whole row) is taken from the JSON file, which has no scores.
Captions: the prompts, by the users.
Known defects: prompts hold URLs, markup and trailing commas; most occur with several pictures, so splitting by picture
leaks them; some pictures occur twice, some are PNG, a few cannot be decoded, one side may be below 512 pixels.

A record is a picture in a zip, or a row or a name in a JSON file without one. Key: the zip's number and the uuid.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZipFile

import pyarrow as pa

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.archives import BadMember, LargeMember, is_picture, open_zip, read_member, read_picture, stem
from microdiff.formats.parquet import read_parquet, reads_per_row
from microdiff.formats.records import Inputs, Partition, Rejection, Sample
from microdiff.handlers import Handler
from microdiff.storage import Source

_FOLDERS = ("diffusiondb-large-part-1", "diffusiondb-large-part-2")
_ZIP = re.compile(r".*/part-([0-9]+)\.zip")
_METADATA = "metadata-large.parquet"
_INTEGERS = ("part_id", "seed", "step", "sampler", "width", "height")
_TEXTS = ("image_name", "prompt", "user_name")
_DECIMALS = ("cfg", "image_nsfw", "prompt_nsfw")  # float32: 0.2 as a double is 0.200000003, but as text it is 0.2
_COLUMNS = pa.schema(
    [(name, pa.int64()) for name in _INTEGERS]
    + [(name, pa.string()) for name in _TEXTS + _DECIMALS]
    + [("timestamp", pa.timestamp("us"))]
)
_ROWS_AT_ONCE = 32768
_MOST_READS = 100  # of each row of the metadata: sorting them all once takes as long as some 100 reads
_SAMPLERS = re.findall(r"\w+", "ddim plms k_euler k_euler_ancestral k_heun k_dpm_2 k_dpm_2_ancestral k_lms others")
_NOTES = {"prompt": "p", "seed": "se", "step": "st", "cfg": "c", "sampler": "sa"}


@dataclass(frozen=True, kw_only=True)
class DiffusionDB(Handler):
    """All of DiffusionDB Large; it has no settings of its own."""

    licence: ClassVar[str] = "CC0 1.0"

    def partitions(self, source: Source) -> Sequence[Partition]:
        """List the zips, by their numbers."""
        paths = [path for folder in _FOLDERS for path in source.list(folder)]
        found = [(match[1], path) for path in paths if (match := _ZIP.fullmatch(path))]
        digits = max((len(number) for number, _ in found), default=0)
        by_number: dict[int, str] = {}
        for number, path in found:
            if by_number.setdefault(int(number), path) != path:
                raise SourceError(f"{source.name}: {path} and {by_number[int(number)]} have the same number")
        if not by_number:
            raise SourceError(f"{source.name}: expected part-*.zip in {' and '.join(_FOLDERS)}, found none")
        return [
            Partition(name=f"{number:0{digits}d}", number=number, files=(path, _METADATA))
            for number, path in sorted(by_number.items())
        ]

    def annotation_files(self, source: Source) -> Sequence[str]:
        """Return the metadata."""
        return (_METADATA,)

    def read_annotations(self, files: Mapping[str, Path]) -> Iterator[tuple[str, Any]]:
        """Yield the rows of the metadata by their part, where reading a part's would mean reading most of the file."""
        if _is_slow(files[_METADATA]):
            for row in read_parquet(files[_METADATA], _COLUMNS, _ROWS_AT_ONCE):
                if row["part_id"] is not None:
                    yield _part_key(row["part_id"]), _plain(row)

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield a zip's records, sorted by uuid."""
        path = partition.files[0]
        rows, members = defaultdict(list), defaultdict(list)
        for row in _rows(inputs, partition.number):
            rows[stem(row["image_name"])].append(row)
        with open_zip(inputs.files[path]) as archive:
            for name in sorted(filter(is_picture, archive.namelist())):
                members[stem(name)].append(name)
            notes = _notes(archive)
            for uuid in sorted({*members, *rows, *notes}):
                note = notes.get(uuid, {})
                for member, row in list(zip_longest(members[uuid], rows[uuid])) or [(None, None)]:
                    prompt = note.get("prompt") if row is None or row["prompt"] is None else row["prompt"]
                    facts: dict[str, Any] = {
                        "key": f"{partition.name}_{uuid}",
                        "captions": () if prompt is None else (str(prompt),),
                        "source": f"{path}/{member or uuid}",
                        "meta": _meta(note if row is None else row),
                    }
                    found = Reason.MISSING_IMAGE if member is None else read_picture(archive, member)
                    if isinstance(found, Reason):
                        yield Rejection(reason=found, **facts)
                    else:
                        yield Sample(image=found, **facts)


def _rows(inputs: Inputs, part: int) -> list[dict[str, Any]]:
    """Read a part's rows of the metadata, sorted by name."""
    path, key = inputs.files[_METADATA], _part_key(part)
    if _is_slow(path):
        rows = [row for _, row in inputs.annotations.between(key, f"{key}\0")]
    else:
        rows = [_plain(row) for row in read_parquet(path, _COLUMNS, _ROWS_AT_ONCE, ("part_id", part))]
    return sorted(rows, key=lambda row: row["image_name"])


def _is_slow(metadata: Path) -> bool:
    """Tell whether the rows of one part are anywhere in the metadata, or in a row group with those of many others."""
    return reads_per_row(metadata, "part_id") > _MOST_READS


def _part_key(part: int) -> str:
    return f"{part:09d}"


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the metadata as JSON values."""
    sampler = dict(enumerate(_SAMPLERS, 1)).get(row["sampler"])
    timestamp = row["timestamp"] and f"{row['timestamp'].isoformat()}Z"
    decimals = {name: _number(row[name] or "nan") for name in _DECIMALS}
    return {**row, "image_name": row["image_name"] or "", "sampler": sampler, "timestamp": timestamp, **decimals}


def _notes(archive: ZipFile) -> dict[str, dict[str, Any]]:
    """Read what the zip's JSON file says, by uuid; nothing where it is missing or damaged."""
    notes: dict[str, dict[str, Any]] = {}
    for name in sorted(name for name in archive.namelist() if name.endswith(".json")):
        try:
            document = json.loads(read_member(archive, name), parse_float=_number, parse_constant=_number)
        except (BadMember, LargeMember, ValueError, RecursionError):
            continue
        for file, value in document.items() if isinstance(document, dict) else ():
            entry = value if isinstance(value, dict) else {}
            notes[stem(file)] = {
                name: entry[short] for name, short in _NOTES.items() if isinstance(entry.get(short), str | int | float)
            }
    return notes


def _meta(facts: dict[str, Any]) -> dict[str, Any]:
    """Return everything but what the sample has elsewhere; None for what is not known."""
    elsewhere = ("image_name", "prompt", "part_id")
    return {name: facts.get(name) for name in _COLUMNS.names if name not in elsewhere}


def _number(text: str) -> float | None:
    """Return the number a text stands for; None for NaN and infinity."""
    number = float(text)
    return number if math.isfinite(number) else None


HANDLER = DiffusionDB
