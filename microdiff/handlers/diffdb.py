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

A record is a member of a zip, or a row or a name in a JSON file without one. Key: the zip's number and the uuid.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from zipfile import ZipFile

import pyarrow as pa

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.members import Tally, is_other, stem_key
from microdiff.formats.parquet import read_parquet, reads_per_row
from microdiff.formats.records import Inputs, Partition, Rejection, Sample, not_empty, record
from microdiff.formats.text import CONTRADICTION, BadTextError, caption_problem, parse_json
from microdiff.formats.zips import (
    BadMemberError,
    LargeMemberError,
    Refusal,
    UnsupportedMemberError,
    ZipMember,
    open_zip,
    read_member,
    read_picture,
    zip_members,
)
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
_NOTES = {"seed": "se", "step": "st", "cfg": "c", "sampler": "sa"}
_NOTHING = object()  # no prompt at all


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
            for row in read_parquet(files[_METADATA], _COLUMNS, _ROWS_AT_ONCE, as_text=_DECIMALS):
                if row["part_id"] is not None:
                    prompt = row["prompt"]
                    as_hex = {"prompt": prompt.hex(), "is_hex": True} if isinstance(prompt, bytes) else {}
                    yield _part_key(row["part_id"]), _plain(row) | as_hex

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield a zip's records, sorted by uuid."""
        return not_empty(_read(partition, inputs), partition.files[0])


class _Named(NamedTuple):
    """What a zip and its rows say of one file, or of all files of one uuid."""

    members: list[ZipMember]
    rows: list[dict[str, Any]]
    notes: list[object]


