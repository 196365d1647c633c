"""Captions and what else a source says of a picture, from text files, JSON, or a row of a table."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from microdiff.core.ledger import Reason
from microdiff.formats.records import Rejection, Sample, record
from microdiff.formats.text import CONTRADICTION, BadTextError, caption_problem, decode_text, parse_json

_ALL_TEXTS = (".csv", ".tsv")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?")
Columns = str | tuple[str, ...]


def as_columns(names: Columns) -> tuple[str, ...]:
    """Return a setting that is a name, or several, as several."""
    return (names,) if isinstance(names, str) else names


def from_values(values: Sequence[object]) -> tuple[tuple[str, ...], str]:
    """Return the captions that values hold, and what is wrong with one of them.

    Null is no caption; a list has several, lists in it too.
    """
    captions, problem = [], ""
    for value in _flat(values):
        if isinstance(value, bytes) or (isinstance(value, str) and _is_broken(value)):
            wrong = "not UTF-8"
        else:
            wrong = caption_problem(value)
        if wrong:
            problem = problem or wrong
        else:
            captions.append(str(value))
    return tuple(captions), problem


def from_file(data: bytes, field: str | None, fallback: str | None) -> tuple[tuple[str, ...], str, Mapping[str, Any]]:
    """Return the captions of a file beside a picture, what is wrong with one, and what else it says.

    Args:
        data: The file's bytes.
        field: Of JSON: its name; None for a text.
        fallback: As for `decode_text`.
    """
    try:
        if field is None:
            return (decode_text(data, fallback),), "", {}
        document = parse_json(data, fallback)
    except BadTextError as error:
        return (), str(error), {}
    if not isinstance(document, dict):
        return (), f"expected a JSON object, got {type(document).__name__}", {}
    captions, problem = from_values([document[field]] if field in document else [])
    return captions, problem, plain_values(document, (field,))


def plain_values(row: Mapping[str, Any], besides: Sequence[str | None] = (), table: str = "") -> dict[str, Any]:
    """Return those values that can be in `meta`: texts, numbers, true and false.

    Args:
        row: Values by name.
        besides: Names to leave out.
        table: What the row is from: in CSV and TSV, numbers are texts, and taken for the numbers they look like.
    """
    if table.lower().endswith(_ALL_TEXTS):
        row = {name: _number(value) for name, value in row.items()}
    return {
        name: value
        for name, value in row.items()
        if name not in besides
        and value is not CONTRADICTION
        and (isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)))
        and not (isinstance(value, int) and not -(2**63) <= value < 2**63)
    }


def json_value(value: Any) -> Any:
    """Return a value as JSON can have it; what is no text, number or list of these becomes an empty object."""
    if isinstance(value, list | tuple):
        return [json_value(each) for each in value]
    return value if value is None or isinstance(value, str | int | float) else {}


def decided(
    image: bytes | Reason,
    key: str,
    captions: tuple[str, ...],
    problem: str,
    source: str,
    meta: Mapping[str, Any],
    cause: str = "",
) -> Sample | Rejection:
    """Make a record: of a picture whose caption is none, a rejection."""
    if isinstance(image, bytes) and problem:
        return record(Reason.BAD_CAPTION, key, captions, source, meta, problem)
    return record(image, key, captions, source, meta, "" if isinstance(image, bytes) else cause)


def _flat(values: Sequence[object]) -> Iterator[object]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        elif value is not None:
            yield value


def _number(value: Any) -> Any:
    """Return the number that a text is; any other value as it is, numbers with leading zeros, which are names, too."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    return int(value) if _WHOLE.fullmatch(value) else float(value)


def _is_broken(text: str) -> bool:
    """Tell whether a text has bytes that were no UTF-8, as `surrogateescape` has them."""
    return any("\udc80" <= mark <= "\udcff" for mark in text)