def _read(partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
    path = partition.files[0]
    with open_zip(inputs.files[path]) as archive:
        files = _files(archive, _rows(inputs, partition.number), inputs.tally)
        match = _ZIP.fullmatch(path)
        prefix = match[1] if match else partition.name  # as the zip has it: other zips beside it change no key
        for key in sorted(files):
            for said in _apart(files[key]):
                yield from _records(archive, f"{prefix}_{key}", path, key, said)


def _files(archive: ZipFile, rows: Iterable[dict[str, Any]], tally: Tally) -> dict[str, dict[str, _Named]]:
    """Return what there is of each file, by the key of its name without extension, then by its name."""
    files: dict[str, dict[str, _Named]] = defaultdict(lambda: defaultdict(lambda: _Named([], [], [])))
    wanted = tally.unless(is_other)
    for member in sorted(zip_members(archive), key=lambda member: member.name):
        name = member.path.rpartition("/")[2]
        if member.name.lower().endswith(".json"):
            tally.other_members += 1
            for file, note in _notes(archive, member):
                files[stem_key(file)][file].notes.append(note)
        elif wanted(member.name):
            files[stem_key(name)][name].members.append(member)
    for row in rows:
        files[stem_key(row["image_name"])][row["image_name"]].rows.append(row)
    return files


def _apart(by_name: Mapping[str, _Named]) -> list[_Named]:
    """Tell files of one uuid apart by their whole names; a picture of which nothing is said may differ in extension."""
    named = [by_name[name] for name in sorted(by_name)]
    together = _Named(*(list(chain(*lists)) for lists in zip(*named, strict=True)))
    is_said = any(each.members and (each.rows or each.notes) for each in named)
    is_said = is_said or len({name.rpartition(".")[0] for name in by_name}) > 1
    return named if is_said or any(len(each) > 1 for each in together) else [together]


def _records(archive: ZipFile, key: str, path: str, uuid: str, said: _Named) -> Iterator[Sample | Rejection]:
    """Yield a record for each picture of one name, or for each row where there are more.

    Where pictures or rows of one name differ, nobody knows which row is of which picture.
    """
    ambiguous = any(not member.is_same(said.members[0]) for member in said.members)
    ambiguous = ambiguous or any(row != said.rows[0] for row in said.rows)
    note = said.notes[0] if said.notes else None
    for number in range(max(len(said.members), len(said.rows), 1)):
        member = said.members[number] if number < len(said.members) else None
        row = said.rows[min(number, len(said.rows) - 1)] if said.rows else None
        prompt: object = _NOTHING
        if row is not None and row["prompt"] is not None:
            prompt = row["prompt"]
        elif isinstance(note, dict):
            prompt = note.get("p", _NOTHING)
            ambiguous = ambiguous or any(other != note for other in said.notes)
        elif note is CONTRADICTION:
            ambiguous = True
        found: bytes | Refusal = Refusal(Reason.MISSING_IMAGE)
        if ambiguous and said.members:
            found = Refusal(Reason.AMBIGUOUS_KEY)
        elif member is not None:
            found = read_picture(archive, member)
        if isinstance(found, bytes) and prompt is not _NOTHING and (cause := caption_problem(prompt)):
            found = Refusal(Reason.BAD_CAPTION, cause)
        yield record(
            found if isinstance(found, bytes) else found.reason,
            key=key,
            captions=(prompt,) if isinstance(prompt, str) else (),
            source=f"{path}/{member.name if member else uuid}",
            meta=_meta(_facts(note) if row is None else row),
            cause="" if isinstance(found, bytes) else found.cause,
        )


def _rows(inputs: Inputs, part: int) -> list[dict[str, Any]]:
    """Read a part's rows of the metadata, sorted by name."""
    path, key = inputs.files[_METADATA], _part_key(part)
    if _is_slow(path):
        rows = [_unhexed(row) for _, row in inputs.annotations.between(key, f"{key}\0")]
    else:
        found = read_parquet(path, _COLUMNS, _ROWS_AT_ONCE, ("part_id", part), _DECIMALS)
        rows = [_plain(row) for row in found]
    return sorted(rows, key=lambda row: row["image_name"])


def _is_slow(metadata: Path) -> bool:
    """Tell whether the rows of one part are anywhere in the metadata, or in a row group with those of many others."""
    return reads_per_row(metadata, "part_id") > _MOST_READS


def _part_key(part: int) -> str:
    return f"{part:09d}"


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the metadata as JSON values, but for a prompt that is not UTF-8."""
    return {
        **row,
        "image_name": _text(row["image_name"]) or "",
        "user_name": _text(row["user_name"]),
        "sampler": dict(enumerate(_SAMPLERS, 1)).get(row["sampler"]),
        "timestamp": row["timestamp"] and f"{row['timestamp'].isoformat()}Z",
        **{name: _number(row[name] or "nan") for name in _DECIMALS},
    }


def _unhexed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table with its prompt as the metadata have it."""
    return {**row, "prompt": bytes.fromhex(row["prompt"])} if row.pop("is_hex", False) else row


def _notes(archive: ZipFile, member: ZipMember) -> list[tuple[str, object]]:
    """Read what a JSON file of the zip says of each file; nothing where it is damaged."""
    try:
        document = parse_json(read_member(archive, member), number=_number)
    except (BadMemberError, UnsupportedMemberError, LargeMemberError, BadTextError):
        return []
    return list(document.items()) if isinstance(document, dict) else []


def _facts(note: object) -> dict[str, Any]:
    """Return the plain values of a note."""
    entry = note if isinstance(note, dict) else {}
    return {name: entry[short] for name, short in _NOTES.items() if isinstance(entry.get(short), str | int | float)}


def _meta(facts: dict[str, Any]) -> dict[str, Any]:
    """Return everything but what the sample has elsewhere; None for what is not known."""
    elsewhere = ("image_name", "prompt", "part_id")
    return {name: facts.get(name) for name in _COLUMNS.names if name not in elsewhere}


def _text(value: str | bytes | None) -> str | None:
    """Return a text; one that is not UTF-8 with its bytes as `surrogateescape` has them."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _number(text: str) -> float | None:
    """Return the number a text stands for; None for NaN and infinity."""
    number = float(text)
    return number if math.isfinite(number) else None


HANDLER = DiffusionDB
